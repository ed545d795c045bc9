"""The log is shown elsewhere too: what a tracker gets is what the log holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from flanlab.errors import FlanlabError
from flanlab.models.loading import LoadedModel
from flanlab.training.log import open_tracker, tracked
from tests.training.stream import make_mixture, make_settings, train_tiny


class FakeTracker:
    """Keeps what it is given."""

    made: ClassVar[list[FakeTracker]] = []

    def __init__(self, name: str, **places: Any) -> None:
        self.name, self.places, self.logged, self.settings = name, places, {}, {}
        self.state = "made"
        FakeTracker.made.append(self)

    def start(self) -> None:
        self.state = "started"

    def store_init_configuration(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged[step] = values

    def finish(self) -> None:
        self.state = "finished"


@pytest.mark.parametrize(
    ("kind", "class_name", "name"),
    [
        ("tensorboard", "TensorBoardTracker", "tensorboard"),
        ("trackio", "TrackioTracker", "run"),
        ("wandb", "WandBTracker", "run"),
    ],
)
def test_each_step_is_shown(
    kind: str, class_name: str, name: str, tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"accelerate.tracking.{class_name}", FakeTracker)
    mixture = make_mixture(tmp_path / "tasks")
    folder = tmp_path / "run" / "training"
    settings = make_settings(track=kind, steps=3, dev_every=2)
    train_tiny(tiny, mixture, settings, folder)
    tracker = FakeTracker.made.pop()
    assert (tracker.name, tracker.state) == (name, "finished")
    assert tracker.settings["learning_rate"] == settings.learning_rate
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert tracker.logged == {record["step"]: tracked(record) for record in log}
    assert tracker.logged[2]["dev_loss/sentiment"] == log[1]["dev_loss"]["sentiment"]


def test_a_tracker_that_is_not_installed_is_told_with_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: object) -> None:
        raise ModuleNotFoundError("No module named 'trackio'")

    monkeypatch.setattr("accelerate.tracking.TrackioTracker.start", missing)
    with pytest.raises(FlanlabError, match="which is not installed") as caught:
        open_tracker("trackio", tmp_path / "run" / "training", {})
    assert "pip install trackio" in caught.value.hint


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tracker = open_tracker("tensorboard", tmp_path / "run" / "training", {"learning_rate": 0.5})
    assert tracker is not None
    for step, loss in ((1, 3.0), (2, 2.5)):
        tracker.log(tracked({"step": step, "loss": loss, "dev_loss": {"sentiment": loss + 1}}), step=step)
    tracker.finish()
    events = reader.EventAccumulator(str(tmp_path / "run" / "training" / "tensorboard"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss")] == [(1, 3.0), (2, 2.5)]
    assert [one.value for one in events.Scalars("dev_loss/sentiment")] == [4.0, 3.5]


def test_nothing_is_opened_where_nothing_is_wanted(tmp_path: Path) -> None:
    assert open_tracker(None, tmp_path, {}) is None


def test_a_tracker_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: object) -> None:
        raise RuntimeError("no key")

    monkeypatch.setattr("accelerate.tracking.TrackioTracker.start", refused)
    with pytest.raises(FlanlabError, match="trackio could not be started: "):
        open_tracker("trackio", tmp_path / "run" / "training", {})
