"""Section 4.1 with as many different rows whatever the number of clusters, so that more clusters are not more data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flanlab.experiments.ablations import clusters
from flanlab.experiments.cells import Ablation, Training, changed
from flanlab.experiments.recipe import Plan


def ablation(plan: Plan, points: Sequence[str]) -> Ablation:
    """Points: numbers of training clusters; each trains on as many rows as the first one, shared alike by its tasks."""
    plain = clusters.ablation(plan, points)
    rows = {name: min(len(rows), plan.recipe.mixture.train_cap) for name, rows in plan.train_rows.items()}
    total: int | None = None
    cells = []
    for cell in plain.cells:
        if cell.training is None:
            cells.append(cell)
            continue
        counts = [rows[name] for name in cell.recipe.tasks.include if name in rows]
        if total is None:
            # Left as it is, it is the same work as in the ablation `clusters`.
            total = sum(counts)
            cells.append(cell)
            continue
        recipe = changed(cell.recipe, mixture={"train_cap": rows_of_each(counts, total)})
        cells.append(replace(cell, recipe=recipe, training=Training(recipe)))
    return replace(
        plain,
        title="Number of training clusters, rows fixed",
        question="Do held-out task types gain from more kinds of task, where these bring no more rows?",
        cells=cells,
        notes=[
            f"Every cell may draw on about {total:,} different rows, as far as its steps reach, as many as there are in the"
            " first: the more tasks, the fewer rows of each.",
            *plain.notes,
        ],
    )


def rows_of_each(counts: Sequence[int], total: int) -> int:
    """The largest number such that tasks with `counts` rows, each cut to it, have no more than `total` together; 1 at least."""
    left = total
    for place, count in enumerate(sorted(counts)):
        share = left // (len(counts) - place)
        if share < count:
            return max(1, share)
        left -= count
    return max(1, max(counts))
