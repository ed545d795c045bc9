"""From a score and its variance to an interval and a p-value. Everything takes arrays, element by element."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Numbers = Floats | float
LEVEL = 0.95
"""Of intervals; 1 - LEVEL is that of tests."""


def critical(freedom: Numbers, level: float = LEVEL) -> Floats:
    """Two-sided critical value of Student's t; infinite degrees of freedom give the normal's."""
    value: Floats = stats.t.ppf((1 + level) / 2, freedom)
    return value


def bounded_interval(share: Numbers, variance: Numbers, freedom: Numbers) -> tuple[Floats, Floats]:
    """Interval of a score from 0 to 1: Wilson's (1927), with as many rows as would give a proportion this variance.

    For 0/1 scores of n rows, variance share * (1 - share) / n and infinite `freedom`, it is Wilson's interval itself.
    """
    share, variance = np.asarray(share, float), np.asarray(variance, float)
    c = critical(freedom)
    spread = share * (1 - share)
    inside = (spread > 0) & (variance > 0)
    per_row = c**2 * variance / np.where(inside, spread, 1.0)
    centre = np.where(inside, (share + per_row / 2) / (1 + per_row), share)
    half = np.sqrt(per_row * spread + per_row**2 / 4) / (1 + per_row)
    # At the bound, where no number of rows gives any variance, the whole width lies on one side.
    half = np.where(inside, half, 2 * c * np.sqrt(variance))
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def paired_binary_interval(wins: Numbers, losses: Numbers, count: Numbers) -> tuple[Floats, Floats]:
    """Interval of (wins - losses) / count for paired 0/1 scores: the score interval of Tango (1998).

    It holds exactly the differences that McNemar's test, extended to any difference, does not reject.
    """
    z2 = stats.norm.ppf((1 + LEVEL) / 2) ** 2
    wins, losses, count = (np.asarray(given, float) for given in (wins, losses, count))
    difference = (wins - losses) / count

    def excess(delta: Floats) -> Floats:
        # Probability of a loss that is likeliest where wins - losses = delta (Tango 1998, equation 3).
        linear = -wins - losses + (2 * count - wins + losses) * delta
        root = np.sqrt(np.maximum(linear**2 - 8 * count * (-losses * delta * (1 - delta)), 0.0))
        loss = (root - linear) / (4 * count)
        variance = np.maximum((2 * loss + delta * (1 - delta)) / count, 0.0)
        result: Floats = (difference - delta) ** 2 - z2 * variance
        return result

    ends = []
    for end in (-1.0, 1.0):
        outside, inside = np.full(difference.shape, end), difference
        for _ in range(50):
            middle = (outside + inside) / 2
            beyond = excess(middle) > 0
            outside, inside = np.where(beyond, middle, outside), np.where(beyond, inside, middle)
        ends.append((outside + inside) / 2)
    return ends[0], ends[1]
