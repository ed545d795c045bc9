"""What training costs, worked out from a model's configuration before anything is loaded: memory, time, disk.

The model is built without weights, prepared as it is for training, and run once on tensors that have shapes but no content.
What autograd would keep for the backward pass is counted there, so the figures hold for any architecture and method.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.modeling_layers import GradientCheckpointingLayer

from flanlab.data.mixture import EncodedExample, MixtureSettings
from flanlab.data.rendering import Example
from flanlab.models.skeleton import build_skeleton, read_config
from flanlab.training.loss import Objective, PackedObjective, PaddedObjective
from flanlab.training.methods import make_trainable
from flanlab.training.settings import TrainingSettings

PROGRAM_BYTES = {"cpu": 600 * 2**20, "gpu": 600 * 2**20}
"""Python with its libraries (measured), and on a GPU the context of the driver (in general 400 to 700 MiB)."""


@dataclass(frozen=True)
class Memory:
    """Bytes that one process needs at most, by part."""

    program: int
    weights: int
    """Of the whole model; trained ones in float32, others as they are loaded."""
    gathered: int
    """Layers put together for computing, where weights are sharded."""
    gradients: int
    optimizer: int
    activations: int
    """What the backward pass needs of a micro-batch, its weights in bfloat16 among it."""
    logits: int
    """Logits at target positions, with their softmax and gradients."""
    update: int
    """What the optimizer needs for a moment; activations and logits are gone by then."""

    @property
    def total(self) -> int:
        """The largest sum of what is there at a time."""
        kept = self.program + self.weights + self.gathered + self.gradients + self.optimizer
        return kept + max(self.activations + self.logits, self.update)


@dataclass(frozen=True)
class Estimate:
    """What training costs; bytes, operations and counts."""

    parameters: int
    trained: int
    plain: Memory
    """Of each process, without gradient checkpointing."""
    checkpointed: Memory
    """The same with it."""
    tokens: int
    """Of the whole training: steps x tokens a step."""
    operations: float
    """Floating-point operations of the whole training."""
    checkpoint_bytes: int
    """One checkpoint on disk; the one before it is there until it is written."""
    model_bytes: int
    """The tuned model on disk, or its adapter."""


def estimate_training(
    model: str, settings: TrainingSettings, mixture: MixtureSettings, *, on_gpu: bool, processes: int = 1
) -> Estimate:
    """Work out what training a model costs.

    Args:
        model: a folder, a Hub id, or the embedded model; of its files only the configuration is read.
        settings: the recipe's training section.
        mixture: the recipe's mixture section; a micro-batch is taken to be full of the longest examples that it allows.
        on_gpu: bfloat16 computing and weights that are not trained, as on a GPU; else float32.
        processes: how many share the work.

    Raises:
        FlanlabError: the configuration is not within reach, or the model cannot be built from it.
    """
    config = read_config(model)
    # What is trained is float32 everywhere.
    dtype = torch.bfloat16 if on_gpu and settings.method != "full" else torch.float32
    with torch.device("meta"):
        whole = build_skeleton(model, config, dtype)
        parameters = _numel(whole)
        body, head = _sizes(whole)
        trainable = make_trainable(whole, settings).train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        _move_to_fake_tensors(trainable)
        kept = _count_kept(trainable, settings, mixture, bool(config.is_encoder_decoder), on_gpu)
        largest_layer = max((_numel(layer) for layer in _layers(trainable)), default=0)
        tensors = [(parameter.shape, parameter.requires_grad, parameter.element_size()) for parameter in trainable.parameters()]
    trained = [shape for shape, requires_grad, _ in tensors if requires_grad]
    trained_count = sum(shape.numel() for shape in trained)
    state = sum(_state_bytes(shape, settings) for shape in trained)
    sharded = processes if getattr(settings, "parallel", "ddp") == "fsdp" else 1
    fixed = {
        "program": PROGRAM_BYTES["gpu" if on_gpu else "cpu"],
        "weights": sum(shape.numel() * size for shape, _, size in tensors) // sharded,
        # A layer and the one after it, which is fetched ahead.
        "gathered": 0 if sharded == 1 else 2 * largest_layer * (2 if on_gpu else 4),
        "gradients": 4 * trained_count // sharded,
        "optimizer": state // sharded,
        "logits": kept.logits,
        "update": _update_bytes(trained, settings) // sharded,
    }
    prompt, target, _ = _longest_batch(settings, mixture)
    share = target / (prompt + target)
    tokens = settings.steps * settings.tokens_per_step
    passes = 3 if settings.method == "full" else 2
    if settings.gradient_checkpointing:
        passes += 1
    # 6 N D for all weights (Kaplan et al. 2020): 2 N forward, 4 N backward, of which 2 N are for gradients of frozen weights.
    per_token = sum(size * (1 if part == "all" else share if part == "target" else 1 - share) for part, size in body.items())
    return Estimate(
        parameters=parameters,
        trained=trained_count,
        plain=Memory(**fixed, activations=kept.outside + sum(kept.layers)),
        checkpointed=Memory(**fixed, activations=kept.outside + sum(kept.inputs) + max(kept.layers, default=0)),
        tokens=tokens,
        operations=2.0 * passes * tokens * (per_token + head * share),
        checkpoint_bytes=4 * trained_count + state,
        model_bytes=4 * (parameters if settings.method == "full" else trained_count),
    )


@dataclass
class _Kept:
    """Bytes that autograd keeps of a micro-batch."""

    outside: int
    layers: list[int]
    """Within each layer."""
    inputs: list[int]
    """What enters each layer, all that is kept of it with gradient checkpointing."""
    logits: int


def _count_kept(
    model: nn.Module, settings: TrainingSettings, mixture: MixtureSettings, has_encoder: bool, on_gpu: bool
) -> _Kept:
    """Compute the loss of a micro-batch, and count what is saved for the backward pass, each storage once."""
    prompt, target, rows = _longest_batch(settings, mixture)
    nothing = Example("", "", 1, 0, "", "")
    examples = [EncodedExample(nothing, [1] * prompt, [1] * target, False)] * rows
    objective: Objective = PaddedObjective((0,)) if has_encoder else PackedObjective()
    owned = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    # The storages are held, so that no other gets the number of one that is gone.
    seen: dict[int, Any] = {}
    saved: list[tuple[nn.Module | None, int]] = []
    inputs: list[int] = []
    stack: list[nn.Module] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in owned and storage._cdata not in seen:
            seen[storage._cdata] = storage
            if tensor.shape[-1:] != (vocabulary,):
                saved.append((stack[-1] if stack else None, storage.nbytes()))
        return tensor

    def enter(layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        stack.append(layer)
        hidden = given[0] if given else named["hidden_states"]
        inputs.append(hidden.numel() * hidden.element_size())

    def leave(*_: object) -> None:
        stack.pop()

    layers = list(_layers(model))
    inner: Any = model
    vocabulary = inner.config.get_text_config(decoder=True).vocab_size
    hooks = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
    hooks += [layer.register_forward_hook(leave) for layer in layers]
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=on_gpu),
    ):
        objective.loss(model, examples)
    for hook in hooks:
        hook.remove()
    return _Kept(
        outside=sum(size for layer, size in saved if layer is None),
        layers=[sum(size for layer, size in saved if layer is one) for one in layers],
        inputs=inputs,
        # Softmax and its gradient and the logits' in float32, and in bfloat16 the logits themselves.
        logits=rows * target * vocabulary * (14 if on_gpu else 12),
    )


def _longest_batch(settings: TrainingSettings, mixture: MixtureSettings) -> tuple[int, int, int]:
    """Tokens of the prompt and of the target of the longest examples, and how many fill a micro-batch."""
    longest = mixture.prompt_tokens + mixture.target_tokens
    rows = max(1, round(settings.micro_batch_tokens / longest))
    length = settings.micro_batch_tokens // rows
    target = max(1, length * mixture.target_tokens // longest)
    return max(1, length - target), target, rows


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    return (layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer))


def _numel(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _sizes(model: Any) -> tuple[dict[str, int], int]:
    """Parameters that compute, by the tokens they compute (all, or those of prompt and target), and those of the output layer.

    The input embedding is looked up, not computed.
    """
    embedding = model.get_input_embeddings().weight.numel()
    head = model.get_output_embeddings().weight.numel()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    rest = _numel(model) - embedding - (0 if tied else head)
    if not model.config.is_encoder_decoder:
        return {"all": rest}, head
    encoder = sum(_numel(layer) for layer in _layers(model.get_encoder()))
    return {"prompt": encoder, "target": rest - encoder}, head


def _state_bytes(shape: torch.Size, settings: TrainingSettings) -> int:
    """What the optimizer keeps of a parameter, float32: two moments, or sums of rows and columns (Shazeer & Stern 2018)."""
    if settings.optimizer == "adamw":
        return 8 * shape.numel()
    if len(shape) < 2:
        return 4 * shape.numel()
    return 4 * (shape[:-1].numel() + shape[:-2].numel() * shape[-1])


def _update_bytes(trained: list[torch.Size], settings: TrainingSettings) -> int:
    """AdamW is one pass over the memory; Adafactor makes copies of a parameter while it is at it."""
    return 0 if settings.optimizer == "adamw" else 12 * max((shape.numel() for shape in trained), default=0)


def _move_to_fake_tensors(model: nn.Module) -> None:
    """Put tensors that claim to lie on the CPU in place of those on the meta device; tied ones stay tied.

    The kernels that a tensor on the CPU would meet say what they keep; those of the meta device would keep more.
    """
    moved: dict[Tensor, Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if tensor not in moved:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    trains = isinstance(tensor, nn.Parameter)
                    moved[tensor] = nn.Parameter(fake, tensor.requires_grad) if trains else fake
                tensors[name] = moved[tensor]
