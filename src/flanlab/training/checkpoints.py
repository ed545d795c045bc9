"""Checkpoints: everything that is needed to resume training as if it had never stopped. Written completely or not at all.

    step-000400/trained.safetensors      the parameters that training changes
                optimizer.safetensors    the optimizer's state; under FSDP both have one shard for each process (see below)
                flanlab.json             the stamp
                progress.json            where training is; size and digest of each file, and of itself

The newest two are kept, so that one is left if the other is damaged.

A tensor that is divided among processes (a DTensor of FSDP) is divided by rows of its first dimension. All processes have the
same number of rows, except for the last ones, which may have fewer or none. Each process writes its own rows, and any number of
processes can read them:

    optimizer-00001-of-00002.safetensors   rows 0 to 4 of a tensor of 9
    optimizer-00002-of-00002.safetensors   rows 5 to 8

Other tensors are written by the first process only.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from flanlab.errors import FlanlabError
from flanlab.files import is_full, write_json
from flanlab.processes import all_do, everyone, from_first, is_first, rank, world_size
from flanlab.progress import say
from flanlab.training.parallel import is_sharded

_NAME = re.compile(r"step-(\d+)")


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, training_key: str, stamp: Mapping[str, Any]
) -> Path:
    """Write `folder/step-N` with trained weights, optimizer state, number of steps done and stamp. Only the previous checkpoint
    is kept too. `training_key` is a hash of everything that shapes the stream and the updates.

    Raises:
        FlanlabError: the disk is full. Earlier checkpoints are unchanged.
    """
    path = folder / f"step-{step:06d}"
    temporary = folder / f".{path.name}.partial"
    state, scalars = _flatten(optimizer.state_dict()["state"])
    contents = {"trained": trained_tensors(model), "optimizer": state}
    divided = {stem: any(isinstance(tensor, DTensor) for tensor in tensors.values()) for stem, tensors in contents.items()}
    own = {stem: _own_shard(tensors) for stem, tensors in contents.items()}
    size = sum(everyone(sum(tensor.nbytes for shard in own.values() for tensor in shard.values())))

    def begin() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Left by a killed process.
        for leftover in folder.glob(".step-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if shutil.disk_usage(folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        temporary.mkdir()

    def write() -> dict[str, Any]:
        written = [_write_shard(own[stem], divided[stem], temporary, stem) for stem in own]
        return {file.name: _seal(file) for file in written if file is not None}

    def finish(files: dict[str, Any]) -> None:
        write_json(temporary / "flanlab.json", stamp)
        files["flanlab.json"] = _seal(temporary / "flanlab.json")
        record = {"step": step, "training_key": training_key, "optimizer": scalars, "files": files}
        write_json(temporary / "progress.json", {**record, "digest": _digest_of(record)})
        _seal(temporary / "progress.json")
        earlier = [other for number, other in _checkpoints(folder) if number < step]
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
        for _, other in _checkpoints(folder):
            if other not in (path, *earlier[-1:]):
                shutil.rmtree(other, ignore_errors=True)

    try:
        all_do(lambda: begin() if is_first() else None)
        files = {name: seal for part in all_do(write) for name, seal in part.items()}
        all_do(lambda: finish(files) if is_first() else None)
    except (OSError, SafetensorError) as error:
        if is_first():
            shutil.rmtree(temporary, ignore_errors=True)
        if is_full(error):
            raise no_room(folder, f"Step {step} could not be saved", size) from error
        raise
    return path


def load_latest(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, training_key: str) -> int:
    """Restore model and optimizer from the newest intact checkpoint. Returns how many steps are done; 0 without a checkpoint.

    A damaged one is skipped with a warning. The next checkpoint replaces it.

    Raises:
        FlanlabError: all checkpoints are damaged, or the newest belongs to other settings.
    """
    found = [folder / name for name in from_first(lambda: [path.name for _, path in _checkpoints(folder)])]
    damages: list[str] = []
    for path in reversed(found):
        try:
            record = all_do(partial(_read_record, path))[0]
            if record["training_key"] != training_key:
                raise FlanlabError(
                    f"{path}: was written under another recipe, data or version.",
                    hint=f"Use the old recipe, use another --out folder, or delete {folder} to start again.",
                )
            # Each process checks its share of the files.
            share = sorted(record["files"].items())[rank() :: world_size()]
            all_do(partial(_check, path, share))
        except _DamagedError as error:
            damages.append(error.message)
            continue
        for damage in damages:
            say(f"{damage} Resuming from the previous checkpoint, {path.name}.")
        _load(path, record, model, optimizer)
        return int(record["step"])
    if damages:
        raise FlanlabError(" ".join(damages), hint=f"Delete {folder}. Training then starts again.")
    return 0


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that training changes. Tied ones appear once."""
    tensors = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    # Between forward and backward they would be whole, and rounded.
    assert not is_sharded(model) or all(isinstance(tensor, DTensor) for tensor in tensors.values())
    return tensors


