"""The training log: one JSON line for each step, with the speed of the machine; and trackers that show it as it grows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flanlab.data.mixture import EncodedExample
from flanlab.errors import FlanlabError, one_line
from flanlab.files import write_text
from flanlab.processes import is_first, world_size
from flanlab.training.settings import Tracking

_PEAKS = {
    "GB200": 2.5e15,
    "B200": 2.25e15,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "A30": 165e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Dense bfloat16 operations per second, by a part of the device's name, longer names first (NVIDIA's data sheets)."""


class TrainingLog:
    """The log of the first process, open for appending, and the tracker that shows it. Other processes have neither."""

    def __init__(self, path: Path, steps_done: int, tracker: Any = None) -> None:
        """Drop the steps after the checkpoint from the log. `tracker` is one from `open_tracker`.

        Raises:
            FlanlabError: a line other than the last is damaged.
        """
        self.losses: list[float] = []
        """Losses of the steps that it had when it was opened."""
        self._file, self._tracker = None, tracker
        if not is_first():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        records = [record for record in _read(path) if record["step"] <= steps_done] if path.exists() else []
        write_text(path, "".join(json.dumps(record) + "\n" for record in records))
        self.losses = [record["loss"] for record in records]
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Add a step."""
        if self._file is not None:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        if self._tracker is not None:
            self._tracker.log(tracked(record), step=record["step"])

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._tracker is not None:
            self._tracker.finish()


def _read(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            record["step"], record["loss"]
            records.append(record)
        except (ValueError, LookupError, TypeError) as error:
            # The last line may be incomplete, after a kill or a full disk.
            if number < len(lines):
                raise FlanlabError(
                    f"{path}, line {number}: is damaged.", hint="Delete the line. The report then leaves out that step."
                ) from error
    return records


def step_record(
    step: int,
    loss: float,
    norm: float,
    learning_rate: float,
    examples: Sequence[EncodedExample],
    padding: int,
    seconds: float,
    waited: float,
) -> dict[str, Any]:
    """A step's line of the log. `padding` counts computed tokens that belong to no example.

    `waited` are those of its `seconds` that went by until the examples were ready.
    """
    tokens = sum(example.length for example in examples)
    return {
        "step": step,
        "loss": loss,
        "gradient_norm": norm,
        "learning_rate": learning_rate,
        "examples": len(examples),
        "tokens": tokens,
        "target_tokens": sum(len(example.target) for example in examples),
        "padding": round(padding / (padding + tokens), 4) if tokens else 0.0,
        "seconds": round(seconds, 3),
        "waiting_seconds": round(waited, 4),
    }


def notes_of(record: Mapping[str, Any], seconds: float) -> str:
    """What the progress line shows for a step that took `seconds`."""
    notes = [
        f"loss {record['loss']:.3f}",
        f"{record['target_tokens'] / seconds:.0f} target tokens/s",
        f"{record['tokens'] / seconds:.0f} tokens/s",
        f"{record['padding']:.0%} padding",
    ]
    if "mfu" in record:
        notes.append(f"MFU {record['mfu']:.0%}")
    return ", ".join(notes)


def operations_per_token(model: nn.Module) -> int:
    """Floating-point operations of training per token: 2 for each parameter in the forward pass, 2 in the backward pass, and 2
    more for each trained parameter (Kaplan et al. 2020, section 2.1: 6 N). Attention itself is not counted.
    """
    return sum((6 if parameter.requires_grad else 4) * parameter.numel() for parameter in model.parameters())


def peak_operations(device: torch.device) -> float | None:
    """Peak operations per second of all processes' devices in bfloat16; None if the device is unknown."""
    if device.type != "cuda":
        return None
    peak = peak_of(torch.cuda.get_device_name(device))
    return None if peak is None else peak * world_size()


def peak_of(device: str) -> float | None:
    """Peak operations per second of a device with this name in bfloat16; None if it is unknown."""
    return next((peak for part, peak in _PEAKS.items() if re.search(rf"\b{re.escape(part)}\b", device, re.IGNORECASE)), None)


def known_devices() -> list[str]:
    """Names of the devices with known speed."""
    return list(_PEAKS)


def open_tracker(kind: Tracking | None, folder: Path, settings: Mapping[str, Any]) -> Any:
    """accelerate's tracker for the run with this training folder; None if none is wanted, and in all processes but the first.

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
