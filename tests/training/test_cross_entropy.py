"""The loss is computed a few rows of logits at a time: the same numbers as at once, in less memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flanlab.data.mixture import EncodedExample
from flanlab.data.rendering import Example
from flanlab.models.loading import load_model
from flanlab.training import loss as loss_module
from flanlab.training.loss import example_weight, objective_for
from flanlab.training.methods import prepare_for_training
from flanlab.training.settings import LossAverage
from tests.tiny import save_tiny
from tests.training.stream import make_settings

NOTHING = Example("", "", 1, 0, "", "")
EXAMPLES = [
    EncodedExample(NOTHING, [5, 9, 30, 41, 7], [12, 0], False),
    EncodedExample(NOTHING, [40, 41, 42], [43, 44, 45, 46, 0], False),
    EncodedExample(NOTHING, [8], [0], False),
]
TARGETS = 8
WAYS: list[tuple[str, dict[str, Any], LossAverage]] = [
    ("llama", {}, "tokens"),
    ("gemma2", {}, "sqrt"),  # caps its logits
    ("llama", {"method": "lora", "lora_rank": 4}, "sqrt"),
    ("llama", {"method": "prompt", "prompt_length": 6}, "examples"),
    ("t5", {}, "tokens"),
    ("bart", {"method": "lora", "lora_rank": 4}, "examples"),
]


def loss_and_gradients(folder: Path, changes: dict[str, Any], average: LossAverage) -> tuple[float, dict[str, Tensor]]:
    """Those of a batch; adapters begin with the same numbers each time."""
    loaded = load_model(str(folder), device="cpu")
    model = prepare_for_training(loaded, make_settings(**changes))
    if changes.get("method") == "lora":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for name, parameter in model.named_parameters():
                if "lora_B" in name:  # zero at first, so that there would be no gradients elsewhere
                    torch.nn.init.normal_(parameter, std=0.1)
    weights = None if average == "tokens" else [example_weight(one, average) for one in EXAMPLES]
    loss = objective_for(model, loaded.encoder).loss(model, EXAMPLES, weights)
    # As in a step, whose loss is divided.
    (loss / 3).backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert gradients
    return loss.item(), gradients


def at_once(logits: Tensor, targets: Tensor, examples: list[EncodedExample], weights: list[float] | None) -> Tensor:
    """The loss by torch's own functions."""
    by_token = [weight for one, weight in zip(examples, weights or [1.0] * len(examples), strict=True) for _ in one.target]
    return (functional.cross_entropy(logits, targets, reduction="none") * torch.tensor(by_token)).sum()


@pytest.mark.parametrize(("kind", "changes", "average"), WAYS, ids=str)
def test_pieces_give_the_same_loss_and_gradients(
    kind: str,
    changes: dict[str, Any],
    average: LossAverage,
    tiny_folders: dict[str, Path],
    encoder_decoders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    capped = save_tiny(tmp_path, "gemma2", final_logit_softcapping=0.5)
    folder = {**tiny_folders, **encoder_decoders, "gemma2": capped}[kind]
    vocabulary = load_model(str(folder), device="cpu").model.config.vocab_size
    monkeypatch.setattr(loss_module, "_PIECE", 3 * vocabulary)
    found, gradients = loss_and_gradients(folder, changes, average)
    monkeypatch.setattr(loss_module, "_cross_entropy", at_once)
    expected, expected_gradients = loss_and_gradients(folder, changes, average)
    assert found == pytest.approx(expected, rel=1e-6)
    assert gradients.keys() == expected_gradients.keys()
    whole, expected_whole = (torch.cat([each.flatten() for each in one.values()]) for one in (gradients, expected_gradients))
    assert (whole - expected_whole).norm() < 1e-6 * expected_whole.norm()


def test_there_is_one_tensor_of_the_size_of_the_logits(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(str(tiny_folder), device="cpu")
    model = prepare_for_training(loaded, make_settings())
    size = TARGETS * loaded.model.config.vocab_size
    made: dict[int, Tensor] = {}

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for one in tree_leaves(result):
                if isinstance(one, Tensor) and one.numel() == size and one.shape[-1] * TARGETS == size:
                    made[one.untyped_storage().data_ptr()] = one  # held, so that no other gets its place
            return result

    def count(piece: int) -> int:
        monkeypatch.setattr(loss_module, "_PIECE", piece)
        made.clear()
        with Watch():
            objective_for(model, loaded.encoder).loss(model, EXAMPLES).backward()
        return len(made)

    assert count(2 * loaded.model.config.vocab_size) == 1
    assert count(size) > 1, "all rows in one piece"


def test_logits_that_another_operation_needs_are_not_overwritten_unnoticed() -> None:
    """A model whose last operation keeps its result for its own gradient, as tanh does."""
    logits = torch.randn(4, 9, requires_grad=True).tanh()
    loss = loss_module._cross_entropy(logits, torch.arange(4), [EncodedExample(NOTHING, [1], [0, 1, 2, 3], False)], None)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
