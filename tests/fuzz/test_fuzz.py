"""A seeded, small run of the fuzzing program, a minute of it (slow), and that its oracle sees what it should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from flanlab.errors import FlanlabError
from flanlab.progress import console
from tests.fuzz import oracle
from tests.fuzz.__main__ import run
from tests.fuzz.files import TARGETS


@pytest.fixture(scope="module", autouse=True)
def watched() -> Iterator[None]:
    was_quiet = console.quiet
    oracle.begin(memory_limit=None)
    yield
    console.quiet = was_quiet


def refuse(message: str, hint: str = "a hint") -> None:
    raise FlanlabError(message, hint=hint)


def write(path: Path) -> None:
    path.write_text("", encoding="utf-8")


def open_sealed(path: Path) -> None:
    with oracle.sealed():
        path.exists()
        path.open().close()


def evaluate_sealed() -> None:
    with oracle.sealed():
        eval("1 + 1")


@pytest.mark.parametrize(
    ("action", "fault"),
    [
        (lambda _: None, None),
        (lambda _: refuse("a.csv: is wrong"), None),
        (lambda _: refuse("is wrong"), "names no file"),
        (lambda _: refuse("a.csv: is wrong", ""), "without a hint"),
        (lambda _: [][0], "IndexError"),
        (lambda folder: write(folder / "in" / "b"), None),
        (lambda folder: write(folder / "b"), "wrote"),
        (lambda _: open_sealed(Path(__file__)), "a template opened"),
        (lambda _: evaluate_sealed(), "a template caused"),
        (lambda _: time.sleep(5), "takes longer"),
    ],
)
def test_the_oracle_sees_faults(
    action: Callable[[Path], None], fault: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oracle, "SECONDS", 1)
    (tmp_path / "in").mkdir()
    found = oracle.fault_of(oracle.Case(lambda: action(tmp_path), ("a.csv",), inside=tmp_path / "in"))
    assert (found is None) == (fault is None), found
    assert fault is None or fault in str(found)


def test_a_small_run_finds_nothing(tmp_path: Path) -> None:
    inputs, faults = run(dict(TARGETS), seed=0, count=12, seconds=600, keep=tmp_path)
    assert set(inputs.values()) == {12}
    assert not faults


def test_a_case_that_ends_the_process_is_a_fault_and_the_others_are_tried(tmp_path: Path) -> None:
    def ends(random: Random, folder: Path) -> oracle.Case:
        (folder / "input").write_text("x")
        return oracle.Case((lambda: os.kill(os.getpid(), signal.SIGKILL)) if random.random() < 0.5 else int, inside=folder)

    inputs, faults = run({"ends": ends}, seed=0, count=8, seconds=600, keep=tmp_path)
    assert inputs == {"ends": 8}
    ((kind, cases),) = faults.items()
    assert kind == "ends: ends the process with status -9"
    assert 1 < len(cases) < 8
    assert len(list(tmp_path.glob("ends-0-*/input"))) == 1


def test_the_input_that_is_kept_is_the_one_that_shows_the_fault(tmp_path: Path) -> None:
    def fails(random: Random, folder: Path) -> oracle.Case:
        number = int((folder / "input").read_text()) + 1 if (folder / "input").exists() else 0
        (folder / "input").write_text(str(number))
        return oracle.Case(lambda: [][0] if number == 3 else None)

    _, faults = run({"fails": fails}, seed=0, count=200, seconds=600, keep=tmp_path)
    assert list(faults.values()) == [["0/3"]]
    assert (tmp_path / "fails-0-3" / "input").read_text() == "3"


@pytest.mark.slow
def test_some_thousand_inputs_of_everything_find_nothing(tmp_path: Path) -> None:
    """About a minute. A count, not a time: a faster machine must not try inputs that nobody has tried."""
    options = ["--torch", "--count", "250", "--minutes", "9", "--seed", "0", "--keep", str(tmp_path)]
    command = [sys.executable, "-m", "tests.fuzz", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


@pytest.mark.slow
def test_kills_lose_nothing() -> None:
    command = [sys.executable, "-m", "tests.fuzz.kills", "--rounds", "1", "--minutes", "9", "--seed", "0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
