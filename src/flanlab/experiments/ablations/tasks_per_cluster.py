"""Appendix B.1: more and more tasks of each training cluster."""

from __future__ import annotations

from collections.abc import Sequence

from flanlab.experiments.cells import (
    UNTUNED,
    Ablation,
    Comparison,
    Panel,
    Series,
    some_of_each,
    trained,
    training_clusters,
    training_on,
    untuned,
    whole_numbers,
)
from flanlab.experiments.recipe import Plan


def ablation(plan: Plan, points: Sequence[str]) -> Ablation:
    """Points: the most tasks of a cluster that train; 1, 2, 3 and 4."""
    clusters = training_clusters(plan)
    numbers = whole_numbers(points, (1, 2, 3, 4), most=max(map(len, clusters.values())))
    cells = [untuned(plan.recipe)]
    for number in numbers:
        tasks = some_of_each(clusters, number, plan.recipe.seed)
        title = f"{number} task{'s' if number > 1 else ''} of each cluster, {len(tasks)} together"
        cells.append(trained(f"tasks-{number}", title, training_on(plan, tasks)))
    line = Series("tuned", [(number, f"tasks-{number}") for number in numbers])
    ends = [Comparison(f"tasks-{numbers[0]}", f"tasks-{numbers[-1]}")] if len(numbers) > 1 else []
    return Ablation(
        "Tasks per training cluster",
        "Do held-out task types gain from more tasks of each kind in training (appendix B.1)?",
        cells,
        [Panel("Held-out clusters by tasks of each training cluster", "line", [line], "tasks of each cluster", UNTUNED)],
        [*ends, *(Comparison(UNTUNED, f"tasks-{number}") for number in reversed(numbers))],
        [
            "A cluster with fewer tasks trains on all it has.",
            "The paper (137B): from 1 to 4 data sets of each cluster, almost 10 points more on average.",
        ],
    )
