"""What a metric is: statistics of each row, and a score from weighted rows.

For most metrics the statistics add up: the score of one prediction, or counts, and a function of their sum. Kept this way,
any resampling of rows is a weighted sum, so intervals need no prediction to be looked at again. Rows that belong together
(a task's `group`) are one unit: they are resampled as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Prediction = Mapping[str, Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A metric with its name in results.json, a title, and its definition in one line."""

    name: str
    title: str
    definition: str
    statistics: Callable[[Sequence[Prediction]], Sequence[float]]
    """Of one unit seen through one template (a row, or all rows of a group): k numbers, all 0 for a unit not seen."""
    score: Callable[[Floats, Floats], Floats]
    """From weights [draws, units] and the units' statistics [units, k] to scores [draws]."""
    combine: Callable[[Floats], Floats] | None = None
    """From sums of statistics [..., k] to scores [...]; None where the score is no function of sums."""
    bounds: tuple[float, float] = (0.0, 1.0)
    """The lowest and the highest score there can be."""


def summed_metric(
    name: str,
    title: str,
    definition: str,
    statistics: Callable[[Prediction], Sequence[float]],
    combine: Callable[[Floats], Floats],
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Metric:
    """A metric whose rows' statistics add up; `combine` takes sums [..., k] to scores [...]."""
    return grouped_metric(
        name, title, definition, lambda unit: np.sum([statistics(row) for row in unit], axis=0), combine, bounds
    )


def grouped_metric(
    name: str,
    title: str,
    definition: str,
    statistics: Callable[[Sequence[Prediction]], Sequence[float]],
    combine: Callable[[Floats], Floats],
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Metric:
    """As `summed_metric`, but the statistics are those of a whole unit."""
    return Metric(name, title, definition, statistics, lambda weights, units: combine(weights @ units), combine, bounds)


def mean_metric(name: str, title: str, definition: str, score: Callable[[Prediction], float]) -> Metric:
    """The mean of a score over rows."""
    return summed_metric(name, title, definition, lambda row: (score(row), 1.0), lambda sums: ratio(sums[..., 0], sums[..., 1]))


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Element by element; 0 where the denominator is 0, as scikit-learn has it for a score that is not defined."""
    result: Floats = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
    return result
