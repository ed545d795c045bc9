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

from flanlab.results.grids import Floats

_BURN_IN, _DRAWS = 200, 800
_DEVIATIONS = np.geomspace(0.02, 4.0, 60)
"""Standard deviations of effects that are considered."""
_TEMPLATE_SCALE, _ROW_SCALE, _LABEL_SCALE = 0.5, 1.0, 2.0
"""Of the half-normal priors of those deviations, and of the normal prior of each label's mean."""
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


def quantiles_over_wordings(scores: Floats, shown: Floats, labels: Sequence[int], shares: Sequence[float]) -> list[Quantile]:
    """Quantiles of the templates' scores over all rows, as if each row had been shown through each template.

    Args:
        scores: 0 or 1, [templates, rows]; whatever they are where a row was not shown.
        shown: 1 or 0, [templates, rows]; every template and every row has a cell.
        labels: of each row, from 0: the position of its right option, say. A template may favour some labels. All the same
            where nothing is known.
        shares: which quantiles.

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
    draws, resampled = _draws(scores > 0.5, shown > 0, np.asarray(labels))
    inner, outer = np.quantile(draws, shares, axis=1), np.quantile(resampled, shares, axis=1)
    low, high = np.quantile(outer, (0.025, 0.975), axis=1)
    return [Quantile(*map(float, one)) for one in zip(shares, inner.mean(axis=1), low, high, strict=True)]


def _draws(right: NDArray[np.bool_], shown: NDArray[np.bool_], labels: NDArray[np.int_]) -> tuple[Floats, Floats]:
    """Scores of the templates [draws, templates] on these rows, and on rows resampled (Bayesian bootstrap, Rubin 1981)."""
    generator = np.random.default_rng(0)
    templates, rows = right.shape
    kinds = int(labels.max()) + 1
    at, of = np.nonzero(shown)  # template and row of each answer
    said = right[at, of]
    cell = at * kinds + labels[of]
    counts = np.bincount(cell, minlength=templates * kinds).reshape(templates, kinds)
    row_counts = shown.sum(axis=0)
    unit = np.eye(kinds)
    by_label = np.full(kinds, ndtri(np.clip(said.mean(), 0.02, 0.98)))
    by_template, by_row = np.tile(by_label, (templates, 1)), np.zeros(rows)  # [templates, kinds], [rows]
    template_sd, label_sd, row_sd = 0.3, 0.3, 0.7
    found = np.empty((2, _DRAWS, templates))
    for step in range(-_BURN_IN, _DRAWS):
        # The variable of each answer, given whether it is above zero.
        mean = by_template[at, labels[of]] + by_row[of]
        below, place = ndtr(-mean), generator.random(len(mean))
        place = np.where(said, below + place * (1 - below), place * below)
        variable = mean + ndtri(np.clip(place, _EDGE, 1 - _EDGE))
        # What each row adds.
        rest = np.bincount(of, variable - by_template[at, labels[of]], rows)
        precision = row_counts + row_sd**-2
        by_row = rest / precision + generator.standard_normal(rows) / np.sqrt(precision)
        row_sd = _deviation(generator, by_row, _ROW_SCALE)
        # What each template adds for rows of each label: a part common to all labels, and one for each.
        prior = np.linalg.inv(template_sd**2 + label_sd**2 * unit)
        variance = np.linalg.inv(prior + counts[:, :, None] * unit)
        rest = np.bincount(cell, variable - by_row[of], templates * kinds).reshape(templates, kinds)
        by_template = _normal(generator, variance, rest + prior @ by_label)
        by_label = _normal(
            generator, np.linalg.inv(templates * prior + unit / _LABEL_SCALE**2), prior @ by_template.sum(axis=0)
        )
        apart = by_template - by_label
        precision = template_sd**-2 + kinds * label_sd**-2
        common = apart.sum(axis=1) * label_sd**-2 / precision + generator.standard_normal(templates) / np.sqrt(precision)
        template_sd = _deviation(generator, common, _TEMPLATE_SCALE)
        label_sd = _deviation(generator, apart - common[:, None], _TEMPLATE_SCALE)
        if step >= 0:
            drawn = by_template[:, labels] + by_row + generator.standard_normal((templates, rows)) > 0
            whole = np.where(shown, right, drawn)
            found[:, step] = whole.mean(axis=1), whole @ generator.dirichlet(np.ones(rows))
    return found[0], found[1]


def _normal(generator: np.random.Generator, variance: Floats, scaled: Floats) -> Floats:
    """A draw from normal distributions [..., k] of this variance [..., k, k] whose mean is the variance times `scaled`."""
    noise = np.linalg.cholesky(variance) @ generator.standard_normal(scaled.shape)[..., None]
    drawn: Floats = (variance @ scaled[..., None] + noise)[..., 0]
    return drawn


def _deviation(generator: np.random.Generator, effects: Floats, scale: float) -> float:
    """A draw of the standard deviation of effects around zero."""
    weights = -effects.size * np.log(_DEVIATIONS) - (effects**2).sum() / (2 * _DEVIATIONS**2)
    weights += np.log(_DEVIATIONS) - (_DEVIATIONS / scale) ** 2 / 2
    shares = np.exp(weights - weights.max())
    return float(generator.choice(_DEVIATIONS, p=shares / shares.sum()))
