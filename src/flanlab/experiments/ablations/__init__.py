"""Ablations, the paper's and one of settings: a module makes the cells of each from a base recipe, and is found by its name."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module

from flanlab.errors import FlanlabError
from flanlab.experiments.cells import Ablation, changed
from flanlab.experiments.recipe import Plan


def ablation_names() -> list[str]:
    """Names of the ablations, as `flan ablate` takes them."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def make_ablation(name: str, plan: Plan, points: Sequence[str] = ()) -> Ablation:
    """The cells of an ablation of a planned base recipe; `points` are other places of its grid than the usual ones.

    Raises:
        FlanlabError: no such ablation, points that do not suit it, a base recipe that trains on what it holds out, or one that
            holds out nothing where the ablation needs it.
    """
    if name not in ablation_names():
        raise FlanlabError(f"There is no ablation called `{name}`.", hint=f"There are: {', '.join(ablation_names())}.")
    if plan.recipe.hold_out.supervised:
        raise FlanlabError(
            "hold_out.supervised trains on what is held out.", hint="Leave it out of the base recipe of an ablation."
        )
    # Not every cell trains on the tasks of the recipe's `in_domain`. An ablation that scores trained tasks names them itself.
    plan = replace(plan, recipe=changed(plan.recipe, in_domain=[]))
    ablation: Ablation = import_module(f"{__name__}.{name.replace('-', '_')}").ablation(plan, points)
    if any(cell.scope == "held_out" and not cell.recipe.hold_out.clusters for cell in ablation.cells):
        raise FlanlabError(
            f"The ablation `{name}` scores held-out tasks, and the recipe {plan.recipe.name} holds out none.",
            hint="Set `hold_out.clusters` in the recipe. `settings` needs no held-out task, and `holdouts` chooses its own.",
        )
    return ablation
