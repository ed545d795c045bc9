"""Variance of a mean over templates and units, both of them samples: the two-way random-effects layout.

A cell's value is a mean, plus what its template adds, plus what its unit adds, plus the rest. The variance of the mean over
templates has two parts, each estimated without bias whichever cells were shown:

- the spread of the templates' scores, divided by their number;
- what two templates' scores have in common because they saw the same units.

Where each unit was shown through one template, the second part is zero and the first holds the units' noise already.
Arrays may have further dimensions in front: [..., templates, units].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Variance(NamedTuple):
    """An estimated variance of a mean, and the degrees of freedom it has: both NaN where it cannot be estimated."""

    variance: Floats
    freedom: Floats


def template_unit_variance(values: Floats, shown: Floats) -> Variance:
    """Variance of the mean over templates of each template's mean over its units.

    Args:
        values: of the cells, [..., templates, units]; whatever they are where a unit was not shown.
        shown: 1 or 0, [templates, units]; every template has a unit.

    Returns:
        variance and degrees of freedom (Satterthwaite 1946), [...]. With one template the variance is over units alone.
        The variance is never below that which units alone give. NaN where a single unit, or single units of each of
        several templates that share none, leave nothing to estimate it from.
    """
    total, between, common = _parts(values, shown)
    units = _unit_variance(values, shown)
    if len(shown) == 1:
        return units
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = total**2 / (between**2 / (len(shown) - 1) + common**2)
    return _larger(Variance(total, np.where(total > 0, freedom, len(shown) - 1.0)), units)


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
    scores = _template_means(values, shown).mean(axis=-1)
    between = scores.var(axis=-1, ddof=1) / seeds

    def form(cells: Floats) -> Floats:
        return _unit_variance(cells, shown).variance if len(shown) == 1 else _parts(cells, shown)[0]

    # Mean covariance of two different models' scores: by polarisation, since the variance is a quadratic form.
    common = np.maximum((seeds**2 * form(values.mean(axis=-3)) - form(values).sum(axis=-1)) / (seeds * (seeds - 1)), 0.0)
    total = between + common
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = total**2 / (between**2 / (seeds - 1) + common**2 / together.freedom)
    return _larger(Variance(total, np.where(total > 0, freedom, seeds - 1.0)), together)


def _larger(one: Variance, other: Variance) -> Variance:
    """The larger of two variances, with its degrees of freedom; one that is NaN loses."""
    takes = ~(other.variance > one.variance)
    return Variance(np.where(takes, one.variance, other.variance), np.where(takes, one.freedom, other.freedom))


def _template_means(values: Floats, shown: Floats) -> Floats:
    means: Floats = (values * shown).sum(axis=-1) / shown.sum(axis=-1)
    return means


def _parts(values: Floats, shown: Floats) -> tuple[Floats, Floats, Floats]:
    """Total variance, its part between templates, and the standard error of the part that templates have in common."""
    templates, units = shown.shape
    if templates == 1:
        nothing = np.zeros(values.shape[:-2])
        return nothing, nothing, nothing
    means = _template_means(values, shown)
    between = means.var(axis=-1, ddof=1) / templates
    counts = shown.sum(axis=1)
    both = shown @ shown.T
    np.fill_diagonal(both, 0)
    product = counts[:, None] * counts[None, :]
    # Expected sum of products of deviations from the templates' means, for units' effects of variance 1.
    expected = (both * (1 - 1 / counts[:, None] - 1 / counts[None, :] + both / product)).sum()
    if expected <= 1e-9 or units < 2:
        return between, between, np.zeros_like(between)
    deviations = (values - means[..., None]) * shown
    by_unit = deviations.sum(axis=-2) ** 2 - (deviations**2).sum(axis=-2)
    scale = (both / product).sum() / (templates * (templates - 1)) / expected
    common = scale * by_unit.sum(axis=-1)
    # Satterthwaite's formula takes half the variance of each part.
    error = scale * np.sqrt(units * by_unit.var(axis=-1, ddof=1) / 2)
    return between + np.maximum(common, 0.0), between, error


def _unit_variance(values: Floats, shown: Floats) -> Variance:
    """Variance over units with these very templates."""
    counts = shown.sum(axis=1)
    spare = ((counts - 1) / counts**2).sum()
    if spare == 0:
        nothing = np.full(values.shape[:-2], np.nan)
        return Variance(nothing, nothing)
    deviations = (values - _template_means(values, shown)[..., None]) * shown
    by_unit = (deviations / (len(shown) * counts[:, None])).sum(axis=-2)
    factor = (1 / counts).sum() / spare
    variance = factor * (by_unit**2).sum(axis=-1)
    return Variance(variance, np.full(variance.shape, shown.shape[1] / factor))
