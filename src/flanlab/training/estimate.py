"""What training costs, worked out from a model's configuration before anything is loaded: memory, time, disk.

    memory = program + weights + gradients + optimizer + what a micro-batch needs + what is lost between them

The model is built without weights, and its loss and gradients are computed on tensors that have shapes but no content. What is
in use at a time is counted there. So the count holds for any architecture and method. docs/train.md compares it with real runs.
"""

from __future__ import annotations

import weakref
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedConfig

from flanlab.data.mixture import EncodedExample, MixtureSettings
from flanlab.data.rendering import Example
from flanlab.models.loading import build_skeleton, read_config
from flanlab.models.packed_attention import attention_of_a_gpu
from flanlab.training.loss import Objective, PackedObjective, PaddedObjective
from flanlab.training.methods import checkpoint_layers, layers_of, make_trainable, trained
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
    config = read_config(model)
    # What is trained is float32 everywhere.
    dtype = torch.bfloat16 if on_gpu and settings.method != "full" else torch.float32
    with torch.device("meta"):
        whole = build_skeleton(model, config, dtype)
        parameters, per_token = _numel(whole), _parameters_per_token(whole, mixture)
        trainable = make_trainable(whole, settings).train()
    layers = [_numel(layer) for layer in layers_of(trainable)]
    shapes = [parameter.shape for parameter in trained(trainable)]
    trained_count = sum(shape.numel() for shape in shapes)
    checkpoint_bytes, model_bytes = _saved_bytes(parameters, shapes, settings)
    weights = sum(parameter.nbytes for parameter in trainable.parameters())
    if settings.kl_weight:
        weights += sum(parameter.nbytes for parameter in whole.parameters())
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
            optimizer=sum(_state_bytes(shape, settings) for shape in shapes) // sharded,
            batch=batch,
            lost=int(batch * _LOST_ON_GPU if on_gpu else batch * _LOST_ON_CPU[settings.method] + gradients),
            # AdamW is one pass over the memory; Adafactor makes copies of a parameter while it is at it.
            update=0 if settings.optimizer == "adamw" else 12 * max(shape.numel() for shape in shapes) // sharded,
            loading=0 if sharded == 1 else weights,
        )

    tokens = settings.steps * settings.tokens_per_step
    return Estimate(
        parameters=parameters,
        trained=trained_count,
        plain=memory(plain),
        checkpointed=memory(checkpointed),
        tokens=tokens,
        operations=_operations_per_parameter(settings) * per_token * tokens,
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
    shapes = [parameter.shape for parameter in trained(trainable)]
    return _saved_bytes(parameters, shapes, settings)


def _saved_bytes(parameters: int, shapes: list[torch.Size], settings: TrainingSettings) -> tuple[int, int]:
    count = sum(shape.numel() for shape in shapes)
    state = sum(_state_bytes(shape, settings) for shape in shapes)
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
    untuned = inner if settings.kl_weight else None
    objective: Objective = PaddedObjective((0,)) if inner.config.is_encoder_decoder else PackedObjective((), untuned)
    hooks = [parameter.register_post_accumulate_grad_hook(_drop_gradient) for parameter in trained(model)]
    memory = PeakMemory(model)
    with memory, computing(settings, torch.device("cpu")):
        keep_rounded_output(inner, settings)
        loss = objective.loss(model, examples, None, settings.kl_weight)
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


def _numel(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _parameters_per_token(model: Any, mixture: MixtureSettings) -> float:
    """With how many parameters a token is computed, on average. The input embedding is looked up, not computed."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    body = _numel(model) - embedding.numel() - (0 if embedding is head else head.numel())
    share = mixture.target_tokens / (mixture.prompt_tokens + mixture.target_tokens)
    if not model.config.is_encoder_decoder:
        return float(body + share * head.numel())
    encoder = sum(_numel(layer) for layer in layers_of(model.get_encoder()))
    return float((1 - share) * encoder + share * (body - encoder + head.numel()))


def _operations_per_parameter(settings: TrainingSettings) -> int:
    """Of each token (Kaplan et al. 2020, section 2.1): 2 forward and 4 backward, of which 2 are for the gradients of weights;
    those of frozen ones are few. Gradient checkpointing goes forward twice. Attention is not counted.
    """
    return (6 if settings.method == "full" else 4) + (2 if settings.gradient_checkpointing else 0)


def _state_bytes(shape: torch.Size, settings: TrainingSettings) -> int:
    """What the optimizer keeps of a parameter, float32: two moments, or sums of rows and columns (Shazeer & Stern 2018)."""
    if settings.optimizer == "adamw":
        return 8 * shape.numel()
    if len(shape) < 2:
        return 4 * shape.numel()
    return 4 * (shape[:-1].numel() + shape[:-2].numel() * shape[-1])


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
