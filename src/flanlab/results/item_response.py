"""The distribution of a score over wordings, from a few answers through each (PromptEval: Polo et al. 2024, arXiv 2405.17202).

Each row was shown through some templates. An item-response model learns what a template, a row's label and a row add, and
says how likely every answer is that was not asked for. It is the normal ogive model: an answer is right where a normal
variable is above zero, and the mean of the variable is what its template adds for rows of this label, plus what its row adds.
The effects are drawn from their posterior by Gibbs sampling (Albert 1992, Journal of Educational Statistics 17). Each draw
completes the table of templates and rows, and has its own quantiles over templates. A mean over draws is not too narrow, as
quantiles of shrunken estimates are, and not too wide, as those of each template's few answers are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from flanlab.results.intervals import Floats

_BURN_IN, _DRAWS = 150, 500
_TEMPLATE_SCALE = 0.25
"""Of what templates add: the scale of the half-t priors of its standard deviation for each label; correlations have a flat
prior (Huang and Wand 2013, Bayesian Analysis 8, with two degrees of freedom)."""
_LABEL_SCALE = 2.0
"""Standard deviation of the normal prior of each label's mean."""
_PRIOR_ANSWERS = 5
"""Weight of the spread of all templates' margins in that of each."""
_EDGE = 1e-12


@dataclass(frozen=True)
class Quantile:
    """A quantile of the scores of all wordings.

    `value` is about these wordings on these rows: what asking everything would have given. `low` and `high` bound the 95 %
    interval for these wordings where the rows are a sample.
    """

    share: float
    value: float
    low: float
    high: float


def quantiles_over_wordings(
    scores: Floats, shown: Floats, labels: Sequence[int], shares: Sequence[float], margins: Floats | None = None
) -> list[Quantile]:
    """Quantiles of the templates' scores over all rows, as if each row had been shown through each template.

    Args:
        scores: 0 or 1, [templates, rows]; whatever they are where a row was not shown.
        shown: 1 or 0, [templates, rows]; every template and every row has a cell.
        labels: of each row, from 0: the position of its right option, say. A template may favour some labels. All the same
            where nothing is known.
        shares: which quantiles.
        margins: where options were ranked, by how much the right one's log-probability is above the best other's, [templates,
            rows], whatever it is where a row was not shown. It says more than whether it is above zero.

    Returns:
        One for each of `shares`. The same for the same arguments: the draws are seeded.

    Raises:
        ValueError: a score is neither 0 nor 1, or there are fewer than two templates.

    Examples:
        >>> scores = np.tile([[1.0, 0, 1, 0], [1, 1, 1, 0]], 10)
        >>> found = quantiles_over_wordings(scores, np.ones_like(scores), [0] * 40, (0.05, 0.5, 0.95))
        >>> [round(one.value, 4) for one in found]
        [0.5125, 0.625, 0.7375]
    """
    if len(scores) < 2:
        raise ValueError("There is no distribution over a single template.")
    if not np.isin(scores[shown > 0], (0, 1)).all():
        raise ValueError("Only scores of 0 and 1 can be estimated.")
    draws, resampled = _draws(scores > 0.5, shown > 0, np.asarray(labels), margins)
    inner, outer = np.quantile(draws, shares, axis=1), np.quantile(resampled, shares, axis=1)
    low, high = np.quantile(outer, (0.025, 0.975), axis=1)
    value = inner.mean(axis=1)
    # Where nearly all draws are the same, their quantiles may leave out the mean.
    ends = np.minimum(low, value), np.maximum(high, value)
    return [Quantile(*map(float, one)) for one in zip(shares, value, *ends, strict=True)]


