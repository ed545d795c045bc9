"""What training costs, worked out from a model's configuration before anything is loaded: memory, time, disk.

    memory = program + weights + gradients + optimizer + what a micro-batch needs + what is lost between them

The model is built without weights, and its loss and gradients are computed on tensors that have shapes but no content. What is
in use at a time is counted there. So the count holds for any architecture and method. docs/train.md compares it with real runs.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from flanlab.data.mixture import EncodedExample, MixtureSettings
from flanlab.data.rendering import Example
from flanlab.models.packed_attention import attention_of_a_gpu
from flanlab.models.skeleton import build_skeleton, read_config
from flanlab.progress import say
from flanlab.training.loss import Objective, PackedObjective, PaddedObjective
from flanlab.training.methods import checkpoint_layers, make_trainable
from flanlab.training.precision import computing, keep_rounded_output
from flanlab.training.settings import TrainingSettings

_PROGRAM_ON_CPU = 700 * 2**20
_PROGRAM_ON_GPU = 600 * 2**20
"""Python with its libraries, tokenizer and rows (measured), and on a GPU the driver's context (usually 400 to 700 MiB)."""
_LOST_ON_CPU = {"full": 0.25, "lora": 1.4, "prompt": 0.5}
_LOST_ON_GPU = 0.1
"""Share of a micro-batch's memory that is lost in gaps. On a CPU measured (docs/train.md), and as much again as the gradients,
because those of the first micro-batch come to lie between its activations. On a GPU assumed."""


@dataclass(frozen=True)
class Memory:
    """Bytes that one process needs at most, by part."""

    program: int
    weights: int
    """Those that a process keeps. Trained ones are float32, others as they are loaded."""
    gathered: int
    """Layers put together for computing, if weights are sharded."""
    gradients: int
    optimizer: int
    batch: int
    """What the loss and the gradients of a micro-batch need: activations, logits, weights in bfloat16, a gradient before it is
    added to the step's."""
    lost: int
    """Gaps between what is in use, too small for what is needed next."""
    update: int
    """What the optimizer needs for a moment, when the memory of a micro-batch is free again."""
    loading: int
    """If weights are sharded, the whole model, which a process reads before it keeps its share."""

    @property
    def total(self) -> int:
        """The largest sum of what is there at a time."""
        kept = self.program + self.weights + self.gathered + self.gradients + self.optimizer
        return max(kept + max(self.batch + self.lost, self.update), self.program + self.loading)


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
        settings: the recipe's training section. `compute_dtype: auto` counts as bfloat16 on a GPU, else as float32.
        mixture: the recipe's mixture section; a micro-batch is taken to be full of the longest examples that it allows.
        on_gpu: whether weights that are not trained are loaded in bfloat16, as on a GPU.
        processes: how many share the work.

    Raises:
        FlanlabError: the configuration is not within reach, or the model cannot be built from it.
    """
    if settings.compute_dtype == "auto":
        settings = settings.model_copy(update={"compute_dtype": "bfloat16" if on_gpu else "float32"})
    config = read_config(model, say)
    # What is trained is float32 everywhere.
    dtype = torch.bfloat16 if on_gpu and settings.method != "full" else torch.float32
    with torch.device("meta"):
        whole = build_skeleton(model, config, dtype)
        parts = _parts(whole)
        trainable = make_trainable(whole, settings).train()
    layers = [_numel(layer) for layer in _layers(trainable)]
    trained = [parameter.shape for parameter in trainable.parameters() if parameter.requires_grad]
    trained_count = sum(shape.numel() for shape in trained)
    checkpoint_bytes, model_bytes = _saved_bytes(parts.parameters, trained, settings)
    weights = sum(parameter.nbytes for parameter in trainable.parameters())
    sharded = processes if settings.parallel == "fsdp" else 1
    gradients = 4 * trained_count // sharded
    with FakeTensorMode(allow_non_fake_inputs=True), attention_of_a_gpu() if on_gpu else nullcontext():
        _move_to_fake_tensors(trainable)
        plain = _batch_bytes(trainable, whole, settings, mixture)
        checkpoint_layers(whole)
        checkpointed = _batch_bytes(trainable, whole, settings, mixture)

    def memory(batch: int) -> Memory:
        return Memory(
            program=_PROGRAM_ON_GPU if on_gpu else _PROGRAM_ON_CPU,
            weights=weights // sharded,
            # A layer and the one after it, which is fetched ahead.
            gathered=0 if sharded == 1 else 2 * max(layers, default=0) * (2 if settings.compute_dtype == "bfloat16" else 4),
            gradients=gradients,
            optimizer=sum(_state_bytes(shape, settings) for shape in trained) // sharded,
            batch=batch,
            lost=int(batch * _LOST_ON_GPU if on_gpu else batch * _LOST_ON_CPU[settings.method] + gradients),
            update=_update_bytes(trained, settings) // sharded,
            loading=0 if sharded == 1 else weights,
        )

    return Estimate(
        parameters=parts.parameters,
        trained=trained_count,
        plain=memory(plain),
        checkpointed=memory(checkpointed),
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


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that are made within it and still in use, and keeps the largest sum in `peak`.

    The model's own parameters and buffers, of which views are made, do not count.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._sizes = {each.untyped_storage()._cdata: 0 for each in (*model.parameters(), *model.buffers())}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._sizes:
                storage = tensor.untyped_storage()
                self._sizes[storage._cdata] = storage.nbytes()
                self._now += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata)
        self.peak = max(self.peak, self._now)
        return result

    def _free(self, storage: int) -> None:
        self._now -= self._sizes.pop(storage)


def _batch_bytes(model: nn.Module, inner: Any, settings: TrainingSettings, mixture: MixtureSettings) -> int:
    """What the loss and the gradients of a micro-batch need at most, of a model (with adapters around `inner`) without content.

    A gradient counts until it is there. Those of the step are another part of `Memory`.
    """
    prompt, target, rows = _longest_batch(settings, mixture)
    examples = [EncodedExample(Example("", "", 1, 0, "", ""), [1] * prompt, [1] * target, False)] * rows
    objective: Objective = PaddedObjective((0,)) if inner.config.is_encoder_decoder else PackedObjective()
    hooks = [
        parameter.register_post_accumulate_grad_hook(_drop_gradient)
        for parameter in model.parameters()
        if parameter.requires_grad
    ]
    memory = PeakMemory(model)
    with memory, computing(settings, torch.device("cpu")):
        keep_rounded_output(inner, settings)
        loss = objective.loss(model, examples)
        with torch.autocast("cpu", enabled=False):
            loss.backward()
    for hook in hooks:
        hook.remove()
    return memory.peak


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


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
