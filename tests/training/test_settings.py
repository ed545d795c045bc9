"""What a recipe may say about training, and the learning rate that follows from it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from flanlab.training.settings import TrainingSettings


def rates(**changes: Any) -> list[float]:
    settings = TrainingSettings(**{"steps": 6, "learning_rate": 0.8, "warmup_steps": 2, **changes})
    return [settings.learning_rate_at(step) for step in range(settings.steps)]


def test_schedules() -> None:
    assert rates(schedule="constant") == pytest.approx([0.4, 0.8, 0.8, 0.8, 0.8, 0.8])
    assert rates(schedule="linear") == pytest.approx([0.4, 0.8, 0.8, 0.6, 0.4, 0.2])
    # 0.4 * (1 + cos(pi * k / 4)) for k = 0..3
    assert rates(schedule="cosine") == pytest.approx([0.4, 0.8, 0.8, 0.6828427, 0.4, 0.1171573])


def test_no_warm_up_begins_at_the_full_rate() -> None:
    assert rates(warmup_steps=0, schedule="linear", steps=4) == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_warm_up_longer_than_training() -> None:
    assert rates(warmup_steps=10, steps=3) == pytest.approx([0.08, 0.16, 0.24])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_rate_is_never_zero_or_above_its_peak(schedule: str) -> None:
    for steps in (1, 2, 7):
        for warmup_steps in (0, 1, 3):
            given = rates(schedule=schedule, steps=steps, warmup_steps=warmup_steps)
            assert all(0 < rate < 0.8 + 1e-9 for rate in given)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"learning_rate": 0.0},
        {"learning_rate": -1e-4},
        {"gradient_clip": 0},
        {"method": "adapter"},
        {"optimizer": "sgd"},
        {"schedule": "step"},
        {"micro_batch_tokens": 0},
        {"warmup_steps": -1},
        {"epochs": 3},
    ],
)
def test_senseless_values_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainingSettings(**{"steps": 5, "learning_rate": 1e-3, **change})
