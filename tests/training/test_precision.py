"""What a step computes in, and which weights it leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from flanlab.data.mixture import EncodedExample
from flanlab.experiments.run import save_tuned
from flanlab.models.loading import LoadedModel, load_model
from flanlab.training import precision
from flanlab.training.loss import PackedObjective
from flanlab.training.methods import make_optimizer, prepare_for_training
from flanlab.training.precision import bfloat16_gain, settle, trains_embeddings, vocabulary_weights
from flanlab.training.trainer import share_out, train_step
from tests.tiny import save_tiny
from tests.training.stream import STAMP, assert_same_training, make_mixture, make_settings, read_log, train_tiny, weights


@pytest.fixture
def train_from(tmp_path: Path) -> Any:
    """Train a model from its first weights, or from a checkpoint in the folder named."""

    def run(base: Path, name: str, **changes: Any) -> nn.Module:
        loaded = load_model(str(base), device="cpu")
        return train_tiny(loaded, make_mixture(tmp_path / "tasks"), make_settings(**changes), tmp_path / name)

    return run


@pytest.mark.parametrize(("gain", "chosen"), [(0.05, "float32"), (1.1, "float32"), (4.8, "bfloat16")])
def test_auto_takes_bfloat16_only_where_it_is_really_faster(
    gain: float, chosen: str, tiny: LoadedModel, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bfloat16_gain", lambda _: gain)
    settled = settle(make_settings(compute_dtype="auto"), tiny.model)
    assert settled.compute_dtype == chosen
    assert "Warning" not in capsys.readouterr().err


def test_bfloat16_asked_for_on_a_slow_processor_is_taken_with_a_warning(
    tiny: LoadedModel, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(compute_dtype="bfloat16")
    monkeypatch.setattr(precision, "bfloat16_gain", lambda _: 0.05)
    assert settle(settings, tiny.model).compute_dtype == "bfloat16"
    assert "bfloat16 is 20.0 times slower than float32 here" in capsys.readouterr().err
    monkeypatch.setattr(precision, "bfloat16_gain", lambda _: 2.0)
    settle(settings, tiny.model)
    assert "slower" not in capsys.readouterr().err


def test_float32_asked_for_is_not_measured(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(_: nn.Module) -> float:
        raise AssertionError("measured")

    monkeypatch.setattr(precision, "bfloat16_gain", measure)
    assert settle(make_settings(compute_dtype="float32"), tiny.model).compute_dtype == "float32"


def test_the_measurement_compares_two_speeds(tiny: LoadedModel) -> None:
    assert 0 < bfloat16_gain(tiny.model) < 1000


def test_bfloat16_training_stays_near_float32(train_from: Any, tiny_folder: Path, tmp_path: Path) -> None:
    changes = {"steps": 12, "learning_rate": 1e-3}
    for dtype in ("float32", "bfloat16"):
        trained = train_from(tiny_folder, dtype, compute_dtype=dtype, **changes)
        assert {parameter.dtype for parameter in trained.parameters()} == {torch.float32}
    exact, rounded = ([record["loss"] for record in read_log(tmp_path / dtype)] for dtype in ("float32", "bfloat16"))
    assert rounded == pytest.approx(exact, rel=0.02)
    assert rounded != exact


def test_interrupted_bfloat16_training_resumes_bit_for_bit(train_from: Any, tiny_folder: Path, tmp_path: Path) -> None:
    changes = {"compute_dtype": "bfloat16", "train_embeddings": False, "schedule": "constant"}
    train_from(tiny_folder, "whole", steps=6, **changes)
    train_from(tiny_folder, "parts", steps=3, **changes)
    train_from(tiny_folder, "parts", steps=6, **changes)
    assert_same_training(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_frozen_embeddings_are_unchanged_bit_for_bit(tied: bool, dtype: str, train_from: Any, tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base", tie_word_embeddings=tied)
    loaded = load_model(str(base), device="cpu")
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    model = train_from(base, "frozen", train_embeddings=False, compute_dtype=dtype)
    assert all(weight.grad is None for weight in vocabulary_weights(model))
    save_tuned(model, loaded, STAMP, tmp_path / "tuned")
    after = load_model(str(tmp_path / "tuned"), device="cpu").model.state_dict()
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    assert unchanged == {"model.embed_tokens.weight", "lm_head.weight"}
    saved = weights(tmp_path / "frozen")
    assert saved
    assert not any("embed_tokens" in name or "lm_head" in name for name in saved)


def test_gradients_of_the_rest_are_those_of_whole_training(tiny_folder: Path, tmp_path: Path) -> None:
    """Freezing takes gradients away and changes none."""
    found: dict[bool, dict[str, torch.Tensor]] = {}
    for trains in (True, False):
        loaded = load_model(str(tiny_folder), device="cpu")
        model = prepare_for_training(loaded, make_settings(train_embeddings=trains))
        example = make_mixture(tmp_path / "tasks").examples([0], loaded.encoder)[0]
        assert isinstance(example, EncodedExample)
        PackedObjective().loss(model, [example]).backward()
        found[trains] = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert set(found[True]) - set(found[False]) == {"model.embed_tokens.weight"}
    assert all(torch.equal(value, found[True][name]) for name, value in found[False].items())


def test_auto_freezes_embeddings_where_they_are_most_of_the_parameters(tiny: LoadedModel, tmp_path: Path) -> None:
    auto = make_settings(train_embeddings="auto")
    assert trains_embeddings(auto, tiny.model)
    large = load_model(str(save_tiny(tmp_path / "large", vocab_size=4000)), device="cpu")
    assert not trains_embeddings(auto, large.model)
    assert trains_embeddings(make_settings(train_embeddings=True), large.model)
    assert settle(auto, large.model).train_embeddings is False


def test_other_methods_do_not_train_embeddings(tiny: LoadedModel) -> None:
    assert settle(make_settings(method="lora"), tiny.model).train_embeddings is False
    with pytest.raises(ValidationError, match="method: lora does not train embeddings"):
        make_settings(method="lora", train_embeddings=True)


def test_a_frozen_output_layer_computes_as_under_autocast(tiny: LoadedModel, tmp_path: Path) -> None:
    example = make_mixture(tmp_path / "tasks").examples([0], tiny.encoder)[0]
    assert isinstance(example, EncodedExample)
    settings = make_settings(train_embeddings=False, compute_dtype="bfloat16")
    head, states = tiny.model.get_output_embeddings(), torch.randn(5, 32)
    with torch.autocast("cpu", torch.bfloat16):
        expected = head(states)
    before = head.weight.clone()
    prepare_for_training(tiny, settings)
    assert "forward" in vars(head)
    assert torch.equal(head(states), expected)
    assert torch.equal(head.weight, before)


def test_weights_are_cast_once_a_step(tiny: LoadedModel, tmp_path: Path) -> None:
    """Many micro-batches cost no more casts of weights than one, and give the same update."""
    mixture = make_mixture(tmp_path / "tasks")
    examples = [found for place in range(8) if isinstance(found := mixture.examples([place], tiny.encoder)[0], EncodedExample)]
    weight = next(value for name, value in tiny.model.named_parameters() if name.endswith("gate_proj.weight"))
    casts = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.ops.aten._to_copy.default and args[0] is weight:
                casts.append(function)
            return function(*args, **(kwargs or {}))

    settings = make_settings(compute_dtype="bfloat16", micro_batch_tokens=max(one.length for one in examples))
    model = prepare_for_training(tiny, settings).train()
    shares = share_out(PackedObjective(), examples, settings)
    assert len(shares[0]) > 1
    with Counting():
        train_step(model, make_optimizer(model, settings), PackedObjective(), shares, settings, 1e-3)
    assert len(casts) == 1