def no_room(folder: Path, what: str, size: int | None = None) -> FlanlabError:
    """The error for a full disk. `size` is the size of a checkpoint in bytes."""
    kept = [path.name for _, path in _checkpoints(folder)]
    needed = f"A checkpoint takes {size / 1e6:,.1f} MB (two are kept while a third is written); " if size else ""
    free = f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB are free for {folder}. "
    return FlanlabError(
        f"{what}: the disk is full. {needed}{free}" + (f"{kept[-1]} is kept." if kept else "None was saved before."),
        hint="Free some space, then run the same command: it resumes from that checkpoint."
        if kept
        else "Free some space, then run the same command.",
    )


class _DamagedError(FlanlabError):
    """A checkpoint that has changed since it was written."""


def _seal(path: Path) -> dict[str, Any]:
    """Size and digest of a file. The file is flushed to the disk when this returns."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "digest": digest}


def _check(path: Path, sealed: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    for name, seal in sealed:
        try:
            found = _seal(path / name)
        except FileNotFoundError as error:
            raise _damaged(path, f"{name} is missing") from error
        except OSError as error:
            raise _damaged(path, f"{name}: {error.strerror}") from error
        if found["bytes"] != seal["bytes"]:
            raise _damaged(path, f"{name} has {found['bytes']} bytes of {seal['bytes']}")
        if found != seal:
            raise _damaged(path, f"{name} has changed since it was written")


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads((path / "progress.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _damaged(path, "progress.json is missing") from error
    except (OSError, ValueError) as error:
        raise _damaged(path, f"progress.json: {error}") from error
    if not isinstance(record, dict) or record.pop("digest", None) != _digest_of(record):
        raise _damaged(path, "progress.json has changed since it was written")
    return record


def _digest_of(record: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(record, sort_keys=True).encode(), digest_size=16).hexdigest()


def _damaged(path: Path, reason: str) -> _DamagedError:
    return _DamagedError(f"{path}: is damaged ({reason}).")


def _load(path: Path, record: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    trained = _ShardReader([path / name for name in record["files"] if name.startswith("trained")])
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in trained.names():
            own = parameters[name].to_local() if isinstance(parameters[name], DTensor) else parameters[name]  # type: ignore[attr-defined]
            own.copy_(trained.read(name, parameters[name]))
    reader = _ShardReader([path / name for name in record["files"] if name.startswith("optimizer")])
    ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for place in (*reader.names(), *record["optimizer"]):
        index, name = place.split(".", 1)
        parameter = ordered[int(index)]
        if place in record["optimizer"]:
            value: Any = record["optimizer"][place]
        else:
            value = _divided_as(reader.read(place, parameter).to(parameter.device), parameter)
        state.setdefault(int(index), {})[name] = value
    # Unchanged: `load_state_dict` would round the optimizer's float32 state to the type of bfloat16 weights.
    for number, entries in state.items():
        optimizer.state[ordered[number]] = entries


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
                tensors[place] = value
            else:
                scalars[place] = value
    return tensors, scalars


def _own_shard(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rows of `tensors` that this process writes."""
    own = {}
    for name, tensor in tensors.items():
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if isinstance(tensor, DTensor) or is_first():
            own[name] = local.detach().contiguous()
    return own


def _write_shard(shard: Mapping[str, Tensor], divided: bool, folder: Path, stem: str) -> Path | None:
    """Write the result of `_own_shard`. Returns None if this process has no file to write."""
    if not divided and not is_first():
        return None
    ending = f"-{rank() + 1:05d}-of-{world_size():05d}" if divided else ""
    path = folder / f"{stem}{ending}.safetensors"
    save_file(dict(shard), path)
    return path


class _ShardReader:
    """Reads tensors from any number of files of `_write_shard`. Files are opened, but only read when needed."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = [safe_open(path, "pt") for path in sorted(files)]
        self._holders = {name: [file for file in self._files if name in file.keys()] for name in self.names()}  # noqa: SIM118

    def names(self) -> list[str]:
        """Names of all tensors."""
        return sorted({name for file in self._files for name in file.keys()})  # noqa: SIM118

    def read(self, name: str, like: Tensor) -> Tensor:
        """A tensor, or, if `like` is divided among processes, this process's rows of it."""
        first, *others = self._holders[name]
        slices = [file.get_slice(name) for file in (first, *others)]
        shapes = [piece.get_shape() for piece in slices]
        if not shapes[0]:
            whole: Tensor = first.get_tensor(name)
            return whole
        wanted = _own_rows(sum(shape[0] for shape in shapes), like)
        pieces, start = [], 0
        for piece, shape in zip(slices, shapes, strict=True):
            low, high = (min(max(bound - start, 0), shape[0]) for bound in (wanted.start, wanted.stop))
            if low < high:
                pieces.append(piece[low:high])
            start += shape[0]
        if not pieces:
            return torch.empty(0, *shapes[0][1:], dtype=first.get_tensor(name).dtype)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _divided_as(local: Tensor, like: Tensor) -> Tensor:
    """Put this process's rows into a tensor with the shape and division of `like`."""
    if not isinstance(like, DTensor) or not local.dim():
        return local
    return DTensor.from_local(local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride())


def _own_rows(rows: int, like: Tensor) -> slice:
    if not isinstance(like, DTensor):
        return slice(0, rows)
    size = -(-rows // like.device_mesh.size())
    start = like.device_mesh.get_local_rank() * size
    return slice(min(start, rows), min(start + size, rows))
