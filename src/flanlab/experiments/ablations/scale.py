"""Section 4.2: models of several sizes, tuned and untuned, on held-out tasks and on those they trained on."""

from __future__ import annotations

from collections.abc import Sequence

from flanlab.errors import FlanlabError
from flanlab.experiments.cells import Ablation, Cell, Comparison, Panel, Series, Training, changed
from flanlab.experiments.recipe import Plan


def ablation(plan: Plan, points: Sequence[str]) -> Ablation:
    """Points: models (folders or Hub ids), smallest first; there are no usual ones."""
    if len(points) < 2:
        raise FlanlabError(
            "The ablation of scale compares two models or more.",
            hint="Name them, smallest first: --points small/model,large/model.",
        )
    cells: list[Cell] = []
    for number, model in enumerate(points, start=1):
        recipe = changed(plan.recipe, model=model)
        for scope in ("held_out", "held_in"):
            where = "held out" if scope == "held_out" else "trained on"
            asked = recipe if scope == "held_out" else changed(recipe, in_domain="all")
            name = f"{scope.replace('_', '-')}-{number}"
            cells.append(Cell(f"untuned-{name}", f"{model}, untuned, tasks {where}", asked, None, scope))
            cells.append(Cell(f"tuned-{name}", f"{model}, tuned, tasks {where}", asked, Training(recipe), scope))
    places = range(1, len(points) + 1)
    panels = [
        Panel(
            f"Tasks {where}, mean over clusters",
            "line",
            [
                Series(way, [(place, f"{way}-{scope}-{place}") for place in places], dashed=way == "untuned")
                for way in ("tuned", "untuned")
            ],
            "model, smallest first",
            by_cluster=False,
        )
        for scope, where in (("held-out", "held out"), ("held-in", "trained on"))
    ]
    return Ablation(
        "Scale",
        "From which size on does instruction tuning help tasks that it did not train on (section 4.2)?",
        cells,
        panels,
        [
            Comparison(f"untuned-{scope}-{place}", f"tuned-{scope}-{place}")
            for scope in ("held-out", "held-in")
            for place in reversed(places)
        ],
        [
            *(f"Model {place}: {model}." for place, model in zip(places, points, strict=True)),
            f"Held-out tasks: {len({task.whole.name for task in plan.split.test})}, those of the base recipe.",
            "The paper's figure 7 is a mean over 13 held-out tasks. flanlab's sources do not name them, so they are not chosen"
            " here.",
            "Scores of tasks that a model trained on are of their test split, and marked as seen.",
            "The paper (422M to 137B): tuning helps held-out tasks at 68B and more, and hurts at 8B and less; it helps tasks"
            " trained on at every size.",
        ],
    )
