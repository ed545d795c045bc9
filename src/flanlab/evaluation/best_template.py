"""The template that is best on the dev split, and its score on the test split (Wei et al. 2022, section 2.3).

The mean over templates says what to expect of an instruction as it comes; the best template on dev, what to expect where
somebody has tried a few on rows that they know the answers to. Test rows take no part in the choice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flanlab.data.rendering import BASELINE
from flanlab.data.sources import Rows
from flanlab.evaluation.grids import score_grid
from flanlab.evaluation.metrics.declared import metrics_for
from flanlab.evaluation.planning import EvaluationSettings, EvaluationUnit, plan_task
from flanlab.evaluation.predict import read_predictions
from flanlab.evaluation.results import interval_of
from flanlab.results.statistics import estimate
from flanlab.tasks.schema import Task

DEV_FOLDER = "dev_predictions"
"""Beside `predictions` in a run's or an evaluation's folder, and laid out like it."""
_DEV_ROWS = 200
"""As many as FLAN's dev sets have at most (section 2.3)."""


def dev_settings(settings: EvaluationSettings) -> EvaluationSettings:
    """The settings that dev rows are predicted with: all forward templates of each, else those of the test rows."""
    return settings.model_copy(update={"split": "dev", "rows": _DEV_ROWS, "templates_per_row": None})


def plan_dev(unit: EvaluationUnit, rows: Rows, settings: EvaluationSettings, seed: int) -> EvaluationUnit:
    """Choose the dev rows by which the template of a unit's task is chosen; unit and settings are those of the test rows."""
    return plan_task(unit.task, rows, dev_settings(settings), seed, unit.exemplars)


def best_dev_template(task: Task, dev: Path, test: Path, settings: EvaluationSettings) -> dict[str, Any] | None:
    """The template with the best main metric on dev (of equals, the lowest number), scored on test.

    Args:
        task: whose templates.
        dev: folder of one variant's predictions of the dev rows.
        test: folder of the same variant's predictions of the test rows.
        settings: as the test predictions were made.

    Returns:
        `template`; `metric`; its `dev_score`, the `dev_rows` and every template's in `dev_scores`; on test its `score` and
        `interval`, which is over rows alone. None for the baseline, a single prompt that leaves no choice.

    Raises:
        FlanlabError: one of the folders holds no predictions.
    """
    predictions = read_predictions(test).to_pylist()
    # With few rows and fewer templates for each, a template may have met no test row, and then has no score to tell.
    asked = {prediction["template"] for prediction in predictions}
    if asked == {BASELINE}:
        return None
    tried = read_predictions(dev).to_pylist()
    metric = metrics_for(task.metrics, tried, end_token=settings.end_token)[0]
    grid = score_grid(metric, tried)
    dev_scores = {template: float(score) for template, score in zip(grid.templates, grid.by_template(), strict=True)}
    best = max(sorted(asked & set(dev_scores)), key=dev_scores.__getitem__)
    # The metric anew: what it knows of all answers must come from the test rows.
    metric = metrics_for(task.metrics, predictions, end_token=settings.end_token)[0]
    chosen = score_grid(metric, [prediction for prediction in predictions if prediction["template"] == best])
    found = estimate(chosen)
    return {
        "template": best,
        "metric": metric.name,
        "dev_score": dev_scores[best],
        "dev_rows": len({prediction["row"] for prediction in tried}),
        "dev_scores": {str(template): score for template, score in dev_scores.items()},
        "score": found.mean,
        "interval": interval_of(found),
    }
