"""Scores and differences with intervals that hold what they say (`docs/statistics.md`, `benchmarks/coverage.py`).

A task's score under one model is the mean over templates of each template's score over its rows. Rows and templates are
both samples: of what could be asked, and of how. Rows that belong together (a task's `group`) are one unit. With a single
template nothing is known of other wordings, and the interval is over rows alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from flanlab.results.grids import Floats, ScoreGrid, common_cells
from flanlab.results.intervals import LEVEL, bounded_interval, critical, paired_binary_interval
from flanlab.results.layout import seed_variance

POWER = 0.8
"""Chance with which a difference must be detected to be called detectable."""
ONE_UNIT = "cannot be estimated: too few rows"
NO_VARIANCE = "no row differs: the interval is that of as many 0/1 scores"
ONE_TEMPLATE = "one template: over rows alone"


@dataclass(frozen=True)
class Estimate:
    """A score with its uncertainty, in the metric's unit.

    `low` and `high` bound the 95 % interval, `standard_error` has `freedom` degrees of freedom; all four are NaN where they
    cannot be estimated, and `note` says why. `method` names the interval; `bounds` are the lowest and the highest possible
    score; `units` counts the rows or groups (the fewest of those that a mean is over).
    """

    mean: float
    low: float
    high: float
    standard_error: float
    freedom: float
    method: str
    bounds: tuple[float, float]
    units: int
    note: str = ""


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests (Schuirmann 1987): whether a difference lies within a margin on either side of zero."""

    margin: float
    p_value: float

    @property
    def is_equivalent(self) -> bool:
        """Whether both sides are excluded at the 5 % level: the 90 % interval lies within the margin."""
        return self.p_value < 1 - LEVEL


@dataclass(frozen=True)
class Difference:
    """One score minus another, paired, with its uncertainty; fields as those of `Estimate`.

    `p_value` is that of no difference, two-sided: below 0.05 exactly where the interval excludes zero. `wins`, `losses` and
    `ties` count the units that the one has better, worse and equal, by their means over templates; None for a correlation,
    which a single unit does not have, and for means over tasks.
    """

    difference: float
    low: float
    high: float
    standard_error: float
    freedom: float
    p_value: float
    method: str
    bounds: tuple[float, float]
    units: int
    wins: int | None = None
    losses: int | None = None
    ties: int | None = None
    note: str = ""

    @property
    def excludes_zero(self) -> bool:
        """Whether the 95 % interval excludes zero; False where there is none."""
        return self.low > 0 or self.high < 0

    @property
    def detectable(self) -> float:
        """The smallest true difference that such data show to differ from zero with 80 % power; NaN without interval."""
        return float((critical(self.freedom) + stats.t.ppf(POWER, self.freedom)) * self.standard_error)

    def equivalence(self, margin: float) -> Equivalence:
        """Test whether the two are the same but for less than `margin`, in the metric's unit; the p-value may be NaN.

        Raises:
            ValueError: the margin is not positive.
        """
        if not margin > 0:
            raise ValueError(f"The margin must be positive, not {margin}.")
        return Equivalence(margin, float(stats.t.sf((margin - abs(self.difference)) / self.standard_error, self.freedom)))


def estimate(grid: ScoreGrid | Sequence[ScoreGrid]) -> Estimate:
    """The score of a model with its interval, over rows and templates.

    Args:
        grid: of the model; or several, of models trained alike with different seeds, which are then a sample too: their mean.
            Several must have been asked the same.
    """
    grids = [grid] if isinstance(grid, ScoreGrid) else list(grid)
    shown = grids[0].shown
    values = np.stack([one.pseudo_values() for one in grids])
    mean = float(np.mean([one.mean() for one in grids]))
    variance, freedom = (float(number) for number in seed_variance(values, shown))
    if len(grids) == 1 and len(shown) == 1 and _is_binary(values):
        freedom = np.inf
    return _bounded(mean, variance, freedom, grids[0].metric.bounds, shown.shape[1], ONE_TEMPLATE if len(shown) == 1 else "")


