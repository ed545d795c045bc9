"""Templates: how many of each task train, with inverted ones held apart, and the other switches of rendering one at a time."""

from __future__ import annotations

from collections.abc import Sequence

from flanlab.experiments.cells import UNTUNED, Ablation, Comparison, Panel, Series, changed, trained, untuned, whole_numbers
from flanlab.experiments.recipe import Plan

_REFERENCE = "templates-all"


def ablation(plan: Plan, points: Sequence[str]) -> Ablation:
    """Points: forward templates of each task that train; 1, 2, 4, 7 and 10."""
    numbers = whole_numbers(points, (1, 2, 4, 7, 10))
    reference = changed(plan.recipe, mixture={"inverted": False, "options": "shuffled", "templates_per_task": None})
    most = max(len(task.forward_templates()) for task in plan.split.train)
    cells = [untuned(plan.recipe)]
    # A task with fewer templates than asked for trains on all it has; where all tasks do, the cell is the reference.
    named = {number: f"templates-{number}" if number < most else _REFERENCE for number in numbers}
    for number, name in named.items():
        if name != _REFERENCE:
            mixture = {"templates_per_task": number}
            title = f"{number} template{'s' if number > 1 else ''} of each task"
            cells.append(trained(name, title, changed(reference, mixture=mixture)))
    cells += [
        trained(_REFERENCE, "all forward templates", reference),
        trained("inverted", "inverted templates too", changed(reference, mixture={"inverted": True})),
        trained("options-fixed", "options in fixed order", changed(reference, mixture={"options": "fixed"})),
        trained("options-none", "no OPTIONS in training", changed(reference, mixture={"options": "none"})),
    ]
    line = Series("tuned", [(min(number, most), name) for number, name in named.items()])
    switches = [_REFERENCE, "inverted", "options-fixed", "options-none"]
    pairs = [Comparison(named[numbers[0]], _REFERENCE)] if named[numbers[0]] != _REFERENCE else []
    pairs += [Comparison(_REFERENCE, name) for name in switches[1:]]
    return Ablation(
        "Templates",
        "What do more templates of each task bring in training, and inverted ones, and the OPTIONS block (appendix B.1)?",
        cells,
        [
            Panel("Held-out clusters by templates of each training task", "line", [line], "templates of each task", UNTUNED),
            Panel("One switch at a time", "dots", [Series("", [(place, name) for place, name in enumerate(switches)])]),
        ],
        [*pairs, Comparison(UNTUNED, _REFERENCE)],
        [
            "All cells are evaluated alike, with the recipe's own evaluation. But for the one called so, no cell trains on"
            " inverted templates: the paper's code varies both at once.",
            f"Tasks have up to {most} forward templates; one with fewer than asked for trains on all it has.",
            "The paper crosses the number of templates with that of data sets of each cluster; here all train.",
            "The paper (137B): 1, 4 and 10 templates hardly differ, least with four data sets of each cluster.",
        ],
    )
