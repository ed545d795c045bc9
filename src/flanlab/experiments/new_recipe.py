"""A first recipe for a model, tasks and a hold-out, with as many steps as fit into some minutes on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from flanlab.errors import FlanlabError
from flanlab.experiments.checks import check_recipe
from flanlab.experiments.cost import TokenCosts
from flanlab.experiments.recipe import Recipe
from flanlab.experiments.training_plan import this_device
from flanlab.files import check_writable, write_text
from flanlab.models.built_in import BUILT_IN_MODELS
from flanlab.models.loading import load_model
from flanlab.progress import clock, say
from flanlab.tasks.clusters import Cluster
from flanlab.tasks.holdout import HoldOutSplit
from flanlab.tasks.loading import BUILT_IN_COLLECTIONS, load_collections, resolve_name, select_tasks

_TOKENS_PER_STEP = {"cpu": 1024, "gpu": 8192}
_MOST_MINUTES = 10**6
_LEARNING_RATE = 1e-4


def write_recipe(
    path: Path,
    model: str,
    names: Sequence[str],
    hold_out: Sequence[Cluster],
    minutes: float,
    *,
    collections: Sequence[str] = ("library",),
    force: bool = False,
) -> tuple[Recipe, HoldOutSplit]:
    """Write a recipe that can be carried out, with steps that fit into a budget of training time.

    The time is the estimate of `run_recipe`, without evaluation: the model is loaded, and some scoring with it is timed.

    Args:
        path: the YAML file.
        model: a name as for `load_model`.
        names: tasks and clusters that take part; all, where none are given. Held-out clusters need not be among them.
        hold_out: clusters to hold out.
        minutes: how long training may take.
        collections: where the tasks are: `library`, `extra`, `sampler`, or folders.
        force: replace the file if it exists.

    Returns:
        The recipe, and which of its tasks train and test.

    Raises:
        FlanlabError: the file exists, a name is unknown, or a single step takes longer than the budget.
    """
    if path.exists() and not force:
        raise FlanlabError(f"{path} exists already.", hint="Write it again with --force, or name another with --out.")
    if not 0 < minutes < _MOST_MINUTES:
        raise FlanlabError(f"Training cannot take {minutes:g} minutes.", hint="Name a number of minutes above 0.")
    check_writable(path.parent)
    tasks = load_collections(collections)
    found = [resolve_name(tasks, name) for name in names]
    include = [one.value if isinstance(one, Cluster) else one.name for one in found]
    chosen = {task.name for task in select_tasks(tasks, include)} if include else set()
    for cluster in hold_out:
        if include and not chosen & {task.name for task in tasks if cluster in task.clusters}:
            include.append(cluster.value)
    content: dict[str, Any] = {
        "name": path.stem,
        "model": model,
        "tasks": {"collections": list(collections), "include": include or "all"},
        "hold_out": {"clusters": [cluster.value for cluster in hold_out], "overlap": "remove"},
        "training": {
            "steps": 1,
            "tokens_per_step": _TOKENS_PER_STEP["cpu" if this_device() == "cpu" else "gpu"],
            "learning_rate": _LEARNING_RATE,
        },
    }
    recipe = Recipe.model_validate(content)
    split = check_recipe(recipe)
    say(f"Timing {model} on this machine ...")
    seconds = TokenCosts().training(load_model(model), recipe.training)
    steps = int(60 * minutes / seconds)
    if steps < 1:
        raise FlanlabError(
            f"One step of {recipe.training.tokens_per_step:,} tokens takes about {clock(seconds)} here, longer than the budget"
            f" of {clock(60 * minutes)}.",
            hint="Name more minutes or a smaller model.",
        )
    recipe = recipe.with_training(steps=steps, warmup_steps=steps // 20)
    write_text(path, _text(recipe, path.parent, f"about {clock(steps * seconds)} of training on this machine"))
    return recipe, split


def _text(recipe: Recipe, folder: Path, time: str) -> str:
    """The recipe's YAML. Folders are named relative to `folder`."""

    def from_there(name: str) -> str:
        return Path(os.path.relpath(name, folder)).as_posix()

    collections = [name if name in BUILT_IN_COLLECTIONS else from_there(name) for name in recipe.tasks.collections]
    model = recipe.model
    if model not in BUILT_IN_MODELS and not os.path.isabs(model) and os.path.exists(model):
        model = from_there(model)
    training = recipe.training
    hold_out = ""
    if recipe.hold_out.clusters:
        hold_out = f"""\
hold_out:
  clusters: {_value([cluster.value for cluster in recipe.hold_out.clusters])}
  overlap: remove  # tasks that share sources with held-out ones do not train
"""
    return f"""\
# Every field: docs/reference/recipe.md
name: {_value(recipe.name)}
model: {_value(model)}
tasks:
  collections: {_value(collections)}
  include: {_value(recipe.tasks.include)}
{hold_out}training:
  steps: {training.steps}  # {time}
  tokens_per_step: {training.tokens_per_step}
  learning_rate: {training.learning_rate:.1e}  # a common start; large models need less, LoRA more
  warmup_steps: {training.warmup_steps}
"""


def _value(value: Any) -> str:
    """A value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
