"""Section 4.1: more and more training clusters, the held-out ones always the same."""

from __future__ import annotations

from collections.abc import Sequence

from flanlab.experiments.cells import (
    UNTUNED,
    Ablation,
    Comparison,
    Panel,
    Series,
    trained,
    training_clusters,
    training_on,
    untuned,
    whole_numbers,
)
from flanlab.experiments.recipe import Plan


def ablation(plan: Plan, points: Sequence[str]) -> Ablation:
    """Points: numbers of training clusters; 1 to all of them."""
    clusters = training_clusters(plan)
    numbers = whole_numbers(points, range(1, len(clusters) + 1), most=len(clusters))
    cells = [untuned(plan.recipe)]
    for number in numbers:
        tasks = [task for members in list(clusters.values())[:number] for task in members]
        title = f"{number} training cluster{'s' if number > 1 else ''}, {len(tasks)} task{'s' if len(tasks) > 1 else ''}"
        cells.append(trained(f"clusters-{number}", title, training_on(plan, tasks)))
    line = Series("tuned", [(number, f"clusters-{number}") for number in numbers])
    ends = [Comparison(f"clusters-{numbers[0]}", f"clusters-{numbers[-1]}")] if len(numbers) > 1 else []
    return Ablation(
        "Number of training clusters",
        "Do held-out task types gain from more kinds of task in training (section 4.1)?",
        cells,
        [Panel("Held-out clusters by number of training clusters", "line", [line], "training clusters", UNTUNED)],
        [*ends, *(Comparison(UNTUNED, f"clusters-{number}") for number in reversed(numbers))],
        [
            f"Order in which clusters were added: {', '.join(cluster.label for cluster in clusters)}.",
            "Every cell trains for the same number of steps: with more clusters each task is seen less often.",
            "The paper (137B, held-out inference, closed-book QA and commonsense): 49.9, 55.0, 59.3, 59.2, 60.8, 61.9 and 63.5"
            " points on average with 1 to 7 clusters. It took conversational QA alone of the miscellaneous tasks.",
        ],
    )
