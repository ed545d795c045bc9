"""Two models on the same questions: predictions of different runs, paired by row and template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flanlab.data.rendering import BASELINE
from flanlab.errors import FlanlabError
from flanlab.evaluation.grids import score_grid
from flanlab.evaluation.metrics.declared import metrics_for
from flanlab.evaluation.metrics.metric import Prediction
from flanlab.evaluation.results import TaskScores, summarize

SIDES = ("a", "b")


def paired_results(
    name: str, declared: Sequence[str], first: Sequence[Prediction], second: Sequence[Prediction], *, end_token: bool
) -> tuple[dict[str, Any], TaskScores]:
    """Scores of two models on the rows and templates that both were asked.

    A baseline is a single prompt beside the templates' many, so one that is paired with templates is paired by row alone.

    Args:
        name: of the task.
        declared: the task's metrics, the main one first.
        first: predictions of the side `a`.
        second: those of `b`.
        end_token: whether an option's end token counts in its score.

    Returns:
        `main_metric`, `metrics`, `definitions`, `rows`, `templates`, `left_aside` (predictions without a counterpart, by
        side) and `scores`; and the scores for comparisons. Metrics are those that both have.

    Raises:
        FlanlabError: nothing is common, or what should be the same question has another answer.
    """
    kept = _common(name, first, second)
    known = {metric.name for metric in metrics_for(declared, kept[1], end_token=end_token)}
    metrics = [metric for metric in metrics_for(declared, kept[0], end_token=end_token) if metric.name in known]
    if not metrics:
        raise FlanlabError(
            f"{name}: no metric can be computed from both.", hint="Evaluate one of them again with other settings."
        )
    grids = {
        metric.name: {side: score_grid(metric, predictions) for side, predictions in zip(SIDES, kept, strict=True)}
        for metric in metrics
    }
    found = TaskScores(grids, metrics[0].name)
    entry = {
        "rows": len({prediction["row"] for prediction in kept[0]}),
        "templates": sorted({template for grid in grids[metrics[0].name].values() for template in grid.templates}),
        "left_aside": {
            side: len(given) - len(chosen) for side, given, chosen in zip(SIDES, (first, second), kept, strict=True)
        },
        "main_metric": metrics[0].name,
        "metrics": {metric.name: metric.title for metric in metrics},
        "definitions": {metric.name: metric.definition for metric in metrics},
        "scores": {
            metric: {side: summarize(grid, found.estimate(metric, side)) for side, grid in pair.items()}
            for metric, pair in grids.items()
        },
    }
    return entry, found


def _common(name: str, *sides: Sequence[Prediction]) -> list[list[Prediction]]:
    """The predictions of each side whose question the other was asked too."""
    baselines = [all(prediction["template"] == BASELINE for prediction in side) for side in sides]
    by_row = baselines[0] != baselines[1]

    def question(prediction: Prediction) -> tuple[int, int]:
        return prediction["row"], BASELINE if by_row else prediction["template"]

    both = {question(prediction) for prediction in sides[0]} & {question(prediction) for prediction in sides[1]}
    if not both:
        raise FlanlabError(f"{name}: the two were asked no row through the same template.", hint="Evaluate more rows.")
    kept = [[prediction for prediction in side if question(prediction) in both] for side in sides]
    # A template may have answers in words of its own, so these can only be the same for the same template.
    same = ("answer", "group") if by_row else ("answer", "group", "options", "references")
    facts = {question(prediction): [prediction[field] for field in same] for prediction in kept[0]}
    for prediction in kept[1]:
        if facts[question(prediction)] != [prediction[field] for field in same]:
            raise FlanlabError(
                f"{name}, row {prediction['row']}, template {prediction['template']}: the two were asked different questions.",
                hint="Evaluate both again with the same tasks and rows.",
            )
    return kept
