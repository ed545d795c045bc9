"""Ablations, the paper's and one of settings: a module makes the cells of each from a base recipe, and is found by its name."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from importlib import import_module

from flanlab.errors import FlanlabError
from flanlab.experiments.cells import Ablation
from flanlab.experiments.recipe import Plan


def ablation_names() -> list[str]:
    """Names of the ablations, as `flan ablate` takes them."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def make_ablation(name: str, plan: Plan, points: Sequence[str] = ()) -> Ablation:
    """The cells of an ablation of a planned base recipe; `points` are other places of its grid than the usual ones.

    Raises:
        FlanlabError: no such ablation, points that do not suit it, or a base recipe that trains on what it holds out.
    """
    if name not in ablation_names():
        raise FlanlabError(f"There is no ablation called `{name}`.", hint=f"There are: {', '.join(ablation_names())}.")
    if plan.recipe.hold_out.supervised:
        raise FlanlabError(
            "hold_out.supervised trains on what is held out.", hint="Leave it out of the base recipe of an ablation."
        )
    ablation: Ablation = import_module(f"{__name__}.{name.replace('-', '_')}").ablation(plan, points)
    return ablation
