"""The loss of a step averaged over target tokens, over examples, or between: the same however the step is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from flanlab.data.encoding import SeparateTextEncoder
from flanlab.data.mixture import EncodedExample
from flanlab.models.loading import LoadedModel, load_model
from flanlab.training import trainer
from flanlab.training.loss import objective_for
from flanlab.training.settings import LossAverage
from flanlab.training.trainer import share_out, train_step
from tests.tiny import stock_model
from tests.tiny_encoder_decoder import stock_encoder_decoder
from tests.training.stream import make_mixture, make_settings

POWERS: dict[LossAverage, float] = {"tokens": 0.0, "sqrt": 0.5, "examples": 1.0}


def examples_of(loaded: LoadedModel, folder: Path) -> list[EncodedExample]:
    found = make_mixture(folder).examples(range(7), loaded.encoder)
    examples = [one for one in found if isinstance(one, EncodedExample)]
    assert len({len(one.target) for one in examples}) > 2
    return examples


def step(loaded: LoadedModel, examples: list[EncodedExample], **changes: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one step; no gradient is clipped."""
    settings = make_settings(gradient_clip=1e9, **changes)
    objective = objective_for(loaded.model, loaded.encoder)
    optimizer = torch.optim.SGD(loaded.model.parameters(), lr=0.0)
    loss, _ = train_step(loaded.model, optimizer, objective, share_out(objective, examples, settings), settings, 0.0)
    return loss, gradients(loaded.model)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def by_definition(
    model: nn.Module, answer_start: list[int] | None, examples: list[EncodedExample], power: float
) -> tuple[float, dict[str, torch.Tensor]]:
    """The weighted mean of the tokens' losses, one example after the other, by transformers itself."""
    weighted, total = torch.zeros(()), 0.0
    for one in examples:
        if answer_start is not None:
            read = torch.tensor([[*answer_start, *one.target[:-1]]])
            logits = model(input_ids=torch.tensor([one.prompt]), decoder_input_ids=read).logits[0, -len(one.target) :]
        else:
            logits = model(input_ids=torch.tensor([one.prompt + one.target])).logits[0, len(one.prompt) - 1 : -1]
        weight = len(one.target) ** -power
        weighted = weighted + weight * functional.cross_entropy(logits, torch.tensor(one.target), reduction="sum")
        total += weight * len(one.target)
    loss = weighted / total
    loss.backward()
    return loss.item(), gradients(model)


def assert_alike(found: tuple[float, dict[str, torch.Tensor]], expected: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("average", POWERS)
def test_a_step_is_the_weighted_mean_however_it_is_cut(average: LossAverage, tiny_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(str(tiny_folder), device="cpu")
    loaded.model.eval()
    examples = examples_of(loaded, tmp_path)
    expected = by_definition(stock_model(tiny_folder), None, examples, POWERS[average])
    for tokens in (100, 4096):
        assert_alike(step(loaded, examples, micro_batch_tokens=tokens, loss_average=average), expected)


@pytest.mark.parametrize("average", POWERS)
def test_padded_batches_count_as_packed_ones_do(
    average: LossAverage, encoder_decoders: dict[str, Path], tmp_path: Path
) -> None:
    loaded = load_model(str(encoder_decoders["t5"]), device="cpu")
    assert isinstance(loaded.encoder, SeparateTextEncoder)
    loaded.model.eval()
    examples = examples_of(loaded, tmp_path)
    stock = stock_encoder_decoder(encoder_decoders["t5"])
    expected = by_definition(stock, loaded.encoder.answer_start, examples, POWERS[average])
    assert_alike(step(loaded, examples, micro_batch_tokens=128, loss_average=average), expected)


def test_processes_divide_by_the_weights_of_the_whole_step(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradients of two processes, each given the whole step, add up to those of one."""
    loaded = load_model(str(tiny_folder), device="cpu")
    loaded.model.eval()
    examples = examples_of(loaded, tmp_path)
    whole = step(loaded, examples, loss_average="examples")
    monkeypatch.setattr(trainer, "world_size", lambda: 2)
    shares = []
    for process in range(2):
        monkeypatch.setattr(trainer, "rank", lambda process=process: process)
        shares.append(step(loaded, examples, loss_average="examples"))
    (first, one), (second, other) = shares
    assert first > 0 < second
    assert_alike((first + second, {name: one[name] + other[name] for name in one}), whole)


def test_with_examples_a_long_target_counts_no_more_than_a_short_one(tiny_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(str(tiny_folder), device="cpu")
    loaded.model.eval()
    long, short = (sorted(examples_of(loaded, tmp_path), key=lambda one: -len(one.target))[place] for place in (0, -1))
    alone = [step(loaded, [one], loss_average="examples")[0] for one in (long, short)]
    together = step(loaded, [long, short], loss_average="examples")[0]
    assert together == pytest.approx(sum(alone) / 2, rel=1e-5)
    assert together != pytest.approx(step(loaded, [long, short], loss_average="tokens")[0], rel=1e-3)
