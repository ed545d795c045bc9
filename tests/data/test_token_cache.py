"""A prepared mixture: the same stream as the one rendered on the fly, found only by who would make the same."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from flanlab.data import token_cache
from flanlab.data.encoding import TextEncoder
from flanlab.data.mixture import Dropped, EncodedExample, Mixture, MixtureSettings
from flanlab.data.rendering import Example
from flanlab.data.token_cache import PreparedMixture, prepare, prepared_folder, use_prepared
from flanlab.data.token_shards import ExampleName, open_shard, shards_in, write_shard
from tests.task_files import refusal, rows_in_memory, task_content, task_in_memory
from tests.tiny import make_tokenizer

SHARD = 16
LONG = "The room was large and the bed was soft, though the lift was out of order. " * 12
TEXTS = [LONG if row % 7 == 3 else f"The soup was {'good' if row % 2 else 'cold'}, number {row}." for row in range(30)]
EXAMPLES = 100
"""Positions prepared: seven shards."""


def make_mixture(seed: int = 0, rows: Any = None, **settings: Any) -> Mixture:
    """Two tasks; some examples are shortened and some are dropped."""
    tasks = [task_in_memory(name=name) for name in ("few", "many")]
    tables = {
        "few": rows_in_memory([{"text": text, "label": row % 2} for row, text in enumerate(TEXTS[:5])]),
        "many": rows or rows_in_memory([{"text": text, "label": row % 2} for row, text in enumerate(TEXTS)]),
    }
    return Mixture(tasks, tables, MixtureSettings(**{"prompt_tokens": 200, "target_tokens": 60, **settings}), seed)


def facts(found: EncodedExample | Dropped) -> object:
    """Everything of an example but its texts."""
    if isinstance(found, Dropped):
        return found
    name = found.example
    return (name.task, name.cluster, name.template, name.row), found.prompt, found.target, found.shortened


@pytest.fixture(autouse=True)
def _small_shards_in_a_folder_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FLANLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(token_cache, "SHARD_EXAMPLES", SHARD)
    token_cache._mapped_shard.cache_clear()
    yield
    token_cache._mapped_shard.cache_clear()


def prepared(encoder: TextEncoder, workers: int = 1, mixture: Mixture | None = None) -> PreparedMixture:
    mixture = mixture or make_mixture()
    prepare(mixture, encoder, EXAMPLES, workers)
    found = use_prepared(mixture, encoder)
    assert isinstance(found, PreparedMixture)
    return found


def never(*_: Any) -> Any:
    raise AssertionError("this must be read, not made")


@pytest.fixture(scope="module")
def both_streams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TextEncoder, Mixture, Mixture]]:
    """An encoder, and the same stream rendered and prepared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLANLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(token_cache, "SHARD_EXAMPLES", SHARD)
        encoder = TextEncoder(make_tokenizer())
        yield encoder, make_mixture(), prepared(encoder)


@given(positions=st.lists(st.integers(0, 10 * SHARD), min_size=1, max_size=12))
def test_any_positions_in_any_order_are_what_would_be_rendered(
    positions: list[int], both_streams: tuple[TextEncoder, Mixture, Mixture]
) -> None:
    encoder, rendered, read = both_streams
    expected = list(map(facts, rendered.examples(positions, encoder)))
    assert list(map(facts, read.examples(positions, encoder))) == expected


def test_the_stream_has_every_kind_of_example_and_none_is_rendered(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(map(facts, make_mixture().stream(range(7 * SHARD), encoder)))
    length = make_mixture().mean_length(encoder)
    read = prepared(encoder)
    monkeypatch.setattr("flanlab.data.mixture.render", never)
    found = list(read.stream(range(7 * SHARD), encoder))
    assert list(map(facts, found)) == expected
    dropped = {one.reason for one in found if isinstance(one, Dropped)}
    assert dropped == {"target too long"}
    assert {one.shortened for one in found if isinstance(one, EncodedExample)} == {True, False}
    assert read.mean_length(encoder) == length


def test_texts_are_an_error_and_never_empty(encoder: TextEncoder) -> None:
    found = next(one for one in prepared(encoder).stream(range(SHARD), encoder) if isinstance(one, EncodedExample))
    with pytest.raises(AttributeError, match="prompt"):
        _ = found.example.prompt


def test_another_encoder_reads_nothing_prepared(encoder: TextEncoder) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("soup")])
    other = TextEncoder(tokenizer)
    found = prepared(encoder).examples(range(20), other)
    assert found == make_mixture().examples(range(20), other)


