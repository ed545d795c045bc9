"""The examples of each step: the same whoever renders them, and in order."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from flanlab.data.mixture import EncodedExample
from flanlab.errors import FlanlabError
from flanlab.models.loading import LoadedModel
from flanlab.training.stream import settle_worker, steps_of_examples, usual_workers
from tests.training.stream import make_mixture


def test_steps_hold_the_stream_in_order(tiny: LoadedModel, tmp_path: Path) -> None:
    mixture = make_mixture(tmp_path)
    steps = list(steps_of_examples(mixture, tiny.encoder, 3, 2, 6, workers=0))
    expected = [mixture.examples([position], tiny.encoder)[0] for position in range(6, 18)]
    assert [example for step in steps for example in step] == [one for one in expected if isinstance(one, EncodedExample)]
    assert len(steps) == 4


def test_any_number_of_workers_gives_the_same_steps(tiny: LoadedModel, tmp_path: Path) -> None:
    mixture = make_mixture(tmp_path)
    alone, one, three = (list(steps_of_examples(mixture, tiny.encoder, 5, 1, 9, workers)) for workers in (0, 1, 3))
    assert alone == one == three


@pytest.mark.parametrize("workers", [0, 2])
def test_a_faulty_row_is_told_alike_by_whoever_renders_it(
    tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    mixture = make_mixture(tmp_path)

    def refused(*_: object) -> None:
        raise FlanlabError("comments.yaml, row 3: no answer", hint="Fix the row.")

    monkeypatch.setattr(type(mixture), "examples", refused)
    with pytest.raises(FlanlabError) as caught:
        list(steps_of_examples(mixture, tiny.encoder, 3, 0, 4, workers))
    assert str(caught.value) == "comments.yaml, row 3: no answer\n  Hint: Fix the row."


def test_a_gpu_is_fed_by_workers_and_a_cpu_is_left_to_the_model() -> None:
    assert usual_workers("cpu") == 0
    assert 1 <= usual_workers("cuda") <= 8


def test_workers_hear_signals_by_themselves() -> None:
    """What this process does with SIGTERM, and whom it tells, is not for the workers that are forked from it."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.set_blocking(reading, False)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        child = os.fork()
        if not child:
            settle_worker(0)
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(1)
        _, status = os.waitpid(child, 0)
    finally:
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGTERM, before)
    assert status == signal.SIGTERM
    # Something to read in any case; that a child has ended may be told too.
    os.write(writing, b"\0")
    assert signal.SIGTERM not in os.read(reading, 100)
