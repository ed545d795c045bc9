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
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from flanlab.data.mixture import EncodedExample, MixtureSettings
from flanlab.data.rendering import Example
from flanlab.models.skeleton import build_skeleton, read_config
from flanlab.progress import say
from flanlab.training.loss import Objective, PackedObjective, PaddedObjective
from flanlab.training.methods import make_trainable
from flanlab.training.settings import TrainingSettings

_PROGRAM_ON_CPU = 490 * 2**20
_PROGRAM_ON_GPU = 600 * 2**20
"""Python with its libraries (measured), and on a GPU the context of the driver (in general 400 to 700 MiB)."""
_LOST_ON_CPU = {"full": 0.5, "lora": 1.6, "prompt": 0.75}
_LOST_CHECKPOINTED_ON_CPU = 0.3
_LOST_ON_GPU = 0.1
"""Memory lost between others, in activations without gradient checkpointing. On a CPU measured with glibc and SmolLM2-135M
(docs/train.md): what lives long comes to lie in the gaps that others leave. On a GPU assumed, of the activations there are."""


@dataclass(frozen=True)
class Memory:
    """Bytes that one process needs at most, by part."""

    program: int
    weights: int
    """Those that a process keeps; trained ones in float32, others as they are loaded."""
    gathered: int
    """Layers put together for computing, where weights are sharded."""
    gradients: int
    optimizer: int
    activations: int
    """What the backward pass needs of a micro-batch, its weights in bfloat16 among it."""
    lost: int
    """Gaps between what is in use, too small for what is needed next."""
    logits: int
    """Logits at target positions, with their softmax and gradients."""
    arriving: int
    """The gradient of one parameter more, before it is added to the others of the step."""
    update: int
    """What the optimizer needs for a moment; activations and logits are gone by then."""
    loading: int
    """Of weights that are sharded, the whole model, which a process reads before it keeps its share."""

    @property
    def total(self) -> int:
        """The largest sum of what is there at a time."""
        kept = self.program + self.weights + self.gathered + self.gradients + self.optimizer
        training = kept + max(self.activations + self.lost + self.logits + self.arriving, self.update)
        return max(training, self.program + self.loading)


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
        model: a folder, a Hub id, or a built-in model; of its files only the configuration is read.
        settings: the recipe's training section.
        mixture: the recipe's mixture section; a micro-batch is taken to be full of the longest examples that it allows.
        on_gpu: bfloat16 computing and weights that are not trained, as on a GPU; else float32.
        processes: how many share the work.

    Raises:
        FlanlabError: the configuration is not within reach, or the model cannot be built from it.
    """
    config = read_config(model, say)
    # What is trained is float32 everywhere.
    dtype = torch.bfloat16 if on_gpu and settings.method != "full" else torch.float32
    with torch.device("meta"):
        whole = build_skeleton(model, config, dtype)
        parts = _parts(whole)
        trainable = make_trainable(whole, settings).train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        _move_to_fake_tensors(trainable)
        kept = _count_kept(trainable, settings, mixture, on_gpu)
    trained = [parameter.shape for parameter in trainable.parameters() if parameter.requires_grad]
    trained_count = sum(shape.numel() for shape in trained)
    state = sum(_state_bytes(shape, settings) for shape in trained)
    checkpoint_bytes, model_bytes = _saved_bytes(parts.parameters, trained, settings)
    weights = sum(parameter.nbytes for parameter in trainable.parameters())
    plain = kept.outside + sum(kept.layers)
    sharded = processes if settings.parallel == "fsdp" else 1
    # Where the output layer is the embedding, on a CPU both gradients and their sum lie beside what was used before.
    arriving = 3 if parts.tied and settings.method == "full" and not on_gpu else 1

    def memory(activations: int, lost: float) -> Memory:
        return Memory(
            program=_PROGRAM_ON_GPU if on_gpu else _PROGRAM_ON_CPU,
            weights=weights // sharded,
            # A layer and the one after it, which is fetched ahead.
            gathered=0 if sharded == 1 else 2 * kept.largest_layer * (2 if on_gpu else 4),
            gradients=4 * trained_count // sharded,
            optimizer=state // sharded,
            activations=activations,
            lost=int(_LOST_ON_GPU * activations if on_gpu else lost * plain),
            logits=kept.logits,
            arriving=4 * arriving * max(shape.numel() for shape in trained),
            update=_update_bytes(trained, settings) // sharded,
            loading=0 if sharded == 1 else weights,
        )

    return Estimate(
        parameters=parts.parameters,
        trained=trained_count,
        plain=memory(plain, _LOST_ON_CPU[settings.method]),
        checkpointed=memory(kept.outside + sum(kept.inputs) + max(kept.layers, default=0), _LOST_CHECKPOINTED_ON_CPU),
        tokens=settings.steps * settings.tokens_per_step,
        operations=_operations(parts, settings, mixture),
        checkpoint_bytes=checkpoint_bytes,
        model_bytes=model_bytes,
    )


def saved_bytes(model: str, config: PreTrainedConfig, settings: TrainingSettings) -> tuple[int, int]:
    """Size of a checkpoint and of the tuned model on disk, in bytes.

    Raises:
        FlanlabError: the model cannot be built from its configuration.
    """
    with torch.device("meta"):
        whole = build_skeleton(model, config, torch.float32)
        parameters = _numel(whole)
        trainable = make_trainable(whole, settings)
    trained = [parameter.shape for parameter in trainable.parameters() if parameter.requires_grad]
    return _saved_bytes(parameters, trained, settings)


def _saved_bytes(parameters: int, trained: list[torch.Size], settings: TrainingSettings) -> tuple[int, int]:
    count = sum(shape.numel() for shape in trained)
    state = sum(_state_bytes(shape, settings) for shape in trained)
    return 4 * count + state, 4 * (parameters if settings.method == "full" else count)


@dataclass
class _Kept:
    """Bytes that autograd keeps of a micro-batch."""

    outside: int
    layers: list[int]
    """Within each layer."""
    inputs: list[int]
    """What enters each layer, all that is kept of it with gradient checkpointing."""
    logits: int
    largest_layer: int
    """Parameters of it."""


def _count_kept(model: nn.Module, settings: TrainingSettings, mixture: MixtureSettings, on_gpu: bool) -> _Kept:
    """Compute the loss of a micro-batch, and count what is saved for the backward pass, each storage once."""
    prompt, target, rows = _longest_batch(settings, mixture)
    nothing = Example("", "", 1, 0, "", "")
    examples = [EncodedExample(nothing, [1] * prompt, [1] * target, False)] * rows
    inner: Any = model
    objective: Objective = PaddedObjective((0,)) if inner.config.is_encoder_decoder else PackedObjective()
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
        largest_layer=max((_numel(layer) for layer in layers), default=0),
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


@dataclass(frozen=True)
class _Parts:
    """Parameters of a model, by the tokens that they compute. The input embedding is looked up, not computed."""

    parameters: int
    """All there are; tied ones once."""
    all_tokens: int
    """Of a decoder-only model, without the output layer."""
    prompts: int
    """Of an encoder."""
    targets: int
    """Of a decoder beside an encoder, and of the output layer."""
    tied: bool
    """Whether the output layer is the input embedding."""


def _parts(model: Any) -> _Parts:
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    tied = embedding is head
    parameters = _numel(model)
    body = parameters - embedding.numel() - (0 if tied else head.numel())
    if not model.config.is_encoder_decoder:
        return _Parts(parameters, body, 0, head.numel(), tied)
    encoder = sum(_numel(layer) for layer in _layers(model.get_encoder()))
    return _Parts(parameters, 0, encoder, body - encoder + head.numel(), tied)


def _operations(parts: _Parts, settings: TrainingSettings, mixture: MixtureSettings) -> float:
    """6 N D (Kaplan et al. 2020, section 2.1): for each parameter and token 2 forward and 4 backward, of which 2 are for the
    gradients of weights; those of frozen ones are few. Gradient checkpointing goes forward twice. Attention is not counted.
    """
    share = mixture.target_tokens / (mixture.prompt_tokens + mixture.target_tokens)
    computed = parts.all_tokens + (1 - share) * parts.prompts + share * parts.targets
    each = (6 if settings.method == "full" else 4) + (2 if settings.gradient_checkpointing else 0)
    return float(each * computed * settings.steps * settings.tokens_per_step)


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
        owned: tuple[dict[str, Any], dict[str, Any]] = (module._parameters, module._buffers)
        for tensors in owned:
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if tensor not in moved:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    trains = isinstance(tensor, nn.Parameter)
                    moved[tensor] = nn.Parameter(fake, tensor.requires_grad) if trains else fake
                tensors[name] = moved[tensor]
