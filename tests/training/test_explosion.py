"""Training that comes apart is seen; training that merely jumps is not."""

from __future__ import annotations

import random

import pytest

from flanlab.training.stopping import WINDOW, LossWatch


def first_alarm(losses: list[float]) -> int | None:
    watch = LossWatch()
    return next((step for step, loss in enumerate(losses) if watch.has_exploded(loss)), None)


def jumping(count: int, level: float, seed: int) -> list[float]:
    """Losses that differ from step to step by factors, as steps of few examples of many tasks do."""
    draw = random.Random(seed)
    return [level * draw.lognormvariate(0, 0.8) for _ in range(count)]


def test_losses_that_rise_for_good_are_seen_within_a_window() -> None:
    losses = jumping(100, 0.8, 1) + jumping(100, 9.0, 2)
    alarm = first_alarm(losses)
    assert alarm is not None
    assert 100 <= alarm < 100 + WINDOW


@pytest.mark.parametrize("seed", range(20))
def test_jumps_are_no_alarm(seed: int) -> None:
    assert first_alarm(jumping(2_000, 0.5, seed)) is None


def test_high_losses_at_the_start_are_no_alarm() -> None:
    assert first_alarm([40.0 / (step + 1) for step in range(300)]) is None
    assert first_alarm([9.0] * WINDOW + [0.4] * 50) is None


def test_a_few_bad_steps_are_no_alarm() -> None:
    losses = [0.5] * 50 + [30.0] * (WINDOW // 2 - 1) + [0.5] * 50
    assert first_alarm(losses) is None


def test_a_watch_that_goes_on_knows_what_was_before() -> None:
    losses = jumping(60, 0.8, 1) + jumping(60, 9.0, 2)
    alarm = first_alarm(losses)
    assert alarm is not None
    watch = LossWatch(losses[: alarm - 3])
    assert [watch.has_exploded(loss) for loss in losses[alarm - 3 : alarm + 1]] == [False] * 3 + [True]
