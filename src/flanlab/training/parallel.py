"""One training step shared among processes: who computes which examples, and how gradients are summed.

The loss is divided by the weights of the whole step, and gradients are summed, never averaged. So an update is the same for any
number of processes. All processes read the whole step, so they know each other's shares without communication.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from flanlab.processes import is_first, world_size
from flanlab.training.methods import layers_of, trained
from flanlab.training.settings import TrainingSettings

_BUCKET = 64 * 2**20
"""Bytes of gradients that are sent at once."""


def spread(model: nn.Module, settings: TrainingSettings) -> nn.Module:
    """Prepare a model for several processes. Under FSDP each process keeps a shard of each parameter, else all of it.

    All processes have loaded the same files. Random weights that the method added come from the first process under ddp. Under
    fsdp all processes made them from the same seed.
    """
    if world_size() == 1:
        return model
    device = next(model.parameters()).device
    if settings.parallel == "ddp":
        for parameter in trained(model):
            dist.broadcast(parameter.data, 0)
        return model
    mesh = init_device_mesh(device.type, (world_size(),))
    # As in one process: weights and sums of gradients in float32, and everything between in bfloat16 if asked for.
    rounded = settings.compute_dtype == "bfloat16"
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if rounded else MixedPrecisionPolicy()
    for part in [*layers_of(model), model]:
        sharded: Any = fully_shard(part, mesh=mesh, mp_policy=policy)
        # Plain sums: gloo has no other reductions.
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
    return model


def is_sharded(model: nn.Module) -> bool:
    """Whether each process has only a shard of the model."""
    return isinstance(model, FSDPModule)


def add_up(numbers: Iterable[float], device: torch.device) -> list[float]:
    """The sum of each number over all processes."""
    if world_size() == 1:
        return list(numbers)
    sums = torch.tensor(list(numbers), dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return sums.tolist()


def add_up_gradients(model: nn.Module) -> None:
    """Give all processes the sum of their gradients. FSDP has already done so.

    Called once a step, after the last micro-batch. torch's DistributedDataParallel is not used, because it averages, needs the
    same number of micro-batches everywhere, and wraps the model that is saved in the end.
    """
    if world_size() == 1 or is_sharded(model):
        return
    gradients = []
    for parameter in trained(model):
        # A process without examples has none.
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat)
        for gradient, summed in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(summed.view_as(gradient))


def clip_gradients(model: nn.Module, limit: float) -> float:
    """Scale the gradient down to a norm of `limit` if it is larger. Returns its norm before, over all processes."""
    norm = nn.utils.clip_grad_norm_(trained(model), limit)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def whole_weights(model: nn.Module) -> dict[str, Tensor] | None:
    """All weights of a sharded model by name, on the CPU, in the first process (empty in others); None for other models.

    All processes must call it. Memory: the whole model in the first one.
    """
    if not is_sharded(model):
        return None
    weights: dict[str, Tensor] = {}
    # Tied weights stay one tensor, which is written once.
    known: dict[int, Tensor] = {}
    for name, value in model.state_dict().items():
        whole, place = (
            (value.full_tensor(), value.to_local().data_ptr()) if isinstance(value, DTensor) else (value, value.data_ptr())
        )
        if is_first():
            weights[name] = known.setdefault(place, whole.cpu())
    return weights


def _buckets(gradients: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    """Consecutive tensors of the same type, up to a bucket's size together. A larger one is alone."""
    starts, size = [0], 0
    for place, gradient in enumerate(gradients):
        size += gradient.nbytes
        if place > starts[-1] and (size > _BUCKET or gradient.dtype != gradients[place - 1].dtype):
            starts.append(place)
            size = gradient.nbytes
    return [gradients[start:stop] for start, stop in pairwise([*starts, len(gradients)])]
