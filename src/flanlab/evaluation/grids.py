"""Predictions of one task arranged by template and unit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flanlab.evaluation.groups import groups_of
from flanlab.evaluation.metrics.metric import Metric, Prediction
from flanlab.results.grids import ScoreGrid


def score_grid(metric: Metric, predictions: Sequence[Prediction]) -> ScoreGrid:
    """Arrange the predictions of one task and model by template and unit."""
    templates = sorted({prediction["template"] for prediction in predictions})
    place_of = {unit: place for place, unit in enumerate(groups_of(predictions))}
    cells = {
        (number, place_of[unit]): metric.statistics(together)
        for number, template in enumerate(templates)
        for unit, together in groups_of(p for p in predictions if p["template"] == template).items()
    }
    statistics = np.zeros((len(templates), len(place_of), len(next(iter(cells.values())))))
    shown = np.zeros((len(templates), len(place_of)))
    for where, values in cells.items():
        statistics[where] = values
        shown[where] = 1
    return ScoreGrid(metric, tuple(templates), tuple(place_of), statistics, shown)
