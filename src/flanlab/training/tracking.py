"""Show the training log in TensorBoard, trackio or Weights & Biases as it grows, through accelerate's trackers."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flanlab.errors import FlanlabError, one_line
from flanlab.processes import is_first
from flanlab.training.settings import Tracking


def open_tracker(kind: Tracking | None, folder: Path, settings: Mapping[str, Any]) -> Any:
    """A tracker for the run with this training folder; None if none is wanted, and in all processes except the first.

    Args:
        kind: which tracker.
        folder: the training folder; TensorBoard's files go to `folder/tensorboard`.
        settings: numbers and words that describe the run.

    Raises:
        FlanlabError: the tracker's package is not installed, or the tracker does not start.
    """
    if kind is None or not is_first():
        return None
    from accelerate import PartialState, tracking

    # accelerate's log, which its trackers use, needs to know about the processes.
    PartialState()
    name = folder.resolve().parent.name
    try:
        tracker: Any = (
            tracking.TensorBoardTracker("tensorboard", logging_dir=folder)
            if kind == "tensorboard"
            else {"trackio": tracking.TrackioTracker, "wandb": tracking.WandBTracker}[kind](name)
        )
        tracker.start()
    except ImportError as error:
        raise _not_installed(kind) from error
    except Exception as error:
        raise FlanlabError(
            f"training.track: {kind} could not be started: {one_line(error)}",
            hint="Log in to it, or leave training.track out.",
        ) from error
    tracker.store_init_configuration({key: value for key, value in settings.items() if isinstance(value, str | int | float)})
    return tracker


def check_tracker(kind: Tracking | None) -> None:
    """Refuse a tracker whose package is not installed.

    Raises:
        FlanlabError: says how to install it.
    """
    if kind is not None and find_spec(kind) is None:
        raise _not_installed(kind)


def _not_installed(kind: Tracking) -> FlanlabError:
    package = "'flanlab[tracking]'" if kind == "tensorboard" else kind
    return FlanlabError(
        f"training.track is {kind}, which is not installed.", hint=f"pip install {package}, or leave training.track out."
    )


def tracked(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a log line by name. Nested ones are named outer/inner."""
    numbers: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            numbers |= {f"{name}/{inner}": number for inner, number in value.items()}
        elif name != "step":
            numbers[name] = value
    return numbers
