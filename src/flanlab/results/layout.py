"""Variance of a mean over templates and units, both of them samples: the two-way random-effects layout.

A cell's value is a mean, plus what its template adds, plus what its unit adds, plus the rest. The variance of the mean over
templates has two parts, each estimated without bias whichever cells were shown:

- between: the spread of the templates' scores, divided by their number;
- common: what two templates' scores have in common because they saw the same units.

Where each unit was shown through one template, the second part is zero and the first holds the units' noise already.
Models trained with several seeds are a third sample, in the same way: the spread between them, and what they have in common.
Arrays may have further dimensions in front: [..., templates, units].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

from flanlab.results.intervals import LEVEL, Floats, critical

FLOOR = 0.6
"""Least width of an interval, in that by `Variance.floor`; a higher one makes those of few templates wider than need be."""


class Variance(NamedTuple):
    """Variance of a mean, in parts; NaN where it cannot be estimated."""

    between: Floats
    """Between templates, or seeds."""
    between_freedom: Floats
    """Its degrees of freedom."""
    common: Floats
    """What they have in common; by chance it may be negative."""
    common_error: Floats
    """Square root of half the variance of `common`, as an estimate."""
    floor: Floats
    """What it is at least: the variance over units alone, with these very templates; of several seeds, with these seeds."""


UNKNOWN = Variance(*[np.array(np.nan)] * 5)


def template_unit_variance(values: Floats, shown: Floats) -> Variance:
    """Variance of the mean over templates of each template's mean over its units.

    Args:
        values: of the cells, [..., templates, units]; whatever they are where a unit was not shown.
        shown: 1 or 0, [templates, units]; every template has a unit.

    Returns:
        Arrays [...]. With one template the variance is over units alone, and all of it is `common`.
    """
    templates, units = shown.shape
    over_units, freedom = unit_variance(values, shown)
    if units == 1:
        over_units = np.full_like(over_units, np.nan)
        return Variance(over_units, over_units, over_units, over_units, over_units)
    if templates == 1:
        nothing = np.zeros_like(over_units)
        return Variance(nothing, nothing + np.inf, over_units, over_units / np.sqrt(freedom), over_units)
    means = _template_means(values, shown)
    between = means.var(axis=-1, ddof=1) / templates
    common, error = common_part(values, shown)
    return Variance(between, np.full_like(between, templates - 1), common, error, np.nan_to_num(over_units))


def seed_variance(values: Floats, shown: Floats) -> Variance:
    """As `template_unit_variance`, for the mean over models trained with several seeds, which are a sample too.

    Args:
        values: of the cells, [..., seeds, templates, units], all models over the same ones.
        shown: 1 or 0, [templates, units].
    """
    seeds = values.shape[-3]
    together = template_unit_variance(values.mean(axis=-3), shown)
    if seeds == 1:
        return together
    each = template_unit_variance(values, shown)
    between = _template_means(values, shown).mean(axis=-1).var(axis=-1, ddof=1) / seeds
    # Mean covariance of two different models' scores: by polarisation, since the variance is a quadratic form.
    sums = (seeds**2 * (together.between + together.common), (each.between + each.common).sum(axis=-1))
    common = (sums[0] - sums[1]) / (seeds * (seeds - 1))
    whole, freedom = total(together)
    return Variance(between, np.full_like(between, seeds - 1), common, whole / np.sqrt(freedom), whole)


def total(variance: Variance) -> tuple[Floats, Floats]:
    """The whole variance, and degrees of freedom by which Student's t gives intervals that hold what they say.

    Satterthwaite's (1946) degrees of freedom give intervals too narrow where few templates meet many rows. The critical value
    here lies between those of the two parts, by a weight fitted so that 95 % intervals hold 95 % whatever the two parts' true
    shares (`benchmarks/critical_values.py`).

    The variance is raised where an interval would be narrower than FLOOR times that over units alone: two templates whose
    scores happen to agree are no proof. Nor does a variance that came out below what it is at least make the other part
    less certain.
    """
    whole = variance.between + np.maximum(variance.common, 0.0)
    least = np.maximum(whole, variance.floor)
    share = np.divide(variance.between, whole, out=np.zeros_like(whole), where=whole > 0)
    noise = np.divide(variance.common_error, least, out=np.zeros_like(whole), where=least > 0)
    few, many = critical(variance.between_freedom), critical(1 / np.clip(noise**2, 1e-9, 1.0))
    value = many + _weight(share, variance.between_freedom) * (few - many)
    whole = np.maximum(whole, variance.floor * (FLOOR * critical(np.inf) / value) ** 2)
    return whole, _freedom_of(value)


def mean_variance(variance: Variance, weights: Floats) -> Variance:
    """Variance of a weighted mean of independent numbers; their variances and weights lie along the first dimension.

    Degrees of freedom of sums are Satterthwaite's, without the bias that estimated variances give them.
    """
    squares = weights.reshape(-1, *[1] * (variance.between.ndim - 1)) ** 2

    between = squares * variance.between
    least = np.broadcast_to(variance.between_freedom, between.shape).min(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = between.sum(axis=0) ** 2 / (between**2 / (variance.between_freedom + 2)).sum(axis=0) - 2
    return Variance(
        between.sum(axis=0),
        np.where(np.isfinite(freedom), np.maximum(freedom, least), np.inf),
        (squares * variance.common).sum(axis=0),
        np.sqrt((squares**2 * variance.common_error**2).sum(axis=0)),
        (squares * variance.floor).sum(axis=0),
    )


# Fitted by benchmarks/critical_values.py, for these degrees of freedom; the limit by extrapolation.
_POINTS = 1 / np.array([np.inf, 15, 9, 7, 5, 4, 3, 2, 1])
_POWERS = np.array([1.6, 1.81, 1.93, 2.01, 2.17, 2.31, 2.57, 3.19, 7.11])
_LOGARITHMS = np.array([0.75, 0.52, 0.42, 0.34, 0.17, 0.01, -0.33, -1.31, -11.03])


def _weight(share: Floats, freedom: Floats) -> Floats:
    """Weight of the critical value of the part between templates, by its share of the variance."""
    power = np.interp(1 / freedom, _POINTS, _POWERS)
    factor = np.exp(np.interp(1 / freedom, _POINTS, _LOGARITHMS))
    raised = share**power
    weight: Floats = raised / (raised + factor * (1 - share))
    return weight


_FREEDOMS = 1 / np.linspace(1, 1e-4, 4_000)
_CRITICAL_VALUES = special.stdtrit(_FREEDOMS, (1 + LEVEL) / 2)


def _freedom_of(value: Floats) -> Floats:
    """The degrees of freedom with which Student's t has this critical value."""
    found = 1 / np.interp(value, _CRITICAL_VALUES[::-1], 1 / _FREEDOMS[::-1])
    result: Floats = np.where(value <= _CRITICAL_VALUES[-1], np.inf, found)
    return np.where(np.isnan(value), np.nan, result)


