"""What training costs, worked out without weights, is what it really costs, on tiny models."""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flanlab.data.mixture import EncodedExample, MixtureSettings
from flanlab.data.rendering import Example
from flanlab.errors import FlanlabError
from flanlab.models.loading import load_model
from flanlab.training.estimate import Memory, estimate_training
from flanlab.training.loss import Objective, objective_for
from flanlab.training.methods import checkpoint_layers, make_optimizer, prepare_for_training
from flanlab.training.trainer import share_out, train_step
from tests.training.stream import make_settings

MIXTURE = MixtureSettings(prompt_tokens=48, target_tokens=16)
METHODS: list[dict[str, Any]] = [
    {},
    {"optimizer": "adafactor"},
    {"method": "lora", "lora_rank": 4},
    {"method": "prompt", "prompt_length": 6},
]


@pytest.fixture
def folders(tiny_folders: dict[str, Path], encoder_decoders: dict[str, Path]) -> dict[str, Path]:
    return {**tiny_folders, **encoder_decoders}


def longest_examples(virtual: int) -> list[EncodedExample]:
    """Two examples of 64 tokens, which fill a micro-batch of 128. Virtual tokens take their place in it."""
    return [EncodedExample(Example("", "", 1, 0, "", ""), [1] * (48 - virtual), [1] * 16, False)] * 2


def allocated_at_most(model: nn.Module, objective: Objective, examples: list[EncodedExample], trace: Path) -> int:
    """Bytes that torch's allocator says are in use at most while loss and gradients are computed; each gradient is dropped."""

    def drop(parameter: Tensor) -> None:
        parameter.grad = None

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(drop)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        objective.loss(model, examples).backward()
    profiler.export_chrome_trace(str(trace))
    events = [one for one in json.loads(trace.read_text())["traceEvents"] if one["name"] == "[memory]"]
    assert events
    return max(accumulate(one["args"]["Bytes"] for one in sorted(events, key=lambda one: one["ts"])))


@pytest.mark.parametrize("changes", METHODS, ids=str)
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt_neox", "t5", "flan-t5", "bart"])
def test_parts_are_those_of_real_training(kind: str, changes: dict[str, Any], folders: dict[str, Path], tmp_path: Path) -> None:
    has_encoder = kind in ("t5", "flan-t5", "bart")
    if has_encoder and changes.get("method") == "prompt":
        pytest.skip("soft prompts are for decoder-only models")
    settings = make_settings(**changes)
    estimate = estimate_training(str(folders[kind]), settings, MIXTURE, on_gpu=False)
    loaded = load_model(str(folders[kind]), device="cpu")
    assert estimate.parameters == loaded.parameters
    model = prepare_for_training(loaded, settings).train()
    optimizer, objective = make_optimizer(model, settings), objective_for(model, loaded.encoder)
    examples = longest_examples(changes.get("prompt_length", 0))
    train_step(model, optimizer, objective, share_out(objective, examples, settings), settings, 1e-3)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert estimate.trained == sum(parameter.numel() for parameter in trained)
    memory = estimate.plain
    assert memory.weights == sum(parameter.nbytes for parameter in model.parameters())
    assert memory.gradients == sum(parameter.grad.nbytes for parameter in trained if parameter.grad is not None)
    state = [value for entries in optimizer.state.values() for value in entries.values() if isinstance(value, Tensor)]
    assert memory.optimizer == sum(value.nbytes for value in state if value.dim())
    assert estimate.checkpoint_bytes == memory.gradients + memory.optimizer

    optimizer.zero_grad()
    needed = allocated_at_most(model, objective, examples, tmp_path / "trace.json")
    # Attention with a mask, as encoder-decoder models have it, is counted as if every score were kept.
    most = 1.25 if has_encoder else 1.001
    assert 0.999 * needed < memory.batch < most * needed
    checkpoint_layers(loaded.model)
    needed = allocated_at_most(model, objective, examples, tmp_path / "trace.json")
    assert 0.9 * needed < estimate.checkpointed.batch < most * needed


