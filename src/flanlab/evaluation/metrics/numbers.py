"""Correlation of the numbers that answers read as with the numbers they should be."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from flanlab.evaluation.metrics.answers import HALF_WIDTH
from flanlab.results.grids import Metric, Prediction
from flanlab.results.intervals import Floats

_NUMBER = re.compile(
    r"(?<![\w.])[-\N{MINUS SIGN}]?(?:\d+(?:,\d{3})+(?:\.\d+)?|(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+\N{MINUS SIGN}]?\d+\b)?)"
)
_LARGEST = 1e100
"""A string of more than a hundred digits is babble, and its square would overflow."""


def read_number(text: str) -> float | None:
    """The first number in a text: `about 3.8 of 5` reads as 3.8, `1,200` as 1200, `1e-3` as 0.001; None where there is none."""
    found = _NUMBER.search(text.translate(HALF_WIDTH))
    if found is None:
        return None
    number = float(found.group().replace(",", "").replace("\N{MINUS SIGN}", "-"))
    return number if abs(number) < _LARGEST else None


def _numbers(unit: Sequence[Prediction]) -> Sequence[float]:
    """Statistics of a row: 1, whether its answer is a number, that number, and the label."""
    (prediction,) = unit
    number = read_number(prediction["generated"])
    return (1.0, float(number is not None), number or 0.0, prediction["gold_value"])


def _correlation(weights: Floats, units: Floats, scale: Callable[[Floats, Floats], Floats]) -> Floats:
    """Weighted correlation [draws]; `scale` makes of values [units] and weights what is correlated, [draws or 1, units]."""
    seen, is_number, numbers, labels = units.T
    weights = weights * seen
    readable = weights * is_number
    numbers, labels = scale(numbers, readable), scale(labels, weights)
    from_mean, from_label_mean = _centred(numbers, readable) * is_number, _centred(labels, weights)
    covariance = (weights * from_mean * from_label_mean).sum(axis=1)
    spreads = (weights * from_mean**2).sum(axis=1), (weights * from_label_mean**2).sum(axis=1)
    sizes = (readable * numbers**2).sum(axis=1), (weights * labels**2).sum(axis=1)
    # What is left of equal numbers after their mean is taken off is rounding, about 1e-16 of each.
    defined = (spreads[0] > 1e-28 * sizes[0]) & (spreads[1] > 1e-28 * sizes[1])
    result: Floats = np.zeros_like(covariance)
    np.divide(covariance, np.sqrt(spreads[0]) * np.sqrt(spreads[1]), out=result, where=defined)
    return result


def _centred(values: Floats, weights: Floats) -> Floats:
    total = np.maximum(weights.sum(axis=1), 1)
    result: Floats = values - ((weights * values).sum(axis=1) / total)[:, None]
    return result


def _ranks(values: Floats, weights: Floats) -> Floats:
    """Rank of each value [draws, units] where it occurs `weights` times; equal values share their mean rank."""
    _, level = np.unique(values, return_inverse=True)
    order = np.argsort(level, kind="stable")
    starts = np.searchsorted(level[order], np.arange(level.max() + 1))
    count = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks: Floats = (count.cumsum(axis=1) - count + (count + 1) / 2)[:, level]
    return ranks


PEARSON = Metric(
    "pearson",
    "Pearson correlation",
    "Pearson correlation of the answers' numbers with the labels (-1 to 1); an answer without a number counts as the mean.",
    _numbers,
    bounds=(-1.0, 1.0),
    weighted=lambda weights, units: _correlation(weights, units, lambda values, _: values[None, :]),
)
"""Over rows; what was generated is read as a number.

An answer that is no number counts as the mean of those that are: it adds nothing to the covariance, and the label it missed
stays in the spread that the covariance is divided by. So a model cannot gain by silence, nor lose or gain by what number
silence would have been taken for. 0 where the correlation is not defined: the numbers, or the labels, are all one.
"""
SPEARMAN = Metric(
    "spearman",
    "Spearman correlation",
    "Spearman's rank correlation of the answers' numbers with the labels (-1 to 1); an answer without a number takes the"
    " mean rank.",
    _numbers,
    bounds=(-1.0, 1.0),
    weighted=lambda weights, units: _correlation(weights, units, _ranks),
)
"""Ranked again in every resampling; ties share their mean rank. Answers that are no number are left out of the ranking and
take its mean rank, as in PEARSON."""