def _template_means(values: Floats, shown: Floats) -> Floats:
    means: Floats = (values * shown).sum(axis=-1) / shown.sum(axis=-1)
    return means


def common_part(values: Floats, shown: Floats) -> tuple[Floats, Floats]:
    """The part that templates have in common, and the square root of half its variance, as Satterthwaite's formula takes it."""
    templates, units = shown.shape
    counts = shown.sum(axis=1)
    both = shown @ shown.T
    np.fill_diagonal(both, 0)
    product = counts[:, None] * counts[None, :]
    # Expected sum of products of deviations from the templates' means, for units' effects of variance 1.
    expected = (both * (1 - 1 / counts[:, None] - 1 / counts[None, :] + both / product)).sum()
    if expected <= 1e-9:
        nothing = np.zeros(values.shape[:-2])
        return nothing, nothing
    deviations = (values - _template_means(values, shown)[..., None]) * shown
    by_unit = deviations.sum(axis=-2) ** 2 - (deviations**2).sum(axis=-2)
    scale = (both / product).sum() / (templates * (templates - 1)) / expected
    return scale * by_unit.sum(axis=-1), scale * np.sqrt(units * by_unit.var(axis=-1, ddof=1) / 2)


def unit_variance(values: Floats, shown: Floats) -> tuple[Floats, Floats]:
    """Variance over units with these very templates, and its degrees of freedom; NaN where no template has two units."""
    counts = shown.sum(axis=1)
    spare = ((counts - 1) / counts**2).sum()
    if spare == 0:
        nothing = np.full(values.shape[:-2], np.nan)
        return nothing, nothing
    deviations = (values - _template_means(values, shown)[..., None]) * shown
    by_unit = (deviations / (len(shown) * counts[:, None])).sum(axis=-2)
    factor = (1 / counts).sum() / spare
    variance = factor * (by_unit**2).sum(axis=-1)
    return variance, np.full(variance.shape, shown.shape[1] / factor)
