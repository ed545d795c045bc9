"""What carrying out a recipe's training would cost, told before anything is loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from flanlab.data.reader import RowReader
from flanlab.errors import FlanlabError
from flanlab.experiments.checks import are_near, check_examples, check_recipe
from flanlab.experiments.recipe import AnyRecipe, Plan, as_recipe, plan_rows
from flanlab.models.loading import load_encoder, read_config
from flanlab.training.estimate import Memory, estimate_training
from flanlab.training.log import known_devices, peak_of
from flanlab.training.precision import LEAST_GAIN, product_speed

ASSUMED_SHARE = {"gpu": 0.35, "float32": 0.6, "bfloat16": 0.4}
"""Share of the best speed that training reaches: of the peak in a GPU's data sheet, or of a plain matrix product on a CPU."""


def plan_training(
    recipe: AnyRecipe,
    *,
    device: str | None = None,
    processes: int = 1,
    speed: float | None = None,
    out: str | Path | None = None,
    mirror: str | Path | None = None,
    evaluates: bool = False,
) -> dict[str, Any]:
    """Parameters, memory by part, tokens, time and disk of a recipe's training.

    Of the model only the configuration is read. Rows are read, and examples counted, where that needs no Hub: with a mirror, or
    where all tasks come with their rows. What `flan train` refuses before it loads a model is refused here, too.

    Args:
        recipe: as for `run`.
        device: `cpu`, or a GPU by (a part of) its name. Default: this machine's.
        processes: how many train together.
        speed: operations per second that a process really reaches, if known.
        out: folder of the run. If given, it and its disk are checked as `flan train` does, unless `device` is not here.
        mirror: as for `run`.
        evaluates: also refuse what only `flan run` refuses: held-out tasks that the model has seen.

    Returns:
        A dict for JSON; bytes, seconds, counts.

    Raises:
        FlanlabError: the recipe cannot be carried out, its rows or the folder cannot be used, or an unknown device.

    Examples:
        >>> import flanlab as fl
        >>> plan = fl.plan_training(example_recipe, device="cpu", speed=1e9)
        >>> plan["steps"], plan["tokens"]
        (1, 200)
    """
    recipe, rows = as_recipe(recipe), RowReader(mirror)
    training = recipe.training
    is_here = device in (None, "cpu", this_device())
    split = check_recipe(recipe, Path(out) if out is not None and is_here else None, evaluates=evaluates)
    examples = _examples(plan_rows(recipe, split, rows)) if are_near(split, rows) else None
    device = device or this_device()
    if device == "cpu":
        training = training.model_copy(update={"compute_dtype": _number_type(training.compute_dtype)})
    estimate = estimate_training(recipe.model, training, recipe.mixture, on_gpu=device != "cpu", processes=processes)
    speed, speed_is = (speed, "as stated") if speed is not None else assumed_speed(device, training.compute_dtype)
    return {
        "name": recipe.name,
        "model": recipe.model,
        "method": training.method,
        "optimizer": training.optimizer,
        "parameters": estimate.parameters,
        "trained_parameters": estimate.trained,
        "device": device,
        "processes": processes,
        "parallel": training.parallel if processes > 1 else None,
        "steps": training.steps,
        "tokens": estimate.tokens,
        "examples": examples,
        "gradient_checkpointing": training.gradient_checkpointing,
        "micro_batch_tokens": training.micro_batch_tokens,
        "memory": {"plain": _by_part(estimate.plain), "gradient_checkpointing": _by_part(estimate.checkpointed)},
        "operations": estimate.operations,
        "operations_per_second": speed,
        "speed_is": speed_is,
        "seconds": estimate.operations / (speed * processes),
        "disk": {
            "checkpoint": estimate.checkpoint_bytes,
            # Two are kept, and a third is written beside them.
            "checkpoints_at_most": 3 * estimate.checkpoint_bytes,
            "model": estimate.model_bytes,
        },
    }


def this_device() -> str:
    """Name of this machine's GPU, or `cpu`."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def assumed_speed(device: str, compute_dtype: str = "auto") -> tuple[float, str]:
    """Operations a second that training in a number type probably reaches on a device, and how that was found.

    Raises:
        FlanlabError: an unknown device.
    """
    if device == "cpu":
        dtype = _number_type(compute_dtype)
        peak = product_speed(1024, 1024, getattr(torch, dtype))
        share, of_what = ASSUMED_SHARE[dtype], f"a matrix product in {dtype}, measured now"
    elif (known := peak_of(device)) is not None:
        peak, share, of_what = known, ASSUMED_SHARE["gpu"], "the bfloat16 peak in its data sheet"
    else:
        raise FlanlabError(
            f"How fast the device {device} is, is not known.",
            hint=f"Name cpu or one of: {', '.join(known_devices())}; or give what it reaches with --flops.",
        )
    return share * peak, f"assumed: {share:.0%} of {of_what} ({peak:.3g})"


def _by_part(memory: Memory) -> dict[str, int]:
    return {**dataclasses.asdict(memory), "total": memory.total}


def _number_type(compute_dtype: str) -> str:
    """The number type in which training computes on this machine's CPU."""
    if compute_dtype != "auto":
        return compute_dtype
    single, half = (product_speed(1024, 1024, dtype) for dtype in (torch.float32, torch.bfloat16))
    return "bfloat16" if half >= LEAST_GAIN * single else "float32"


def _examples(plan: Plan) -> int | None:
    """Examples of the whole training; None where the tokenizer is not available."""
    try:
        encoder = load_encoder(plan.recipe.model)
    except FlanlabError:
        return None
    return check_examples(plan, encoder, read_config(plan.recipe.model)) * plan.recipe.training.steps
