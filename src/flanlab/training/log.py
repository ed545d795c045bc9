"""The training log: one JSON line for each step, and how fast the machine is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flanlab.files import write_text
from flanlab.processes import is_first, world_size

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
"""Dense bfloat16 operations a second, by what a device's name holds, the longer names first (NVIDIA's data sheets)."""


class TrainingLog:
    """The log of the first process, open for appending; the others write none."""

    def __init__(self, path: Path, steps_done: int) -> None:
        """Cut the log back to the steps that the checkpoint holds."""
        self.losses: list[float] = []
        """Of the steps it held when it was opened."""
        self._file = None
        if not is_first():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines()[:steps_done] if path.exists() else []
        write_text(path, "".join(line + "\n" for line in lines))
        self.losses = [json.loads(line)["loss"] for line in lines]
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Add a step."""
        if self._file is not None:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def operations_per_token(model: nn.Module) -> int:
    """Floating-point operations that training spends on a token: 2 for each parameter in the forward pass, 2 in the backward
    pass, and 2 more for each that is trained (Kaplan et al. 2020, section 2.1: 6 N); attention itself is not counted.
    """
    return sum((6 if parameter.requires_grad else 4) * parameter.numel() for parameter in model.parameters())


def peak_operations(device: torch.device) -> float | None:
    """Operations a second that all processes' devices could do at best in bfloat16; None where the device is not known."""
    if device.type != "cuda":
        return None
    peak = peak_of(torch.cuda.get_device_name(device))
    return None if peak is None else peak * world_size()


def peak_of(device: str) -> float | None:
    """Operations a second that a device of this name could do at best in bfloat16; None where it is not known."""
    return next((peak for part, peak in _PEAKS.items() if part.lower() in device.lower()), None)


def known_devices() -> list[str]:
    """Names of the devices whose speed is known."""
    return list(_PEAKS)