def test_any_number_of_workers_makes_the_same_files(encoder: TextEncoder, tmp_path: Path) -> None:
    one = prepared(encoder, workers=1).folder.rename(tmp_path / "one")
    three = prepared(encoder, workers=3).folder
    names = sorted(path.name for path in one.iterdir())
    assert len(names) == 8
    assert names == sorted(path.name for path in three.iterdir())
    assert all((one / name).read_bytes() == (three / name).read_bytes() for name in names)


def test_what_is_prepared_is_not_made_again(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(make_mixture(), encoder, EXAMPLES, 1)
    monkeypatch.setattr(token_cache, "write_shard", never)
    again = prepare(make_mixture(), TextEncoder(make_tokenizer()), EXAMPLES, 1)
    assert again == first
    assert first.examples == 7 * SHARD
    assert first.bytes == sum(path.stat().st_size for path in first.folder.glob("*.arrow"))


def test_more_is_added_to_what_is_there(encoder: TextEncoder) -> None:
    prepare(make_mixture(), encoder, 3 * SHARD, 1)
    before = {path: path.stat().st_ino for path in prepared_folder(make_mixture(), encoder).glob("*.arrow")}
    assert prepare(make_mixture(), encoder, 5 * SHARD, 1).examples == 5 * SHARD
    assert all(path.stat().st_ino == number for path, number in before.items())


def with_another_template() -> Mixture:
    content = task_content(name="many")
    content["templates"][0]["prompt"] += " "
    plain = make_mixture()
    return Mixture([plain.tasks[0], type(plain.tasks[1]).model_validate(content)], plain.rows, plain.settings, plain.seed)


def with_other_rows(**changes: Any) -> Mixture:
    plain = make_mixture()
    rows = {**plain.rows, "many": dataclasses.replace(plain.rows["many"], **changes)}
    return Mixture(plain.tasks, rows, plain.settings, plain.seed)


@pytest.mark.parametrize(
    "other",
    [
        lambda: make_mixture(seed=1),
        lambda: make_mixture(train_cap=20),
        lambda: make_mixture(maximum=20),
        lambda: make_mixture(prompt_tokens=201),
        lambda: make_mixture(target_tokens=61),
        lambda: make_mixture(options="fixed"),
        lambda: make_mixture(inverted=False),
        lambda: make_mixture(temperature=1.5),
        with_another_template,
        lambda: with_other_rows(source_hash="of other files"),
        lambda: with_other_rows(kept=range(29)),
        lambda: Mixture(make_mixture().tasks[::-1], make_mixture().rows, make_mixture().settings, 0),
    ],
)
def test_whatever_shapes_the_stream_is_in_the_key(other: Any, encoder: TextEncoder) -> None:
    prepare(make_mixture(), encoder, EXAMPLES, 1)
    assert isinstance(use_prepared(make_mixture(), TextEncoder(make_tokenizer())), PreparedMixture)
    changed = other()
    assert use_prepared(changed, encoder) is changed


def test_tokenizer_and_code_are_in_the_key(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    mixture = make_mixture()
    folders = {prepared_folder(mixture, encoder)}
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("soup")])
    folders.add(prepared_folder(mixture, TextEncoder(tokenizer)))
    monkeypatch.setattr(token_cache, "code_hash", lambda: "of other code")
    folders.add(prepared_folder(mixture, encoder))
    assert len(folders) == 3


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "gone"])
def test_a_damaged_shard_is_noticed_and_made_anew(
    damage: str, encoder: TextEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = prepare(make_mixture(), encoder, EXAMPLES, 1).folder
    read = use_prepared(make_mixture(), encoder)
    paths = shards_in(folder)
    sound = {number: (path.stat().st_ino, path.read_bytes()) for number, path in paths.items()}
    content = bytearray(sound[2][1])
    content[len(content) // 2] ^= 1
    paths[2].unlink()
    if damage != "gone":
        paths[2].write_bytes({"cut": content[:-1], "changed": content, "empty": b""}[damage])

    expected = list(map(facts, make_mixture().stream(range(EXAMPLES), encoder)))
    capsys.readouterr()
    for _ in range(2):
        assert list(map(facts, read.stream(range(EXAMPLES), encoder))) == expected
    told = capsys.readouterr().err
    assert told.count(paths[2].name) == 1
    assert "--prepare" in told

    prepare(make_mixture(), encoder, EXAMPLES, 1)
    for number, path in shards_in(folder).items():
        inode, whole = sound[number]
        assert path.read_bytes() == whole
        assert number == 2 or path.stat().st_ino == inode


def test_a_killed_preparation_goes_on_with_the_shards_missing(encoder: TextEncoder, tmp_path: Path) -> None:
    """A real `kill -9` in the middle of writing the fourth shard."""
    whole = prepare(make_mixture(), encoder, EXAMPLES, 1).folder.rename(tmp_path / "whole")
    script = f"""
import os, signal
from flanlab.data import token_cache, token_shards
from flanlab.data.encoding import TextEncoder
from tests.data.test_token_cache import make_mixture
from tests.tiny import make_tokenizer

replace = os.replace
def dying(source, target):
    if target.name.startswith("000003-"):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = dying
token_cache.SHARD_EXAMPLES = {SHARD}
token_cache.prepare(make_mixture(), TextEncoder(make_tokenizer()), {EXAMPLES}, 1)
"""
    repository = Path(__file__).parents[2]
    path = os.pathsep.join([str(repository), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = prepared_folder(make_mixture(), encoder)
    kept = {path: path.stat().st_ino for path in shards_in(folder).values()}
    assert len(kept) == 3
    [left] = folder.glob(".*.tmp")
    os.utime(left, (0, 0))

    prepare(make_mixture(), encoder, EXAMPLES, 1)
    assert all(path.stat().st_ino == number for path, number in kept.items())
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in whole.iterdir())
    assert all((whole / path.name).read_bytes() == path.read_bytes() for path in folder.iterdir())


def test_a_killed_worker_is_told_and_its_shard_is_made_next_time(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(token_cache, "write_shard", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        assert "killed" in refusal(lambda: prepare(make_mixture(), encoder, EXAMPLES, 2)).message
    assert prepare(make_mixture(), encoder, EXAMPLES, 2).examples == 7 * SHARD


@pytest.mark.parametrize("workers", [1, 2])
def test_a_faulty_row_is_told_as_ever(workers: int, encoder: TextEncoder) -> None:
    rows = rows_in_memory([{"text": "Fine.", "label": -1 if row == 17 else 1} for row in range(30)])
    expected = refusal(lambda: list(make_mixture(rows=rows).stream(range(EXAMPLES), encoder)))
    assert "row 17" in expected.message
    told = refusal(lambda: prepare(make_mixture(rows=rows), encoder, EXAMPLES, workers))
    assert (told.message, told.hint) == (expected.message, expected.hint)


def test_a_full_disk_is_told_before_it_is_full_and_when_it_is(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1_000}))
        assert "are needed" in refusal(lambda: prepare(make_mixture(), encoder, EXAMPLES, 1)).message

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(token_cache, "write_shard", full)
    error = refusal(lambda: prepare(make_mixture(), encoder, EXAMPLES, 1))
    assert "No space left" in error.message
    assert "FLANLAB_CACHE" in error.hint


def test_tokens_of_large_vocabularies_survive_and_too_large_ones_are_an_error(tmp_path: Path) -> None:
    name = cast(Example, ExampleName("many", "sentiment", 2, 7))
    found = [EncodedExample(name, [70_000, 1], [128_255], False), Dropped("many", 3, 1, "prompt too long")]
    shard = open_shard(write_shard(tmp_path, 5, found, np.uint32), {"many": "sentiment"})
    assert [shard[0], shard[1]] == found
    with pytest.raises(OverflowError):
        write_shard(tmp_path, 5, found, np.uint16)


def test_vocabularies_of_up_to_65536_tokens_take_two_bytes_a_token(encoder: TextEncoder) -> None:
    mixture = make_mixture()
    folder = prepare(mixture, encoder, EXAMPLES, 1).folder
    lengths = [one.length for one in mixture.stream(range(SHARD), encoder) if isinstance(one, EncodedExample)]
    shard = open_shard(shards_in(folder)[0], {"few": "sentiment", "many": "sentiment"})
    assert shard._tokens.dtype == np.uint16
    assert shard._tokens.size == sum(lengths)
