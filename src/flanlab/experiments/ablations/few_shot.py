"""Section 4.4: trained without and with exemplars, asked without and with them, beside the untuned model."""

from __future__ import annotations

from collections.abc import Sequence

from flanlab.experiments.cells import Ablation, Cell, Comparison, Panel, Series, Training, changed, whole_numbers
from flanlab.experiments.recipe import Plan, Recipe


def ablation(plan: Plan, points: Sequence[str]) -> Ablation:
    """Points: most exemplars before a question; 0 and 16. The largest is also that of the training with exemplars."""
    shots = whole_numbers(points, (0, 16), least=0, most=16)
    base = changed(plan.recipe, mixture={"shots": {0: 1.0}})
    models: dict[str, tuple[str, Training | None]] = {
        "untuned": ("untuned", None),
        "tuned": ("tuned without exemplars", Training(base)),
    }
    if shots[-1]:
        models["tuned-with-exemplars"] = ("tuned with exemplars", Training(_with_exemplars(base, shots[-1])))
    cells: list[Cell] = []
    for number in shots:
        asked = f"up to {number} shot{'s' if number > 1 else ''}" if number else "zero-shot"
        for way, (title, training) in models.items():
            recipe = changed(base if training is None else training.recipe, evaluation={"shots": number})
            cells.append(Cell(f"{way}-{number}-shot", f"{title}, {asked}", recipe, training))
    few, most = shots[0], shots[-1]
    pairs = [(f"tuned-{few}-shot", f"tuned-with-exemplars-{most}-shot")] if few != most else []
    pairs += [(f"{way}-{few}-shot", f"{way}-{number}-shot") for way in reversed(models) for number in shots[1:]]
    pairs += [
        (f"{before}-{number}-shot", f"{after}-{number}-shot")
        for number in shots
        for before, after in (("untuned", "tuned"), ("tuned", "tuned-with-exemplars"))
        if after in models
    ]
    return Ablation(
        "Few-shot",
        "Do exemplars in training and before the question add to instruction tuning, and make it less dependent on wording"
        " (section 4.4)?",
        cells,
        [Panel("Held-out clusters", "dots", [Series("", [(place, cell.name) for place, cell in enumerate(cells)])])],
        [Comparison(before, after) for before, after in pairs],
        [
            f"Exemplars are shown while they and the question stay within {plan.recipe.evaluation.shot_tokens} tokens, in"
            " training as in evaluation: long rows get fewer.",
            f"Trained with exemplars: each training example is asked for after up to {most} of its task's train split.",
            "The table gives the spread over templates beside each score."
            if plan.recipe.evaluation.templates_per_row is None
            else "Each template is asked other rows (templates_per_row), so no spread over templates is given.",
            "In the paper, which draws exemplars in training and at inference, they help every cluster and make the spread over"
            " templates smaller; its figure has no numbers.",
        ],
    )


def _with_exemplars(recipe: Recipe, shots: int) -> Recipe:
    """Trained as it will be asked: with as many exemplars, within as many tokens."""
    tokens = recipe.evaluation.shot_tokens
    longest = max(recipe.mixture.prompt_tokens, tokens)
    return changed(recipe, mixture={"shots": {shots: 1.0}, "shot_tokens": tokens, "prompt_tokens": longest})
