"""Tuning encoder-decoder models: the loss is the model's own of one example after the other, however it is padded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flanlab.data.encoding import SeparateTextEncoder
from flanlab.data.mixture import EncodedExample
from flanlab.errors import FlanlabError
from flanlab.models.loading import LoadedModel, load_model
from flanlab.training import trainer
from flanlab.training.loss import PaddedObjective, objective_for
from flanlab.training.methods import make_optimizer, prepare_for_training
from flanlab.training.trainer import share_out, train_step
from tests.tiny_encoder_decoder import KINDS, stock_encoder_decoder
from tests.training.stream import assert_same_training, make_mixture, make_settings, train_tiny


def load(folder: Path) -> tuple[LoadedModel, PaddedObjective]:
    loaded = load_model(str(folder), device="cpu")
    assert isinstance(loaded.encoder, SeparateTextEncoder)
    objective = objective_for(loaded.model, loaded.encoder)
    assert isinstance(objective, PaddedObjective)
    return loaded, objective


def examples_of(loaded: LoadedModel, folder: Path, count: int = 9) -> list[EncodedExample]:
    found = make_mixture(folder).examples(range(count), loaded.encoder)
    examples = [one for one in found if isinstance(one, EncodedExample)]
    assert len({len(one.prompt) for one in examples}) > 2, "lengths differ, so there is padding"
    assert len({len(one.target) for one in examples}) > 1
    return examples


def own_loss(model: nn.Module, answer_start: list[int], example: EncodedExample) -> Tensor:
    """What transformers itself makes of one example, summed over its target tokens."""
    unlearned = [-100] * (len(answer_start) - 1)
    loss: Tensor = model(
        input_ids=torch.tensor([example.prompt]),
        decoder_input_ids=torch.tensor([[*answer_start, *example.target[:-1]]]),
        labels=torch.tensor([[*unlearned, *example.target]]),
    ).loss
    return loss * len(example.target)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_the_models_own(kind: str, encoder_decoders: dict[str, Path], tmp_path: Path) -> None:
    loaded, objective = load(encoder_decoders[kind])
    examples = examples_of(loaded, tmp_path)
    model = prepare_for_training(loaded, make_settings()).train()
    batches = objective.batches(examples, 128)
    assert 1 < len(batches) < len(examples)
    loss = torch.stack([objective.loss(model, batch) for batch in batches]).sum()
    loss.backward()

    reference = stock_encoder_decoder(encoder_decoders[kind])
    losses = [own_loss(reference, loaded.encoder.answer_start, example) for example in examples]
    total = torch.stack(losses).sum()
    total.backward()
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    theirs = dict(reference.named_parameters())
    for name, value in model.named_parameters():
        assert value.dtype == torch.float32
        expected = theirs[name].grad
        assert (value.grad is None) == (expected is None), name
        if value.grad is not None:
            torch.testing.assert_close(value.grad, expected, rtol=1e-3, atol=1e-4)


def test_t5_computes_the_same_from_labels_alone(encoder_decoders: dict[str, Path], tmp_path: Path) -> None:
    """As anybody would train it: the model shifts the labels itself."""
    loaded, objective = load(encoder_decoders["t5"])
    example = examples_of(loaded, tmp_path)[0]
    with torch.inference_mode():
        own = loaded.model(input_ids=torch.tensor([example.prompt]), labels=torch.tensor([example.target])).loss
        assert objective.loss(loaded.model, [example]).item() == pytest.approx(own.item() * len(example.target), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_same_however_it_is_cut(kind: str, encoder_decoders: dict[str, Path], tmp_path: Path) -> None:
    results = []
    for tokens in (100, 100_000):
        loaded, objective = load(encoder_decoders[kind])
        examples = examples_of(loaded, tmp_path)
        settings = make_settings(micro_batch_tokens=tokens)
        model = prepare_for_training(loaded, settings).train()
        shares = share_out(objective, examples, settings)
        results.append(train_step(model, make_optimizer(model, settings), objective, shares, settings, 1e-3))
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_batches_stay_within_the_budget_and_lose_nothing(encoder_decoders: dict[str, Path], tmp_path: Path) -> None:
    loaded, objective = load(encoder_decoders["bart"])
    examples = examples_of(loaded, tmp_path, 40)
    batches = objective.batches(examples, 300)
    for batch in batches:
        read = max(len(one.target) for one in batch) + len(objective.answer_start) - 1
        assert len(batch) * (max(len(one.prompt) for one in batch) + read) <= 300
    assert sorted(map(id, examples)) == sorted(id(one) for batch in batches for one in batch)
    assert [len(one.prompt) for batch in batches for one in batch] == sorted(
        (len(one.prompt) for one in examples), reverse=True
    )


def test_too_long_an_example_is_told(encoder_decoders: dict[str, Path], tmp_path: Path) -> None:
    loaded, objective = load(encoder_decoders["bart"])
    example = examples_of(loaded, tmp_path)[0]
    with pytest.raises(FlanlabError, match="does not fit into a batch of 5") as caught:
        objective.batches([example], 5)
    assert "micro_batch_tokens" in caught.value.hint
    long = EncodedExample(example.example, [5] * 257, example.target, False)
    with pytest.raises(FlanlabError, match="257 tokens is longer than the 256") as caught:
        objective.loss(loaded.model, [long])
    assert "mixture.prompt_tokens" in caught.value.hint


def test_interrupted_tuning_goes_on_bit_for_bit(
    encoder_decoders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T5 has dropout, which would draw other numbers after an interruption."""
    settings, mixture = make_settings(), make_mixture(tmp_path / "tasks")

    def go(name: str) -> None:
        train_tiny(load(encoder_decoders["t5"])[0], mixture, settings, tmp_path / name)

    go("whole")
    original = trainer.train_step

    def stopping(*args: Any) -> tuple[float, float]:
        if args[-1] == settings.learning_rate_at(4):
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(trainer, "train_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        go("parts")
    monkeypatch.setattr(trainer, "train_step", original)
    go("parts")
    assert_same_training(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adafactor"}, {"method": "lora", "lora_rank": 4}], ids=str)
def test_tuning_lowers_the_loss(changes: dict[str, Any], encoder_decoders: dict[str, Path], tmp_path: Path) -> None:
    loaded, objective = load(encoder_decoders["flan-t5"])
    examples = examples_of(loaded, tmp_path)
    settings = make_settings(**changes)
    model = prepare_for_training(loaded, settings).train()
    optimizer = make_optimizer(model, settings)
    shares = share_out(objective, examples, settings)
    losses = [train_step(model, optimizer, objective, shares, settings, 1e-2)[0] for _ in range(10)]
    assert losses[-1] < 0.8 * losses[0]
