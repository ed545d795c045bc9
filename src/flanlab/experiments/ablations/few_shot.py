"""Section 4.4: without and with exemplars before each question, for the tuned and the untuned model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flanlab.experiments.cells import Ablation, Cell, Comparison, Panel, Series, Training, changed, whole_numbers
from flanlab.experiments.recipe import Plan


def ablation(plan: Plan, points: Sequence[str]) -> Ablation:
    """Points: most exemplars before a question; 0 and 16."""
    shots = whole_numbers(points, (0, 16), least=0, most=16)
    # Training never sees exemplars, and so is the same for all cells.
    training = Training(plan.recipe)
    cells: list[Cell] = []
    for number in shots:
        recipe = changed(plan.recipe, evaluation={"shots": number})
        title = f"up to {number} shot{'s' if number > 1 else ''}" if number else "zero-shot"
        cells.append(Cell(f"untuned-{number}-shot", f"untuned, {title}", recipe))
        cells.append(replace(cells[-1], name=f"tuned-{number}-shot", title=f"tuned, {title}", training=training))
    pairs = [(shots[0], number, way) for way in ("tuned", "untuned") for number in shots[1:]]
    return Ablation(
        "Few-shot",
        "Do exemplars before the question add to instruction tuning, and make it less dependent on wording (section 4.4)?",
        cells,
        [Panel("Held-out clusters", "dots", [Series("", [(place, cell.name) for place, cell in enumerate(cells)])])],
        [
            *(Comparison(f"{way}-{fewer}-shot", f"{way}-{more}-shot") for fewer, more, way in pairs),
            *(Comparison(f"untuned-{number}-shot", f"tuned-{number}-shot") for number in shots),
        ],
        [
            f"Exemplars are shown while they and the question stay within {plan.recipe.evaluation.shot_tokens} tokens: long"
            " rows get fewer.",
            "Training never sees exemplars here; the paper draws exemplars in training and at inference.",
            "The table gives the spread over templates beside each score."
            if plan.recipe.evaluation.templates_per_row is None
            else "Each template is asked other rows (templates_per_row), so no spread over templates is given.",
            "In the paper exemplars help every cluster, and make the spread over templates smaller; its figure has no numbers.",
        ],
    )
