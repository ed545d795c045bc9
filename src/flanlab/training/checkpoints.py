"""Checkpoints: everything it takes to go on with training as if it had never stopped, written whole or not at all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flanlab.errors import FlanlabError
from flanlab.files import new_folder, read_json, write_json

_NAME = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Progress:
    """How far training has come; enough to find its place in the stream again."""

    step: int
    """Optimizer steps done."""
    training_key: str
    """Hash of everything that shapes the stream and the updates: a checkpoint of other settings is never resumed."""


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, stamp: Mapping[str, Any]
) -> Path:
    """Write `folder/step-N` with trained weights, optimizer state, progress and stamp; older ones are then removed."""
    path = folder / f"step-{progress.step:06d}"
    tensors, scalars = _flatten(optimizer.state_dict()["state"])
    with new_folder(path) as temporary:
        save_file(trained_tensors(model), temporary / "trained.safetensors")
        save_file(tensors, temporary / "optimizer.safetensors")
        write_json(
            temporary / "progress.json",
            {"step": progress.step, "training_key": progress.training_key, "optimizer": scalars},
        )
        write_json(temporary / "flanlab.json", stamp)
    # The second are what a killed process left half-written.
    for other in [*(other for _, other in _checkpoints(folder) if other != path), *folder.glob(".step-*")]:
        shutil.rmtree(other, ignore_errors=True)
    return path


def load_latest(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, training_key: str) -> Progress | None:
    """Bring model and optimizer to the newest checkpoint; None where there is none.

    Raises:
        FlanlabError: the checkpoint is damaged, or belongs to other settings.
    """
    found = _checkpoints(folder)
    if not found:
        return None
    _, path = found[-1]
    record = _read_record(path)
    if record["training_key"] != training_key:
        raise FlanlabError(
            f"{path}: was written under another recipe, data or version.",
            mend=f"Go on with the old recipe, use another --out folder, or delete {folder} to start anew.",
        )
    try:
        trained = load_file(path / "trained.safetensors")
        state = _unflatten(load_file(path / "optimizer.safetensors"), record["optimizer"])
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in trained.items():
            parameters[name].copy_(tensor)
    _restore(optimizer, state)
    return Progress(record["step"], training_key)


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that training changes; tied ones once."""
    return {name: value.detach().contiguous() for name, value in model.named_parameters() if value.requires_grad}


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path / "progress.json")
    except FlanlabError as error:
        raise _damaged(path, error.message) from error
    if not isinstance(record, dict) or not {"step", "training_key", "optimizer"} <= record.keys():
        raise _damaged(path, "progress.json lacks fields")
    return record


def _damaged(path: Path, reason: object) -> FlanlabError:
    return FlanlabError(f"{path}: is damaged ({reason}).", mend=f"Delete {path}; training then starts anew.")


def _restore(optimizer: torch.optim.Optimizer, state: Mapping[int, Mapping[str, Any]]) -> None:
    """Put the state back as it was: `load_state_dict` would round what an optimizer keeps in float32 to bfloat16 weights."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, entries in state.items():
        device = parameters[index].device
        optimizer.state[parameters[index]] = {
            # Numbers (AdamW's step) stay on the CPU, where the optimizer made them.
            name: value.to(device) if isinstance(value, Tensor) and value.dim() else value
            for name, value in entries.items()
        }


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    found = [(int(match.group(1)), path) for path in folder.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return sorted(found)


def _flatten(state: Mapping[int, Mapping[str, Any]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for index, entries in state.items():
        for name, value in entries.items():
            place = f"{index}.{name}"
            if isinstance(value, Tensor):
                tensors[place] = value.contiguous()
            else:
                scalars[place] = value
    return tensors, scalars


def _unflatten(tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for place, value in {**tensors, **scalars}.items():
        index, name = place.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return state
