"""The number type that a training step computes in, and whether it trains the vocabulary's weights.

Weights, their gradients and the optimizer's state are always float32.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from flanlab.processes import from_first
from flanlab.progress import say
from flanlab.training.settings import TrainingSettings

LEAST_GAIN = 1.3
"""bfloat16 must be this many times as fast for matrix products, because casting weights and activations takes time."""
_MEASURED_TOKENS, _LARGEST_SIDE, _TIMES = 256, 1024, 3


def settle(settings: TrainingSettings, model: nn.Module) -> TrainingSettings:
    """The settings with each `auto` replaced by its value for this model on this machine.

    Prints a warning if bfloat16 is asked for on a processor that is slow at it. All processes must call this. The first one
    measures.

    Args:
        settings: a recipe's training settings.
        model: the loaded model, on its training device.
    """
    device = next(model.parameters()).device
    dtype: Any = settings.compute_dtype
    if device.type == "cuda":
        if dtype == "auto":
            dtype = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    elif dtype != "float32":
        gain = from_first(lambda: bfloat16_gain(model))
        if dtype == "bfloat16":
            _warn(gain)
        else:
            dtype = "bfloat16" if gain >= LEAST_GAIN else "float32"
    return settings.model_copy(update={"compute_dtype": dtype, "train_embeddings": trains_embeddings(settings, model)})


def warn_of_slow_bfloat16(model: nn.Module) -> None:
    """Print a warning if bfloat16 is slower than float32 on the model's device."""
    if next(model.parameters()).device.type == "cpu":
        _warn(bfloat16_gain(model))


def _warn(gain: float) -> None:
    if gain < 1:
        say(
            f"Warning: bfloat16 is {1 / gain:.1f} times slower than float32 here, because the processor has no instructions for"
            " it. The result is correct, but float32 or auto is faster."
        )


def bfloat16_gain(model: nn.Module) -> float:
    """Speed of a matrix product of the model's shape in bfloat16, relative to float32. Below 1 if bfloat16 is slower.

    The product is the model's largest layer (at most 1,024 x 1,024) times 256 tokens. It takes well under a second, even if
    bfloat16 is emulated.
    """
    device = next(model.parameters()).device
    vocabulary = {id(weight) for weight in vocabulary_weights(model)}
    shapes = [tuple(each.shape) for each in model.parameters() if each.dim() == 2 and id(each) not in vocabulary]
    rows, columns = (min(side, _LARGEST_SIDE) for side in max(shapes, key=lambda shape: shape[0] * shape[1]))
    single, half = (product_speed(rows, columns, dtype, device) for dtype in (torch.float32, torch.bfloat16))
    return half / single


@torch.inference_mode()
def product_speed(rows: int, columns: int, dtype: torch.dtype, device: torch.device | None = None) -> float:
    """Operations per second of the product of a matrix with the states of 256 tokens; the best of some."""
    weight = torch.ones(rows, columns, dtype=dtype, device=device)
    states = torch.ones(_MEASURED_TOKENS, columns, dtype=dtype, device=device)
    seconds = []
    for _ in range(1 + _TIMES):
        started = time.perf_counter()
        functional.linear(states, weight)
        seconds.append(time.perf_counter() - started)
    # The first run takes longer, because kernels are compiled.
    return 2.0 * _MEASURED_TOKENS * rows * columns / min(seconds[1:])


def computing(settings: TrainingSettings, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass in the settings' number type. `settings` must be settled."""
    assert settings.compute_dtype != "auto"
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.compute_dtype == "bfloat16")


def vocabulary_weights(model: Any) -> list[nn.Parameter]:
    """The weights of the input embedding and of the output layer. Only one if they are tied."""
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    weights = {id(layer.weight): layer.weight for layer in layers if layer is not None and hasattr(layer, "weight")}
    return list(weights.values())


def keep_rounded_output(model: Any, settings: TrainingSettings) -> None:
    """If a step computes in bfloat16, cast the weight of a frozen output layer to it once. Autocast would do it for each
    micro-batch.

    The layer computes the same as under autocast. The original weight is kept and saved. Adapters and shards are left alone.
    """
    if settings.method != "full" or settings.compute_dtype != "bfloat16" or settings.parallel != "ddp":
        return
    layer = model.get_output_embeddings()
    if type(layer) is not nn.Linear or layer.weight.requires_grad:
        return
    weight = layer.weight.detach().bfloat16()
    bias = None if layer.bias is None else layer.bias.bfloat16()
    layer.forward = lambda states: functional.linear(states.bfloat16(), weight, bias)  # type: ignore[method-assign, assignment]


def trains_embeddings(settings: TrainingSettings, model: nn.Module) -> bool:
    """Whether the vocabulary's weights are trained. `auto`: unless they hold most of the parameters."""
    if settings.method != "full":
        return False
    if settings.train_embeddings != "auto":
        return settings.train_embeddings
    return vocabulary_share(model) <= 0.5


def vocabulary_share(model: nn.Module) -> float:
    """The vocabulary's share of the parameters, 0 to 1."""
    weights = sum(weight.numel() for weight in vocabulary_weights(model))
    return weights / sum(parameter.numel() for parameter in model.parameters())
