"""Predictions arranged for estimates of how a score is distributed over wordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flanlab.evaluation.grids import score_grid
from flanlab.evaluation.metrics.metric import Floats, Metric, Prediction, mean_metric
from flanlab.evaluation.metrics.options import margin

ZERO_ONE_METRICS = ("accuracy", "exact_match")
"""Metrics that give each answer 0 or 1, of which the distribution over wordings can be estimated."""


@dataclass(frozen=True)
class Answers:
    """Answers to rows of one task, in the form that `quantiles_over_wordings` takes."""

    scores: Floats
    """0 or 1, [templates, rows]."""
    shown: Floats
    """1 or 0, [templates, rows]."""
    labels: NDArray[np.int_]
    """Of each row: the position of its right option; 0 for all where there are none."""
    margins: Floats | None
    """By how much the right option is ahead, [templates, rows]; None where options were not ranked."""


def answers_of(metric: Metric, predictions: Sequence[Prediction], *, end_token: bool) -> Answers:
    """Arrange predictions of one task and model.

    Args:
        metric: one of ZERO_ONE_METRICS.
        predictions: of one variant.
        end_token: whether an option's end token counts in its score.
    """
    # Row by row: rows of a group have labels of their own.
    alone = [{**prediction, "group": None} for prediction in predictions]
    grid = score_grid(metric, alone)
    label_of = {prediction["row"]: prediction["answer"] or 0 for prediction in alone}
    margins = None
    if metric.name == "accuracy":
        ahead = mean_metric("margin", "margin", "", lambda prediction: margin(prediction, end_token))
        margins = score_grid(ahead, alone).statistics[..., 0]
    return Answers(grid.statistics[..., 0], grid.shown, np.array([label_of[row] for row in grid.units]), margins)
