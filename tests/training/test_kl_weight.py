"""The penalty on predicting prompts differently from the untuned model: by its definition, and what it does."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from flanlab.data.mixture import EncodedExample
from flanlab.experiments.cost import TokenCosts
from flanlab.models.loading import LoadedModel, load_model
from flanlab.models.packed_attention import pack_segments, packed_logits
from flanlab.training.loss import objective_for
from flanlab.training.methods import check_method
from flanlab.training.trainer import share_out, train_step
from tests.task_files import refusal
from tests.tiny import stock_model
from tests.training.stream import assert_same_training, make_mixture, make_settings, train_tiny
from tests.training.test_loss_average import examples_of, gradients


def differing(loaded: LoadedModel) -> torch.nn.Module:
    """The same model with other weights."""
    other = deepcopy(loaded.model).requires_grad_(False)
    torch.manual_seed(1)
    for weight in other.parameters():
        weight.add_(0.05 * torch.randn_like(weight))
    return other


def step(loaded: LoadedModel, untuned: Any, examples: list[EncodedExample], **changes: Any) -> tuple[float, dict[str, Any]]:
    settings = make_settings(gradient_clip=1e9, **changes)
    objective = objective_for(loaded.model, loaded.encoder, untuned)
    optimizer = torch.optim.SGD(loaded.model.parameters(), lr=0.0)
    loss, _ = train_step(loaded.model, optimizer, objective, share_out(objective, examples, settings), settings, 0.0)
    return loss, gradients(loaded.model)


@pytest.mark.parametrize("micro_batch_tokens", [200, 4096])
@pytest.mark.parametrize("average", ["tokens", "sqrt"])
def test_it_is_the_mean_divergence_at_every_eighth_token_of_the_prompts(
    average: str, micro_batch_tokens: int, tiny: LoadedModel, tiny_folder: Path, tmp_path: Path
) -> None:
    """One example after the other, by transformers itself; however the step is divided."""
    examples, untuned = examples_of(tiny, tmp_path), differing(tiny)
    changes = {"loss_average": average, "micro_batch_tokens": micro_batch_tokens}
    plain, without = step(tiny, untuned, examples, **changes)
    found, ours = step(tiny, untuned, examples, kl_weight=3.0, **changes)
    reference, stock, total, count = stock_model(tiny_folder), stock_model(tiny_folder), torch.zeros(()), 0
    stock.load_state_dict(untuned.state_dict())
    for one in examples:
        prompt = torch.tensor([one.prompt])
        here, there = (model(input_ids=prompt).logits[0, 7::8].log_softmax(-1) for model in (reference, stock))
        total = total + functional.kl_div(here, there.detach(), log_target=True, reduction="sum")
        count += len(here)
    assert count > 5
    penalty = 3.0 * total / count
    assert found - plain == pytest.approx(penalty.item(), rel=1e-3)
    penalty.backward()
    for name, gradient in gradients(reference).items():
        torch.testing.assert_close(ours[name] - without[name], gradient, atol=1e-4, rtol=1e-3)


def test_without_a_difference_it_adds_nothing(tiny: LoadedModel, tmp_path: Path) -> None:
    examples = examples_of(tiny, tmp_path)
    plain, _ = step(tiny, None, examples)
    same, _ = step(tiny, deepcopy(tiny.model), examples, kl_weight=5.0)
    assert same == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_large_weight_keeps_the_predictions(method: str, tiny_folder: Path, tmp_path: Path) -> None:
    moved = {}
    untuned = stock_model(tiny_folder)
    mixture = make_mixture(tmp_path / "tasks")
    for kl_weight in (0.0, 30.0):
        loaded = load_model(str(tiny_folder), device="cpu")
        settings = make_settings(method=method, steps=12, learning_rate=5e-3, kl_weight=kl_weight)
        train_tiny(loaded, mixture, settings, tmp_path / f"{kl_weight}")
        prompt = examples_of(loaded, tmp_path / f"more-{kl_weight}")[0].prompt
        with torch.inference_mode():
            here = packed_logits(loaded.model.eval(), pack_segments([(prompt, [[0]])]))[:-1]
            there = untuned(input_ids=torch.tensor([prompt])).logits[0]
        both = (logits.log_softmax(-1) for logits in (here, there))
        moved[kl_weight] = functional.kl_div(*both, log_target=True, reduction="batchmean").item()
    assert moved[30.0] < 0.5 * moved[0.0]


def test_a_stopped_training_still_compares_with_the_untuned_model(tiny_folder: Path, tmp_path: Path) -> None:
    mixture = make_mixture(tmp_path / "tasks")
    for folder, stops in (("whole", [6]), ("parts", [3, 6])):
        for steps in stops:
            loaded = load_model(str(tiny_folder), device="cpu")
            settings = make_settings(steps=steps, schedule="constant", kl_weight=5.0)
            train_tiny(loaded, mixture, settings, tmp_path / folder)
    assert_same_training(tmp_path / "whole", tmp_path / "parts")


def test_where_it_has_no_meaning_it_is_refused(encoder_decoders: dict[str, Path]) -> None:
    for changes in ({"method": "prompt"}, {"parallel": "fsdp"}):
        with pytest.raises(ValueError, match="kl_weight needs the whole untuned model"):
            make_settings(kl_weight=1.0, **changes)
    folder = str(next(iter(encoder_decoders.values())))
    assert "kl_weight has no meaning" in refusal(lambda: check_method(folder, make_settings(kl_weight=1.0))).message


def test_it_has_a_price(tiny: LoadedModel) -> None:
    costs = TokenCosts()
    plain = costs.training(tiny, make_settings(compute_dtype="float32"))
    assert costs.training(tiny, make_settings(compute_dtype="float32", kl_weight=1.0)) == pytest.approx(1.4 * plain)
