"""Section 4.5: continuous prompts learned for each held-out task, from the tuned and from the untuned model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flanlab.errors import FlanlabError
from flanlab.experiments.cells import Ablation, Cell, Comparison, Panel, Series, Training, changed, hyphenated, with_tasks
from flanlab.experiments.recipe import Plan

_FEW_ROWS = 32
_LEARNING_RATE = 0.02
"""A prompt starts far from the words it stands for; weights would not bear such a rate."""


def ablation(plan: Plan, points: Sequence[str]) -> Ablation:
    """Points: how many training rows a prompt is learned from: 32, and `full` for all."""
    for point in points:
        if point != "full" and not (point.isdecimal() and int(point)):
            raise FlanlabError(f"--points: {point!r} is no number of rows.", hint="Use --points 32,full, say.")
    tuning = Training(plan.recipe)
    split = plan.recipe.evaluation.split
    tasks = [task for task in plan.split.held_out if task.has_split("train") and task.has_split(split)]
    if not tasks:
        raise FlanlabError(
            "No held-out task has a train split, so no prompt could be learned.", hint="Hold out another cluster, or add one."
        )
    cells: list[Cell] = []
    columns: dict[str, list[str]] = {}
    comparisons: list[Comparison] = []
    for rows in dict.fromkeys(points or (str(_FEW_ROWS), "full")):
        told = "all rows" if rows == "full" else f"{rows} rows"
        for task in tasks:
            changes: dict[str, Any] = {
                "hold_out": {"supervised": [task.name]},
                "training": {"method": "prompt", "learning_rate": _LEARNING_RATE},
            }
            if rows != "full":
                changes["mixture"] = {"train_cap": int(rows)}
            recipe = with_tasks(changed(plan.recipe, **changes), [task.name])
            pair = []
            for way, start in (("untuned", None), ("tuned", tuning)):
                name = f"{way}-{rows}-{hyphenated(task.name)}"
                cells.append(Cell(name, f"prompt on {way} model, {told}, {task.name}", recipe, Training(recipe, start)))
                columns.setdefault(f"prompt on {way} model, {told}", []).append(name)
                pair.append(name)
            comparisons.append(Comparison(pair[0], pair[1]))
    return Ablation(
        "Prompt tuning",
        "Is an instruction-tuned model a better start for continuous prompts (section 4.5)?",
        cells,
        [Panel("Held-out clusters", "dots", [Series(title, list(enumerate(names))) for title, names in columns.items()])],
        comparisons,
        [
            f"A prompt is learned for each held-out task, at a learning rate of {_LEARNING_RATE}, the model frozen; the tuned"
            " model has seen no task of the cluster before.",
            "Rows are read as far as the steps reach, which may be less than all.",
            "The paper (137B, on SuperGLUE): prompts work better on the tuned model in every setting, often by more than 10"
            " points with 32 rows; its figure has no numbers.",
        ],
    )
