"""The template that is best on the dev split, and its score on the test split (Wei et al. 2022, section 2.3).

The mean over templates says what to expect of an instruction as it comes; the best template on dev, what to expect where
somebody has tried a few on rows that they know the answers to. Test rows take no part in the choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flanlab.evaluation.metrics.declared import metrics_for
from flanlab.evaluation.planning import EvaluationSettings, PlannedTask, Setup
from flanlab.results.files import PREDICTIONS
from flanlab.results.grids import Prediction, ScoreGrid, score_grid
from flanlab.results.schema import BestTemplate
from flanlab.tasks.schema import Task

DEV_FOLDER = "dev_predictions"
"""Beside `predictions` in a run's or an evaluation's folder, and laid out like it."""
_DEV_ROWS = 200
"""As many as FLAN's dev sets have at most (section 2.3)."""


def dev_settings(settings: EvaluationSettings) -> EvaluationSettings:
    """The settings that dev rows are predicted with: all forward templates of each, else those of the test rows."""
    return settings.model_copy(update={"split": "dev", "rows": _DEV_ROWS, "templates_per_row": None})


def stages_of(
    setup: Setup, planned: Sequence[PlannedTask], dev: Sequence[PlannedTask]
) -> list[tuple[str, Setup, Sequence[PlannedTask]]]:
    """Folder, setup and questions of an evaluation's stages: dev rows, where templates are chosen, then test rows.

    The baseline is one prompt: there is nothing to choose.
    """
    chooses = [(DEV_FOLDER, replace(setup, settings=dev_settings(setup.settings)), dev)] if setup.style != "baseline" else []
    return [*chooses, (PREDICTIONS, setup, planned)]


def best_on_dev(task: Task, dev: Sequence[Prediction], test: Sequence[Prediction]) -> tuple[BestTemplate, ScoreGrid]:
    """The template with the best main metric on dev (of equals, the lowest number), scored on test.

    Args:
        task: whose templates.
        dev: one variant's predictions of the dev rows.
        test: the same variant's predictions of the test rows.

    Returns:
        The template, and its test predictions arranged for scoring.
    """
    # With few rows and fewer templates for each, a template may have been shown no test row, and then has no score.
    asked = {prediction["template"] for prediction in test}
    metric = metrics_for(task.metrics, dev)[0]
    grid = score_grid(metric, dev)
    dev_scores = {template: float(score) for template, score in zip(grid.templates, grid.by_template(), strict=True)}
    best = max(sorted(asked & set(dev_scores)), key=dev_scores.__getitem__)
    # Not the metric of the dev rows: what a metric knows of all answers must come from the test rows.
    metric = metrics_for(task.metrics, test)[0]
    chosen = [prediction for prediction in test if prediction["template"] == best]
    facts = BestTemplate(
        template=best,
        metric=metric.name,
        dev_score=dev_scores[best],
        dev_rows=len({prediction["row"] for prediction in dev}),
        dev_scores={str(template): score for template, score in dev_scores.items()},
    )
    return facts, score_grid(metric, chosen)
