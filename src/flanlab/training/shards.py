"""Write tensors to one file, or to one shard for each process, and read them with any number of processes.

A tensor that is divided among processes (a DTensor of FSDP) is divided by rows of its first dimension. All processes have the
same number of rows, except for the last ones, which may have fewer or none. Each process writes its own rows:

    optimizer-00001-of-00002.safetensors   rows 0 to 4 of a tensor of 9
    optimizer-00002-of-00002.safetensors   rows 5 to 8

Other tensors are written by the first process only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from flanlab.processes import is_first, rank, world_size


def own_shard(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rows of `tensors` that this process writes."""
    own = {}
    for name, tensor in tensors.items():
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if isinstance(tensor, DTensor) or is_first():
            own[name] = local.detach().contiguous()
    return own


def write_shard(shard: Mapping[str, Tensor], divided: bool, folder: Path, stem: str) -> Path | None:
    """Write the result of `own_shard`. Returns None if this process has no file to write."""
    if not divided and not is_first():
        return None
    ending = f"-{rank() + 1:05d}-of-{world_size():05d}" if divided else ""
    path = folder / f"{stem}{ending}.safetensors"
    save_file(dict(shard), path)
    return path


class ShardReader:
    """Reads tensors from any number of files of `write_shard`. Files are opened, but only read when needed."""

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


def divided_as(local: Tensor, like: Tensor) -> Tensor:
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