def difference(first: ScoreGrid | Sequence[ScoreGrid], second: ScoreGrid | Sequence[ScoreGrid]) -> Difference:
    """Second minus first, paired by unit and template, over what both were asked.

    A grid of one template (the baseline's prompt) is paired with every template of the other by unit.

    Args:
        first: of a model; or several, of models trained with different seeds, each paired with the one in the same place.
        second: as many, of the other model.

    Returns:
        The difference; `units` is 0, and everything else NaN, where the two have no cell in common.

    Raises:
        ValueError: not as many of the one as of the other.
    """
    firsts, seconds = ([one] if isinstance(one, ScoreGrid) else list(one) for one in (first, second))
    pairs = [common_cells(one, other) for one, other in zip(firsts, seconds, strict=True)]
    bounds = firsts[0].metric.bounds
    low, high = bounds[0] - bounds[1], bounds[1] - bounds[0]
    kept = [pair for pair in pairs if pair is not None]
    if len(kept) < len(pairs):
        nothing = float("nan")
        note = "cannot be estimated: the two were asked nothing in common"
        return Difference(nothing, nothing, nothing, nothing, nothing, nothing, "none", (low, high), 0, note=note)
    shown = kept[0][0].shown
    one, other = (np.stack([pair[side].pseudo_values() for pair in kept]) for side in (0, 1))
    value = float(np.mean([pair[1].mean() - pair[0].mean() for pair in kept]))
    variance, freedom = (float(number) for number in seed_variance(other - one, shown))
    note = _left_out(firsts, seconds, shown) or (ONE_TEMPLATE if len(shown) == 1 else "")
    wins, losses, ties = _by_unit(kept[0]) if len(kept) == 1 else (None, None, None)
    if len(kept) == 1 and len(shown) == 1 and _is_binary(one) and _is_binary(other):
        assert wins is not None
        assert losses is not None
        return _paired_binary(wins, losses, shown.shape[1], note)
    found = _unbounded(value, variance, freedom, (low, high), shown.shape[1], note)
    return Difference(**{**vars(found), "wins": wins, "losses": losses, "ties": ties})


def mean_of(estimates: Sequence[Estimate], weights: Sequence[float] | None = None) -> Estimate:
    """Weighted mean of independent estimates, such as those of different tasks; equal weights by default.

    The tasks are taken as they are, not as a sample of tasks.
    """
    mean, variance, freedom = _combined(
        weights, [one.mean for one in estimates], [one.standard_error for one in estimates], [one.freedom for one in estimates]
    )
    low, high = (_weighted(weights, [one.bounds[end] for one in estimates]) for end in (0, 1))
    note = next((one.note for one in estimates if np.isnan(one.standard_error)), "")
    return _bounded(mean, variance, freedom, (low, high), min(one.units for one in estimates), note)


def mean_difference(differences: Sequence[Difference], weights: Sequence[float] | None = None) -> Difference:
    """Weighted mean of independent differences, as `mean_of`."""
    mean, variance, freedom = _combined(
        weights,
        [one.difference for one in differences],
        [one.standard_error for one in differences],
        [one.freedom for one in differences],
    )
    low, high = (_weighted(weights, [one.bounds[end] for one in differences]) for end in (0, 1))
    note = next((one.note for one in differences if np.isnan(one.standard_error)), "")
    return _unbounded(mean, variance, freedom, (low, high), min(one.units for one in differences), note)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values of a family of tests, corrected by Holm (1979): rejecting those below a level keeps the chance of any false
    rejection below it, however the tests depend on each other. NaN, of a test that could not be made, stays NaN and counts.
    """
    corrected: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: (np.isnan(p_values[name]), p_values[name]))):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = float("nan") if np.isnan(p_values[name]) else highest
    return {name: corrected[name] for name in p_values}


def _is_binary(values: Floats) -> bool:
    return bool(np.all(np.abs(values - np.round(values)) < 1e-9) and values.min() > -0.5 and values.max() < 1.5)


def _bounded(mean: float, variance: float, freedom: float, bounds: tuple[float, float], units: int, note: str) -> Estimate:
    """An estimate by Wilson's interval between the bounds."""
    if np.isnan(variance) or units < 2:
        nothing = float("nan")
        return Estimate(mean, nothing, nothing, nothing, nothing, "none", bounds, units, note if "cannot" in note else ONE_UNIT)
    width = bounds[1] - bounds[0]
    share = min(max((mean - bounds[0]) / width, 0.0), 1.0)
    scaled = variance / width**2
    if scaled < 1e-20:
        # Nothing varies. A proportion of so many rows could be as this one is, and differ from the truth by this much.
        z2 = float(critical(np.inf)) ** 2
        low, high = (
            share + z2 / (2 * units) + side * np.sqrt(z2 * share * (1 - share) / units + (z2 / (2 * units)) ** 2)
            for side in (-1, 1)
        )
        low, high = low / (1 + z2 / units), high / (1 + z2 / units)
        scaled, freedom, note = ((high - low) / (2 * np.sqrt(z2))) ** 2, units - 1.0, NO_VARIANCE
    else:
        low, high = (float(end) for end in bounded_interval(share, scaled, freedom))
    ends = float(bounds[0] + width * min(low, share)), float(bounds[0] + width * max(high, share))
    return Estimate(mean, *ends, float(width * np.sqrt(scaled)), freedom, "wilson", bounds, units, note)