def test_gradient_checkpointing_keeps_what_enters_a_layer(tiny_folder: Path) -> None:
    estimate = estimate_training(str(tiny_folder), make_settings(), MIXTURE, on_gpu=False)
    deeper = make_settings(gradient_checkpointing=True)
    assert estimate_training(str(tiny_folder), deeper, MIXTURE, on_gpu=False).checkpointed == estimate.checkpointed
    entering = 2 * 128 * 32 * 4
    assert entering < estimate.checkpointed.batch < estimate.plain.batch
    assert estimate_training(str(tiny_folder), deeper, MIXTURE, on_gpu=False).operations == estimate.operations * 8 / 6


def test_a_gpu_computes_in_bfloat16(tiny_folder: Path) -> None:
    lora = make_settings(method="lora", lora_rank=4)
    on_cpu, on_gpu = (estimate_training(str(tiny_folder), lora, MIXTURE, on_gpu=gpu) for gpu in (False, True))
    assert on_gpu.parameters == on_cpu.parameters
    assert on_gpu.plain.weights < 0.7 * on_cpu.plain.weights, "weights that are not trained are loaded in bfloat16"
    assert on_gpu.plain.gradients == on_cpu.plain.gradients
    assert on_gpu.plain.batch < on_cpu.plain.batch
    full = estimate_training(str(tiny_folder), make_settings(), MIXTURE, on_gpu=True)
    assert full.plain.weights == 4 * full.parameters, "trained ones are float32"


def test_sharded_parts_are_divided(tiny_folder: Path) -> None:
    whole = estimate_training(str(tiny_folder), make_settings(), MIXTURE, on_gpu=True, processes=4)
    parts = estimate_training(str(tiny_folder), make_settings(parallel="fsdp"), MIXTURE, on_gpu=True, processes=4)
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(parts.plain, name) == getattr(whole.plain, name) // 4
    assert parts.plain.gathered > 0 == whole.plain.gathered
    assert parts.plain.loading == whole.plain.weights > 0 == whole.plain.loading
    assert parts.plain.batch == whole.plain.batch
    assert parts.checkpoint_bytes == whole.checkpoint_bytes


def test_total_is_the_largest_at_a_time() -> None:
    passing = {"batch": 80, "lost": 20}
    assert Memory(1, 2, 3, 4, 5, **passing, update=99, loading=114).total == 15 + 100
    assert Memory(1, 2, 3, 4, 5, **passing, update=101, loading=114).total == 15 + 101
    assert Memory(1, 2, 3, 4, 5, **passing, update=99, loading=120).total == 1 + 120


def test_operations_are_those_of_kaplan(tiny_folder: Path, encoder_decoders: dict[str, Path]) -> None:
    settings = make_settings()
    tokens = settings.steps * settings.tokens_per_step
    loaded = load_model(str(tiny_folder), device="cpu")
    embedding = loaded.model.get_input_embeddings().weight.numel()
    body = loaded.parameters - embedding
    # The output layer, which is the embedding here, is computed at target positions alone: a quarter.
    found = estimate_training(str(tiny_folder), settings, MIXTURE, on_gpu=False)
    assert found.tokens == tokens
    assert found.operations == 6 * tokens * (body + embedding / 4)
    lora = estimate_training(str(tiny_folder), make_settings(method="lora"), MIXTURE, on_gpu=False)
    assert lora.operations == 4 * tokens * (body + embedding / 4)
    # Prompts go through the encoder alone, targets through the decoder.
    t5 = load_model(str(encoder_decoders["t5"]), device="cpu")
    embedding = t5.model.get_input_embeddings().weight.numel()
    encoder = sum(value.numel() for value in t5.model.get_encoder().block.parameters())
    decoder = t5.parameters - embedding - encoder
    found = estimate_training(str(encoder_decoders["t5"]), settings, MIXTURE, on_gpu=False)
    assert found.operations == pytest.approx(6 * tokens * (0.75 * encoder + 0.25 * (decoder + embedding)))


def test_configuration_out_of_reach_is_told(tmp_path: Path) -> None:
    with pytest.raises(FlanlabError, match=r"The configuration of .* is not available") as caught:
        estimate_training(str(tmp_path), make_settings(), MIXTURE, on_gpu=False)
    assert "config.json" in caught.value.hint
