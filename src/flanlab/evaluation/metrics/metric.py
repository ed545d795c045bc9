"""Metrics by how their scores are made from rows: sums of statistics, or means."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from flanlab.results.grids import Metric, Prediction
from flanlab.results.intervals import Floats


def summed_metric(
    name: str,
    title: str,
    definition: str,
    statistics: Callable[[Prediction], Sequence[float]],
    combine: Callable[[Floats], Floats],
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Metric:
    """A metric whose rows' statistics add up; `combine` takes sums [..., k] to scores [...]."""
    return Metric(name, title, definition, lambda unit: np.sum([statistics(row) for row in unit], axis=0), combine, bounds)


def mean_metric(name: str, title: str, definition: str, score: Callable[[Prediction], float]) -> Metric:
    """The mean of a score over rows."""
    return summed_metric(name, title, definition, lambda row: (score(row), 1.0), lambda sums: ratio(sums[..., 0], sums[..., 1]))


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Element by element; 0 where the denominator is 0, as scikit-learn has it for a score that is not defined."""
    result: Floats = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
    return result
