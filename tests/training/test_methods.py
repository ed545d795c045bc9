"""How a model is prepared for training: dropout off, and the forward pass computed again where memory is short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from flanlab.data.mixture import EncodedExample
from flanlab.models.loading import LoadedModel, load_model
from flanlab.training.loss import objective_for
from flanlab.training.methods import prepare_for_training, without_dropout
from tests.tiny import make_tokenizer
from tests.training.stream import make_mixture, make_settings


def examples_of(loaded: LoadedModel, folder: Path) -> list[EncodedExample]:
    return [one for one in make_mixture(folder).examples(range(6), loaded.encoder) if isinstance(one, EncodedExample)]


def loss_and_gradients(model: nn.Module, loaded: LoadedModel, examples: list[EncodedExample]) -> tuple[float, dict[str, Any]]:
    loss = objective_for(model, loaded.encoder).loss(model.train(), examples)
    loss.backward()
    return loss.item(), {name: value.grad for name, value in model.named_parameters()}


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_no_dropout_is_left_in_an_encoder_decoder_model(kind: str, encoder_decoders: dict[str, Path], tmp_path: Path) -> None:
    loaded = load_model(str(encoder_decoders[kind]), device="cpu")
    objective, examples = objective_for(loaded.model, loaded.encoder), examples_of(loaded, tmp_path)
    with torch.no_grad():
        plain = objective.loss(loaded.model, examples).item()
        assert objective.loss(loaded.model.train(), examples).item() != plain, "there is dropout to be turned off"
        without_dropout(loaded.model)
        assert objective.loss(loaded.model, examples).item() == plain


def test_no_dropout_is_left_in_a_causal_model(tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(vocab_size=340, n_embd=32, n_layer=2, n_head=4, n_positions=256)).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), device="cpu")
    examples = examples_of(loaded, tmp_path / "tasks")
    model = prepare_for_training(loaded, make_settings()).train()
    assert len({objective_for(loaded.model, loaded.encoder).loss(model, examples).item() for _ in range(3)}) == 1


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_gradient_checkpointing_changes_no_gradient(
    kind: str, method: str, tiny_folders: dict[str, Path], encoder_decoders: dict[str, Path], tmp_path: Path
) -> None:
    """Layers run twice, which is what saves the memory; the loss and all gradients stay as they are."""
    found = []
    for checkpointing in (False, True):
        loaded = load_model(str({**tiny_folders, **encoder_decoders}[kind]), device="cpu")
        model = prepare_for_training(loaded, make_settings(method=method, gradient_checkpointing=checkpointing))
        runs: list[int] = []
        layer = next(module for module in model.modules() if type(module).__name__ in ("LlamaMLP", "T5LayerFF"))
        layer.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        loss, gradients = loss_and_gradients(model, loaded, examples_of(loaded, tmp_path))
        assert len(runs) == 1 + checkpointing
        found.append((loss, gradients))
    (plain, expected), (loss, gradients) = found
    assert loss == pytest.approx(plain, rel=1e-6)
    assert any(value is not None for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["lora", "prompt"])
def test_initial_weights_follow_the_seed(method: str, tiny_folders: dict[str, Path]) -> None:
    def start(seed: int) -> torch.Tensor:
        loaded = load_model(str(tiny_folders["llama"]), device="cpu")
        model = prepare_for_training(loaded, make_settings(method=method, seed=seed))
        return torch.cat([value.flatten() for value in model.parameters() if value.requires_grad])

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))
