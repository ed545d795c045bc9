"""Section 4.3: training and evaluating with instructions, with the names of task type and data set, and with bare inputs."""

from __future__ import annotations

from collections.abc import Sequence

from flanlab.errors import FlanlabError
from flanlab.experiments.cells import UNTUNED, Ablation, Cell, Comparison, Panel, Series, Training, changed, untuned
from flanlab.experiments.recipe import Plan

_ROWS = {
    "none-full": "trained on bare inputs, asked with instructions",
    "name-full": "trained with task names, asked with instructions",
    "name-name": "trained and asked with task names",
    "full-full": "trained and asked with instructions",
}
"""Training, evaluation: the paper's four."""


def ablation(plan: Plan, points: Sequence[str]) -> Ablation:
    """Points: some of the four cells, as training-evaluation: none-full, name-full, name-name and full-full."""
    if unknown := [point for point in points if point not in _ROWS]:
        raise FlanlabError(f"--points: {unknown[0]!r} is no cell of this ablation.", hint=f"There are: {', '.join(_ROWS)}.")
    cells = [untuned(plan.recipe)]
    for name, title in _ROWS.items():
        if points and name not in points:
            continue
        training, evaluation = (_phrased(way) for way in name.split("-"))
        recipe = changed(plan.recipe, mixture=training, evaluation=evaluation)
        cells.append(Cell(name, title, recipe, Training(recipe)))
    names = [cell.name for cell in cells]
    # Answers to task names cannot be paired with answers to instructions, template by template.
    pairs = [("none-full", "full-full"), ("name-full", "full-full"), ("none-full", "name-full")]
    pairs += [(UNTUNED, name) for name in ("full-full", "name-full", "none-full")]
    return Ablation(
        "Instructions",
        "Is it the instructions that help, or tuning on many tasks as such (section 4.3)?",
        cells,
        [Panel("Held-out clusters", "dots", [Series("", list(enumerate(names)))])],
        [Comparison(before, after) for before, after in pairs if before in names and after in names],
        [
            "Bare inputs: the fields that a task's templates show, line by line (lists item by item), without OPTIONS. Task"
            " names: the same after a line such as [Translation: wmt14 fr en]. Neither has inverted templates. All train for as"
            " many steps of as many tokens: bare inputs, being shorter, are more examples.",
            "The paper (137B, mean over four clusters): 37.3 trained on bare inputs, 46.6 with names, asked with instructions;"
            " 47.0 trained and asked with names; 55.2 trained and asked with instructions.",
        ],
    )


def _phrased(way: str) -> dict[str, str]:
    return {"instructions": "full"} if way == "full" else {"instructions": way, "options": "none"}
