"""From a score and its variance to an interval and a p-value. Everything takes arrays, element by element."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Numbers = Floats | float
LEVEL = 0.95
"""Of intervals; 1 - LEVEL is that of tests."""
POWER = 0.8
"""Chance with which a difference must be detected to be called detectable."""


def critical(freedom: Numbers, level: float = LEVEL) -> Floats:
    """Two-sided critical value of Student's t; infinite degrees of freedom give the normal's."""
    value: Floats = special.stdtrit(freedom, (1 + level) / 2)
    return value


def detectable(error: Numbers, freedom: Numbers) -> Floats:
    """The smallest true difference that is found to differ from zero with 80 % power, by its standard error."""
    value: Floats = (critical(freedom) + special.stdtrit(freedom, POWER)) * error
    return value


class Interval(NamedTuple):
    """Bounds, the standard error and its degrees of freedom, and whether anything varied; all of one shape."""

    low: Floats
    high: Floats
    error: Floats
    freedom: Floats
    varies: NDArray[np.bool_]


def bounded_interval(share: Numbers, variance: Numbers, freedom: Numbers, units: Numbers) -> Interval:
    """Interval of a score from 0 to 1: Wilson's (1927), with as many rows as would give a proportion this variance.

    For 0/1 scores of n rows, variance share * (1 - share) / n and infinite `freedom`, it is Wilson's interval itself. Where
    nothing varies, it is that of as many 0/1 scores as there are `units`, and the error is such that the mean of several is
    not thought more certain than they are.
    """
    share, variance = np.asarray(share, float), np.asarray(variance, float)
    varies = ~(variance < 1e-20)
    freedom = np.where(varies, freedom, np.inf)
    c = critical(freedom)
    spread = share * (1 - share)
    inside = varies & (spread > 0)
    per_row = np.where(varies, c**2 * variance / np.where(inside, spread, 1.0), c**2 / units)
    centre = (share + per_row / 2) / (1 + per_row)
    half = np.sqrt(per_row * spread + per_row**2 / 4) / (1 + per_row)
    # A mean of scores none of which varies: the whole width lies on the one side that is left.
    edge = varies & (spread == 0)
    centre, half = np.where(edge, share, centre), np.where(edge, 2 * c * np.sqrt(variance), half)
    low, high = np.clip(centre - half, 0.0, share), np.clip(centre + half, share, 1.0)
    error = np.where(varies, np.sqrt(variance), (high - low) / (2 * c))
    return Interval(low, high, error, freedom, varies)


def difference_interval(value: Numbers, variance: Numbers, freedom: Numbers, units: Numbers) -> Interval:
    """Interval of a difference of two scores from 0 to 1, by Student's t.

    Where nothing varies, it is as wide as Tango's of so many pairs of 0/1 scores that are all alike.
    """
    value, variance = np.asarray(value, float), np.asarray(variance, float)
    varies = ~(variance < 1e-20)
    z = critical(np.inf)
    error = np.where(varies, np.sqrt(variance), z / (units + z**2))
    freedom = np.where(varies, freedom, np.inf)
    half = critical(freedom) * error
    return Interval(np.maximum(value - half, -1.0), np.minimum(value + half, 1.0), error, freedom, varies)


def difference_p_value(value: Numbers, error: Numbers, freedom: Numbers) -> Floats:
    """Two-sided p-value of no difference."""
    p_value: Floats = 2 * special.stdtr(freedom, -np.abs(value) / error)
    return p_value


def paired_binary_interval(wins: Numbers, losses: Numbers, count: Numbers) -> Interval:
    """Interval of (wins - losses) / count for paired 0/1 scores: the score interval of Tango (1998).

    It holds exactly the differences that McNemar's test, extended to any difference, does not reject.
    """
    z2 = special.ndtri((1 + LEVEL) / 2) ** 2
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
    low, high = ends
    error = (high - low) / (2 * np.sqrt(z2))
    return Interval(low, high, error, np.full(error.shape, np.inf), wins + losses > 0)


def paired_binary_p_value(wins: Numbers, losses: Numbers) -> Floats:
    """Two-sided p-value of no difference by McNemar's test (1947); 1 where no pair differs."""
    differing = np.asarray(wins, float) + losses
    p_value: Floats = 2 * special.ndtr(-np.abs(wins - np.asarray(losses)) / np.sqrt(np.maximum(differing, 1)))
    return p_value