def _draws(
    right: NDArray[np.bool_], shown: NDArray[np.bool_], labels: NDArray[np.int_], margins: Floats | None
) -> tuple[Floats, Floats]:
    """Scores of the templates [draws, templates] on these rows, and on rows resampled (Bayesian bootstrap, Rubin 1981)."""
    from scipy.stats import invwishart  # not at the top: half a second, which light commands do not need

    generator = np.random.default_rng(0)
    templates, rows = right.shape
    kinds = int(labels.max()) + 1
    at, of = np.nonzero(shown)  # template and row of each answer
    said, label = right[at, of], labels[of]
    cell = at * kinds + label
    counts = np.bincount(cell, minlength=templates * kinds)
    scaled = None if margins is None else _scaled(margins[at, of], at, cell, counts, templates)
    row_counts, unit = shown.sum(axis=0), np.eye(kinds)
    by_label = np.zeros(kinds)
    by_template, by_row = np.zeros((templates, kinds)), np.zeros(rows)  # what each adds; that of a template is for each label
    noise, row_variance, covariance = 1.0, 0.5, 0.1 * unit
    found = np.empty((2, _DRAWS, templates))
    for step in range(-_BURN_IN, _DRAWS):
        mean = by_template[at, label] + by_row[of]
        if scaled is None:  # the variable of each answer, given whether it is above zero
            below, place = ndtr(-mean), generator.random(len(mean))
            place = np.where(said, below + place * (1 - below), place * below)
            variable = mean + ndtri(np.clip(place, _EDGE, 1 - _EDGE))
        else:
            variable = scaled
            noise = _variance(generator, variable - mean)
        rest = np.bincount(of, variable - by_template[at, label], rows)
        precision = row_counts / noise + 1 / row_variance
        by_row = rest / noise / precision + generator.standard_normal(rows) / np.sqrt(precision)
        row_variance = _variance(generator, by_row)
        prior = np.linalg.inv(covariance)
        variance = np.asarray(np.linalg.inv(prior + counts.reshape(templates, kinds, 1) / noise * unit), np.float64)
        rest = np.bincount(cell, variable - by_row[of], templates * kinds).reshape(templates, kinds)
        scaled_mean: Floats = rest / noise + prior @ by_label
        by_template = _normal(generator, variance, scaled_mean)
        label_variance: Floats = np.linalg.inv(templates * prior + unit / _LABEL_SCALE**2)
        by_label = _normal(generator, label_variance, prior @ by_template.sum(axis=0))
        apart = by_template - by_label
        hidden = generator.gamma(1 + kinds / 2, 1 / (2 * prior.diagonal() + _TEMPLATE_SCALE**-2))
        drawn = invwishart.rvs(1 + kinds + templates, 4 * np.diag(hidden) + apart.T @ apart, random_state=generator)
        covariance = np.reshape(drawn, (kinds, kinds))
        if step >= 0:
            chance = np.sqrt(noise) * generator.standard_normal((templates, rows))
            whole = np.where(shown, right, by_template[:, labels] + by_row + chance > 0)
            found[:, step] = whole.mean(axis=1), whole @ generator.dirichlet(np.ones(rows))
    # Rows that are all right, or all wrong, are no certainty of others: half a right and half a wrong one are added, which
    # makes the interval of a single template Jeffreys' (Brown, Cai and DasGupta 2001, Statistical Science 16).
    added = generator.beta(1, rows, (_DRAWS, 1))
    return found[0], (1 - added) * found[1] + added * generator.beta(0.5, 0.5, (_DRAWS, 1))


def _scaled(margins: Floats, at: NDArray[np.int_], cell: NDArray[np.int_], counts: NDArray[np.int_], templates: int) -> Floats:
    """Margins of answers in units of their template's spread around the means of its labels."""
    means = np.bincount(cell, margins, len(counts)) / np.maximum(counts, 1)
    squares = (margins - means[cell]) ** 2
    freedom = np.maximum((counts.reshape(templates, -1) - 1).clip(0).sum(axis=1), 0)
    sums = np.bincount(at, squares, templates)
    together = sums.sum() / max(freedom.sum(), 1) + _EDGE
    scaled: Floats = margins / np.sqrt((sums + _PRIOR_ANSWERS * together) / (freedom + _PRIOR_ANSWERS))[at]
    return scaled


def _normal(generator: np.random.Generator, variance: Floats, scaled: Floats) -> Floats:
    """A draw from normal distributions [..., k] of this variance [..., k, k] whose mean is the variance times `scaled`."""
    noise = np.linalg.cholesky(variance) @ generator.standard_normal(scaled.shape)[..., None]
    drawn: Floats = (variance @ scaled[..., None] + noise)[..., 0]
    return drawn


def _variance(generator: np.random.Generator, effects: Floats) -> float:
    """A draw of the variance of effects around zero, by a vague inverse gamma prior."""
    return float((0.1 + (effects**2).sum()) / generator.chisquare(1 + effects.size))
