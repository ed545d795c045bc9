"""Generated rows: made once, kept, and made only by what is installed for it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path

import pyarrow as pa
import pytest

from flanlab.data import generators
from flanlab.data.generators import generated_files, mathematics
from flanlab.data.sources import load_rows
from flanlab.errors import FlanlabError
from flanlab.tasks.schema import Task

CALLS: list[str | None] = []


def count_up(config: str | None) -> dict[str, pa.Table]:
    CALLS.append(config)
    return {"train": pa.table({"text": ["one", "two", "three"], "label": [0, 1, 0]})}


def slow(config: str | None) -> dict[str, pa.Table]:
    time.sleep(0.1)
    return count_up("slow")


def broken(config: str | None) -> dict[str, pa.Table]:
    raise FlanlabError("out of numbers")


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLANLAB_CACHE", str(tmp_path / "cache"))
    entries = [EntryPoint(name, f"{__name__}:{name}", generators.GROUP) for name in ("count_up", "slow", "broken")]
    monkeypatch.setattr(generators, "entry_points", lambda group: entries if group == generators.GROUP else [])
    CALLS.clear()


def test_rows_are_generated_once_and_sliced_as_any_others(make_task: Callable[..., Task]) -> None:
    task = make_task(source={"generator": "count_up", "config": "small", "splits": {"train": "train[:2]", "test": "train[2:]"}})
    assert [row["text"] for row in load_rows(task, "train")] == ["one", "two"]
    assert [row["text"] for row in load_rows(task, "test")] == ["three"]
    assert CALLS == ["small"]


def test_configurations_are_kept_apart() -> None:
    assert generated_files("count_up", "a") != generated_files("count_up", None)
    assert CALLS == ["a", None]


def test_several_that_want_rows_at_once_generate_them_once() -> None:
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: generated_files("slow", None), range(3)))
    assert found[0] == found[1] == found[2]
    assert CALLS == ["slow"]


def test_a_generator_that_fails_leaves_nothing_behind() -> None:
    for _ in range(2):
        with pytest.raises(FlanlabError, match="out of numbers"):
            generated_files("broken", None)


def test_what_is_not_installed_cannot_be_called() -> None:
    with pytest.raises(FlanlabError, match="no generator called `os:system`") as caught:
        generated_files("os:system", None)
    assert "broken, count_up, slow" in str(caught.value.hint)


def test_a_split_that_is_not_generated(make_task: Callable[..., Task]) -> None:
    task = make_task(source={"generator": "count_up", "splits": {"train": "validation"}})
    with pytest.raises(FlanlabError, match="no rows of the split `validation`"):
        load_rows(task, "train")


def test_mathematics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mathematics, "TRAIN_ROWS", 60)
    monkeypatch.setattr(mathematics, "TEST_ROWS", 40)
    before = random.getstate()
    first = mathematics.generate("algebra__linear_1d")
    assert random.getstate() == before
    random.seed(5)
    again = mathematics.generate("algebra__linear_1d")
    assert first == again
    train, test = first["train"].column("question").to_pylist(), first["test"].column("question").to_pylist()
    assert (len(train), len(test)) == (60, 40)
    assert len({*train, *test}) == 100
    assert all(question.startswith("Solve ") for question in train)
    assert all(int(answer) == int(answer) for answer in first["test"].column("answer").to_pylist())


@pytest.mark.parametrize("config", [None, "algebra", "algebra__nothing", "nothing__at__all"])
def test_mathematics_without_such_a_module(config: str | None) -> None:
    with pytest.raises(FlanlabError, match="has no module"):
        mathematics.generate(config)
