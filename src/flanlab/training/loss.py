"""The loss: cross-entropy of the target tokens alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from flanlab.data.mixture import EncodedExample
from flanlab.models.packed_attention import PackedBatch, pack_segments, packed_logits


def packed_loss(model: nn.Module, examples: Sequence[EncodedExample]) -> Tensor:
    """Sum of the cross-entropy of all target tokens (natural log), the examples packed into one row.

    On a GPU weights and loss are float32, what lies between them bfloat16.
    """
    device = next(model.parameters()).device
    batch = pack_segments([(example.prompt, [example.target]) for example in examples]).to(device)
    positions, targets = _target_positions(batch, examples)
    with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        logits = packed_logits(model, batch, positions.to(device))
    return functional.cross_entropy(logits.float(), targets.to(device), reduction="sum")


def _target_positions(batch: PackedBatch, examples: Sequence[EncodedExample]) -> tuple[Tensor, Tensor]:
    """Positions that predict a target token, and those tokens:

    tokens    p p p t t | p p t
    predicts  . . t t . | . t .
    """
    positions: list[int] = []
    targets: list[int] = []
    for (start, length, _), example in zip(batch.segments, examples, strict=True):
        positions.extend(range(start + len(example.prompt) - 1, start + length - 1))
        targets.extend(example.target)
    return torch.tensor(positions), torch.tensor(targets)