def _unbounded(value: float, variance: float, freedom: float, bounds: tuple[float, float], units: int, note: str) -> Difference:
    """A difference by Student's t."""
    if np.isnan(variance) or units < 2:
        nothing = float("nan")
        why = note if "cannot" in note else ONE_UNIT
        return Difference(value, nothing, nothing, nothing, nothing, nothing, "none", bounds, units, note=why)
    error = float(np.sqrt(variance))
    if error < 1e-10:
        # Nothing varies: as wide as Tango's interval where no row of a 0/1 score differs.
        z = float(critical(np.inf))
        error, freedom, note = bounds[1] * z / (units + z**2), np.inf, NO_VARIANCE
    half = float(critical(freedom)) * error
    p_value = float(2 * stats.t.sf(abs(value) / error, freedom))
    ends = float(max(value - half, bounds[0])), float(min(value + half, bounds[1]))
    return Difference(value, *ends, float(error), freedom, p_value, "t", bounds, units, note=note)


def _paired_binary(wins: int, losses: int, units: int, note: str) -> Difference:
    """A difference of 0/1 scores through one template, by Tango's interval and McNemar's test."""
    value = (wins - losses) / units
    if units < 2:
        return _unbounded(value, float("nan"), float("nan"), (-1.0, 1.0), units, note)
    low, high = (float(end) for end in paired_binary_interval(wins, losses, units))
    differing = wins + losses
    p_value = float(2 * stats.norm.sf(abs(wins - losses) / np.sqrt(differing))) if differing else 1.0
    error = (high - low) / (2 * float(critical(np.inf)))
    ties = units - differing
    return Difference(value, low, high, error, np.inf, p_value, "tango", (-1.0, 1.0), units, wins, losses, ties, note)


def _by_unit(pair: tuple[ScoreGrid, ScoreGrid]) -> tuple[int, int, int] | tuple[None, None, None]:
    """Units that the second has better, worse and equal."""
    one, other = (grid.unit_scores() for grid in pair)
    if one is None or other is None:
        return None, None, None
    ahead = ((other - one) * pair[0].shown).sum(axis=0)
    wins, losses = int((ahead > 1e-12).sum()), int((ahead < -1e-12).sum())
    return wins, losses, len(ahead) - wins - losses


def _left_out(firsts: Sequence[ScoreGrid], seconds: Sequence[ScoreGrid], shown: Floats) -> str:
    """That one side has units which the other lacks."""
    most = max(len(grid.units) for grid in (*firsts, *seconds))
    return f"over the {shown.shape[1]} rows or groups that both have, of {most}" if shown.shape[1] < most else ""


def _combined(
    weights: Sequence[float] | None, means: Sequence[float], errors: Sequence[float], freedoms: Sequence[float]
) -> tuple[float, float, float]:
    """Mean, variance and degrees of freedom of a weighted mean of independent numbers."""
    parts = (_shares(weights, len(means)) * np.asarray(errors)) ** 2
    variance = float(parts.sum())
    freedom = variance**2 / float((parts**2 / np.asarray(freedoms)).sum() or np.finfo(float).tiny)
    return _weighted(weights, means), variance, freedom


def _weighted(weights: Sequence[float] | None, numbers: Sequence[float]) -> float:
    return float(_shares(weights, len(numbers)) @ np.asarray(numbers))


def _shares(weights: Sequence[float] | None, count: int) -> Floats:
    given = np.ones(count) if weights is None else np.asarray(weights, float)
    shares: Floats = given / given.sum()
    return shares
