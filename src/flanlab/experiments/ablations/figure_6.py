"""Section 4.1 just as figure 6 has it: three clusters held out at once, seven added by their number of data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flanlab.errors import FlanlabError
from flanlab.experiments.ablations import clusters
from flanlab.experiments.cells import PAPER_ORDER, Ablation, changed
from flanlab.experiments.recipe import Plan, divide
from flanlab.tasks.clusters import Cluster

_HELD_OUT = (Cluster.NATURAL_LANGUAGE_INFERENCE, Cluster.CLOSED_BOOK_QA, Cluster.COMMONSENSE)
_CONVERSATIONAL_QA = ("coqa", "quac")
"""All that the figure adds of the miscellaneous tasks."""


def ablation(plan: Plan, points: Sequence[str]) -> Ablation:
    """Points: numbers of training clusters; 1 to 7, or to as many as the recipe has."""
    homes = {task.name: task.clusters[0] for task in plan.split.tasks}
    if lacking := [cluster.value for cluster in _HELD_OUT if cluster not in homes.values()]:
        raise FlanlabError(
            f"Figure 6 holds out {lacking[0]}, and this recipe has no task of it.", hint="Include its tasks in the base recipe."
        )
    left_out = [
        name
        for name, home in homes.items()
        if home not in (*_HELD_OUT, *PAPER_ORDER) or (home == Cluster.MISCELLANEOUS and name not in _CONVERSATIONAL_QA)
    ]
    held_out = {"clusters": [cluster.value for cluster in _HELD_OUT]}
    exclude = sorted({*plan.recipe.tasks.exclude, *left_out})
    recipe = changed(plan.recipe, hold_out=held_out, tasks={"exclude": exclude})
    added = clusters.ablation(replace(plan, recipe=recipe, split=divide(recipe)), points)
    return replace(
        added,
        title="Number of training clusters, as in figure 6",
        notes=[
            *added.notes[:-1],
            "As in the paper, inference, closed-book QA and commonsense are held out at once, and of the miscellaneous tasks"
            " conversational QA alone trains (CoQA and QuAC). Data sets that share sources with held-out ones do not train"
            " under `hold_out.overlap: remove`; the paper's rule knows clusters alone.",
            "The paper (137B) counts 11, 20, 26, 30, 34, 37 and 39 data sets with 1 to 7 clusters, where its list of clusters"
            " has 11, 19, 24, 28, 32, 35 and 37; its means are 49.9, 55.0, 59.3, 59.2, 60.8, 61.9 and 63.5 points.",
        ],
    )
