"""The loss: cross-entropy of the target tokens only; and how a step is divided into batches that fit into memory.

A batch's loss is a weighted sum, which is divided by the weights of the whole step. So a step does not depend on how it is
divided.

A penalty may keep the model near the untuned one (`training.kl_weight`): the KL divergence between what both predict inside
prompts, as in learning without forgetting (Li & Hoiem 2016). Targets are left out, since they are to be predicted differently.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from flanlab.data.encoding import SeparateTextEncoder, TextEncoder
from flanlab.data.mixture import EncodedExample
from flanlab.errors import FlanlabError
from flanlab.models.encoder_decoder import logits_of, padded, visible_places
from flanlab.models.packed_attention import check_reach, pack_segments, packed_logits
from flanlab.models.soft_prompt import virtual_tokens
from flanlab.training.packing import best_fit
from flanlab.training.settings import LossAverage

Weights = Sequence[float] | None
"""The weight of each example of a batch; None: 1 each."""


@dataclass(frozen=True)
class PackedObjective:
    """For a decoder-only model: the examples of a batch are in one row without padding, and do not see each other."""

    virtual: tuple[int, ...] = ()
    """Virtual tokens before each prompt, if the model has a soft prompt."""
    untuned: nn.Module | None = None
    """The model before training, for the penalty."""

    def batches(self, examples: Sequence[EncodedExample], tokens: int) -> list[list[EncodedExample]]:
        """The examples in batches that compute at most `tokens` tokens each, by best-fit packing."""
        rows = best_fit([len(self.virtual) + example.length for example in examples], tokens)
        return [[examples[position] for position in row] for row in rows]

    def loss(
        self, model: nn.Module, examples: Sequence[EncodedExample], weights: Weights = None, kl_weight: float = 0.0
    ) -> Tensor:
        """Sum of the cross-entropy of all target tokens of a batch (natural log), each times the weight of its example.

        With `kl_weight`, also the KL divergence from the untuned model's predictions at the `kl_places`, times this weight.
        """
        self.check_reach(_config(model), examples)
        device = next(model.parameters()).device
        batch = pack_segments([([*self.virtual, *example.prompt], [example.target]) for example in examples]).to(device)
        # The positions that predict a target token:
        #   tokens    p p p t t | p p t
        #   predicts  . . t t . | . t .
        ends = [(start + length, len(one.target)) for (start, length, _), one in zip(batch.segments, examples, strict=True)]
        positions = [place for end, count in ends for place in range(end - count - 1, end - 1)]
        targets = torch.tensor([token for example in examples for token in example.target], device=device)
        if not kl_weight:
            logits = packed_logits(model, batch, torch.tensor(positions, device=device))
            return _cross_entropy(logits, targets, examples, weights)
        assert self.untuned is not None
        starts = [end - len(one.prompt) - len(one.target) for (end, _), one in zip(ends, examples, strict=True)]
        inside = [start + place for start, one in zip(starts, examples, strict=True) for place in kl_places(one)]
        logits = packed_logits(model, batch, torch.tensor([*positions, *inside], device=device))
        of_targets, of_prompts = logits.split([len(positions), len(inside)])
        with torch.no_grad():
            untuned = packed_logits(self.untuned, batch, torch.tensor(inside, device=device)).float().log_softmax(-1)
        distance = functional.kl_div(of_prompts.float().log_softmax(-1), untuned, log_target=True, reduction="sum")
        # A copy, because the gradient of the cross-entropy takes the place of its logits.
        return _cross_entropy(of_targets.clone(), targets, examples, weights) + kl_weight * distance

    def padding(self, examples: Sequence[EncodedExample]) -> int:
        """Number of padding tokens of a batch: none."""
        return 0

    def check_reach(self, config: Any, examples: Sequence[EncodedExample]) -> None:
        """Refuse examples that are longer than a model with this configuration reads."""
        check_reach(config, max((len(self.virtual) + example.length for example in examples), default=0))


@dataclass(frozen=True)
class PaddedObjective:
    """For an encoder-decoder model: an example is a row, padded to the longest of its batch. Padding is masked.

    Such models count positions and attend over whole rows by themselves, so examples cannot be packed. The examples of a batch
    have similar lengths, which keeps padding small.
    """

    answer_start: tuple[int, ...]
    """What the decoder reads before an answer."""

    def batches(self, examples: Sequence[EncodedExample], tokens: int) -> list[list[EncodedExample]]:
        """The same: longest first, as many as fit when padded. The order depends only on the lengths."""
        found: list[list[EncodedExample]] = []
        prompt = target = 0
        for example in sorted(examples, key=lambda example: (-len(example.prompt), -len(example.target))):
            read = len(self.answer_start) + len(example.target) - 1
            if len(example.prompt) + read > tokens:
                raise FlanlabError(
                    f"An example of {len(example.prompt) + read} tokens does not fit into a batch of {tokens}.",
                    hint="Raise training.micro_batch_tokens, or lower mixture.prompt_tokens and target_tokens.",
                )
            prompt, target = max(prompt, len(example.prompt)), max(target, read)
            if not found or (len(found[-1]) + 1) * (prompt + target) > tokens:
                found.append([])
                prompt, target = len(example.prompt), read
            found[-1].append(example)
        return found

    def loss(
        self, model: nn.Module, examples: Sequence[EncodedExample], weights: Weights = None, kl_weight: float = 0.0
    ) -> Tensor:
        """See `PackedObjective`.

        encoder   p p p p </s>
        decoder   <start> t0 t1           the target's last token, its end, is predicted but never read
        predicts  t0      t1 </s>

        The tokens before an answer are not learned: they are always the same.

        Raises:
            FlanlabError: an example is longer than the model can read.
        """
        self.check_reach(_config(model), examples)
        device = next(model.parameters()).device
        prompts = [example.prompt for example in examples]
        read = [[*self.answer_start, *example.target[:-1]] for example in examples]
        time = max(map(len, read))
        places = [
            row * time + len(self.answer_start) - 1 + offset
            for row, example in enumerate(examples)
            for offset in range(len(example.target))
        ]
        targets = torch.tensor([token for example in examples for token in example.target], device=device)
        with logits_of(model, torch.tensor(places, device=device), (len(examples), time)):
            output = model(
                input_ids=padded(prompts, device),
                attention_mask=visible_places(prompts, device),
                decoder_input_ids=padded(read, device),
                use_cache=False,
            )
        return _cross_entropy(output.logits.squeeze(0), targets, examples, weights)

    def padding(self, examples: Sequence[EncodedExample]) -> int:
        """Padding of the prompts and the targets."""
        sides = ([len(example.prompt) for example in examples], [len(example.target) for example in examples])
        return sum(max(lengths) * len(lengths) - sum(lengths) for lengths in sides)

    def check_reach(self, config: Any, examples: Sequence[EncodedExample]) -> None:
        """See `PackedObjective`."""
        read = (max(len(one.prompt), len(self.answer_start) + len(one.target) - 1) for one in examples)
        check_reach(config, max(read, default=0))


def kl_places(example: EncodedExample) -> range:
    """The tokens of a prompt that the penalty is computed at: every eighth, which costs an eighth as many logits."""
    return range(7, len(example.prompt), 8)


Objective = PackedObjective | PaddedObjective
"""What the loop needs to know about a kind of model: how examples are divided into batches, and the loss of a batch."""


def objective_for(model: nn.Module, encoder: TextEncoder, untuned: nn.Module | None = None) -> Objective:
    """The objective for a model that is ready for training, and the model as it was before, if a penalty needs it."""
    if isinstance(encoder, SeparateTextEncoder):
        return PaddedObjective(tuple(encoder.answer_start))
    return PackedObjective(tuple(virtual_tokens(model)), untuned)


def example_weight(example: EncodedExample, average: LossAverage) -> float:
    """The weight of each target token of an example: 1, or 1 / the number of its target tokens n, or 1 / sqrt(n)."""
    return math.pow(len(example.target), -_EXPONENTS[average])


_EXPONENTS = {"tokens": 0.0, "sqrt": 0.5, "examples": 1.0}


def _cross_entropy(logits: Tensor, targets: Tensor, examples: Sequence[EncodedExample], weights: Weights) -> Tensor:
    weights = [1.0] * len(examples) if weights is None else weights
    by_token = [weight for example, weight in zip(examples, weights, strict=True) for _ in example.target]
    total: Tensor = _SumOfCrossEntropy.apply(logits, targets, torch.tensor(by_token, device=logits.device))  # type: ignore[no-untyped-call]
    return total


class _SumOfCrossEntropy(torch.autograd.Function):
    """The weighted sum of the cross-entropy of logits [tokens, vocabulary], computed in float32, a few rows at a time.

    The gradient takes the place of the logits in memory. So a batch needs one tensor of their size, in their number type. The
    usual functions need three more, two of them in float32: with a vocabulary of 262,144 these are most of a step's memory.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(logits, targets, weights)
        pieces = zip(_pieces(logits, logits), _pieces(targets, logits), strict=True)
        losses = [functional.cross_entropy(rows.float(), tokens, reduction="none") for rows, tokens in pieces]
        # Not a matrix product, which autocast would compute in bfloat16.
        return (torch.cat(losses) * weights).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        logits, targets, weights = ctx.saved_tensors
        # If another operation needs the logits for its own gradient, autograd notices the change and stops with an error.
        logits = logits.detach()
        scales = (gradient * weights)[:, None]
        for rows, tokens, scale in zip(*(_pieces(each, logits) for each in (logits, targets, scales)), strict=True):
            change = rows.float().softmax(dim=-1)
            change[torch.arange(len(tokens), device=tokens.device), tokens] -= 1
            rows.copy_(change.mul_(scale))
        return logits, None, None


def _pieces(tensor: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
    """The rows of a tensor in pieces, for which the logits [rows, vocabulary] have at most `_PIECE` entries (or one row)."""
    pieces: tuple[Tensor, ...] = tensor.split(max(1, _PIECE // logits.shape[1]))
    return pieces


_PIECE = 2**22
"""16 MB in float32. Pieces of 67 MB take twice the time on a CPU."""


def _config(model: nn.Module) -> Any:
    return getattr(getattr(model, "module", model), "config", None)
