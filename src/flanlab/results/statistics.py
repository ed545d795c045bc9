"""Scores and differences with intervals that hold what they say (`docs/statistics.md`, `benchmarks/coverage.py`).

A task's score under one model is the mean over templates of each template's score over its rows. Rows and templates are
both samples: of what could be asked, and of how. Rows that belong together (a task's `group`) are one unit. With a single
template nothing is known of other wordings, and the interval is over rows alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import special

from flanlab.results.grids import Floats, ScoreGrid, common_cells
from flanlab.results.intervals import (
    LEVEL,
    bounded_interval,
    detectable,
    difference_interval,
    difference_p_value,
    paired_binary_interval,
    paired_binary_p_value,
)
from flanlab.results.layout import Variance, mean_variance, seed_variance, template_unit_variance, total, unit_variance

ONE_UNIT = "cannot be estimated: too few rows"
NO_VARIANCE = "no row differs: the interval is that of as many 0/1 scores"
ONE_TEMPLATE = "one template: over rows alone"
FEW_TEMPLATES = "two or three templates: very wide, often wider than need be"
FEW_ROWS = "a correlation of fewer than ten rows for each template: wider than need be"
FEW_SEEDS = "two to four seeds: wider than need be"
NEAR_BOUND = "so few rows differ from the rest that the interval is wider than need be"
_FEWEST_TEMPLATES = 4
"""A spread over fewer has no useful standard error."""


@dataclass(frozen=True)
class Estimate:
    """A score with its uncertainty, in the metric's unit.

    `low` and `high` bound the 95 % interval, `standard_error` has `freedom` degrees of freedom; all four are NaN where they
    cannot be estimated, and `note` says why. `method` names the interval; `bounds` are the lowest and the highest possible
    score; `units` counts the rows or groups. `variance` has the parts that means are made of.
    """

    mean: float
    low: float
    high: float
    standard_error: float
    freedom: float
    method: str
    bounds: tuple[float, float]
    units: int
    variance: Variance
    note: str = ""
    seeds: int = 1
    """Models trained with different seeds that it is a mean over."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """With several seeds: what rows, templates and seeds each add to the variance (`variance_parts`)."""


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
    variance: Variance
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
        return float(detectable(self.standard_error, self.freedom))

    def equivalence(self, margin: float) -> Equivalence:
        """Test whether the two are the same but for less than `margin`, in the metric's unit; the p-value may be NaN.

        Raises:
            ValueError: the margin is not positive.
        """
        if not margin > 0:
            raise ValueError(f"The margin must be positive, not {margin}.")
        return Equivalence(margin, float(special.stdtr(self.freedom, (abs(self.difference) - margin) / self.standard_error)))


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
    variance = seed_variance(values, shown)
    bounds = grids[0].metric.bounds
    note = caution(shown, len(grids), _distance_to_bound(mean, grids[0]), correlation=bounds[0] < 0)
    found = _bounded(mean, variance, bounds, shown.shape[1], note)
    parts = variance_parts(grids) if len(grids) > 1 else {}
    return replace(found, seeds=len(grids), parts=parts if np.isfinite(list(parts.values())).all() else {})


def difference(first: ScoreGrid | Sequence[ScoreGrid], second: ScoreGrid | Sequence[ScoreGrid]) -> Difference:
    """Second minus first, paired by unit and template, over what both were asked.

    A grid of one template (the baseline's prompt) is paired with every template of the other by unit.

    Args:
        first: of a model; or several, of models trained with different seeds, each paired with the one in the same place. A
            single one is paired with each of the other side.
        second: the same, of the other model.

    Returns:
        The difference; `units` is 0, and everything else NaN, where the two have no cell in common.

    Raises:
        ValueError: different numbers of seeds above one.
    """
    firsts, seconds = ([one] if isinstance(one, ScoreGrid) else list(one) for one in (first, second))
    firsts, seconds = (
        grids * (len(other) if len(grids) == 1 else 1) for grids, other in ((firsts, seconds), (seconds, firsts))
    )
    pairs = [common_cells(one, other) for one, other in zip(firsts, seconds, strict=True)]
    bounds = firsts[0].metric.bounds
    low, high = bounds[0] - bounds[1], bounds[1] - bounds[0]
    kept = [pair for pair in pairs if pair is not None]
    if len(kept) < len(pairs):
        return _not_estimated((low, high), "the two were asked nothing in common")
    shown = kept[0][0].shown
    one, other = (np.stack([pair[side].pseudo_values() for pair in kept]) for side in (0, 1))
    value = float(np.mean([pair[1].mean() - pair[0].mean() for pair in kept]))
    variance = seed_variance(other - one, shown)
    nearest = min(_distance_to_bound(grid.mean(), grid) for pair in kept for grid in pair)
    note = _left_out(firsts, seconds, shown) or caution(shown, len(kept), nearest, correlation=bounds[0] < 0)
    wins, losses, ties = _by_unit(kept[0]) if len(kept) == 1 else (None, None, None)
    if shown.size > 1 and _is_binary_through_one(one) and _is_binary_through_one(other):
        # Pseudo-values are 0 and 1 but for rounding, which must not break ties.
        gain = np.rint(other - one)
        found = _paired_binary(int((gain > 0).sum()), int((gain < 0).sum()), variance, shown.shape[1], note)
    else:
        found = difference_of(value, variance, (low, high), shown.shape[1], note)
    return replace(found, wins=wins, losses=losses, ties=ties)


def mean_over_clusters(found: Mapping[str, Difference], clusters: Mapping[str, str]) -> dict[str, Difference]:
    """The mean over the tasks of each cluster, by cluster; the subtasks of a task count as one.

    Args:
        found: of each task.
        clusters: of each task its cluster.
    """
    means = {}
    for cluster in sorted({clusters[task] for task in found}):
        tasks = [task for task in found if clusters[task] == cluster]
        wholes = [task.partition(".")[0] for task in tasks]
        means[cluster] = mean_difference([found[task] for task in tasks], [1 / wholes.count(whole) for whole in wholes])
    return means


def contrast(cells: Sequence[Sequence[ScoreGrid]], weights: Sequence[float]) -> Difference:
    """A weighted sum of several models' scores on one task, paired by unit and template over what all were asked.

    Args:
        cells: of each model its grids, one for each training seed. A model with a single one (not trained, say) stands beside
            each seed of the others.
        weights: of each model; they add up to zero for a difference, or a difference of differences.

    Returns:
        As `difference`, without `wins`, `losses` and `ties` where it is more than one score minus another.

    Raises:
        ValueError: two models with different numbers of seeds above one.
    """
    seeds = max(map(len, cells))
    if {len(grids) for grids in cells} - {1, seeds}:
        raise ValueError(f"Models with {sorted({len(grids) for grids in cells})} seeds cannot be paired.")
    spread = [grids if len(grids) == seeds else list(grids) * seeds for grids in cells]
    if list(weights) == [-1, 1]:
        return difference(spread[0], spread[1])
    ends = [cells[0][0].metric.bounds[one] for one in (0, 1)]
    low = sum(weight * ends[0 if weight > 0 else 1] for weight in weights)
    high = sum(weight * ends[1 if weight > 0 else 0] for weight in weights)
    common: ScoreGrid | None = spread[0][0]
    for grid in (grid for grids in spread for grid in grids):
        both = None if common is None else common_cells(common, grid)
        common = None if both is None else both[0]
    if common is None:
        return _not_estimated((low, high), "the models were asked nothing in common")
    combined, value = np.zeros((seeds, *common.shown.shape)), 0.0
    for weight, grids in zip(weights, spread, strict=True):
        for seed, grid in enumerate(grids):
            both = common_cells(common, grid)
            assert both is not None
            combined[seed] += weight * both[1].pseudo_values()
            value += weight * both[1].mean() / seeds
    note = ONE_TEMPLATE if len(common.shown) == 1 else ""
    return difference_of(value, seed_variance(combined, common.shown), (low, high), common.shown.shape[1], note)


def variance_parts(grids: Sequence[ScoreGrid]) -> dict[str, float]:
    """What rows, templates and seeds each add to the variance of a mean score over seeds, in the metric's unit squared.

    `rows`: with these very templates and models; `templates`: what a sample of templates adds to that; `seeds`: what a sample
    of trainings adds to both. Each is zero where it adds nothing.

    Args:
        grids: of models trained alike with different seeds, asked the same.
    """
    values, shown = np.stack([one.pseudo_values() for one in grids]), grids[0].shown
    rows = float(unit_variance(values.mean(axis=0), shown)[0])
    asked = float(total(template_unit_variance(values.mean(axis=0), shown))[0])
    trained = float(total(seed_variance(values, shown))[0])
    return {"rows": rows, "templates": max(0.0, asked - rows), "seeds": max(0.0, trained - max(asked, rows))}


def spread_difference(first: Sequence[ScoreGrid], second: Sequence[ScoreGrid]) -> Difference:
    """How much more one model's scores on a task vary over templates than another's: second minus first.

    The spread is the standard deviation over templates (that of the score table), of the mean over seeds. Its standard error
    is the jackknife's over templates, which both share (Efron and Tibshirani 1993, chapter 11).

    Returns:
        The difference; without interval where fewer than four templates were asked the same rows of both.
    """
    both = [common_cells(one, other) for one, other in zip(first, second, strict=True)]
    width = first[0].metric.bounds[1] - first[0].metric.bounds[0]
    bounds = (-width / 2, width / 2)
    kept = [pair for pair in both if pair is not None and pair[0].shown.all()]
    if len(kept) < len(both) or len(kept[0][0].templates) < _FEWEST_TEMPLATES:
        return _not_estimated(bounds, f"fewer than {_FEWEST_TEMPLATES} templates were asked the same rows")
    scores = np.stack([np.mean([pair[side].by_template() for pair in kept], axis=0) for side in (0, 1)])
    count = scores.shape[1]
    value = float(np.subtract(*scores.std(axis=1)[::-1]))
    without = np.array([np.subtract(*np.delete(scores, one, axis=1).std(axis=1)[::-1]) for one in range(count)])
    between = np.array((count - 1) / count * ((without - without.mean()) ** 2).sum())
    none = np.zeros_like(between)
    variance = Variance(between, none + count - 1, none, none, none)
    return difference_of(value, variance, bounds, kept[0][0].shown.shape[1], "")


def mean_of(estimates: Sequence[Estimate], weights: Sequence[float] | None = None) -> Estimate:
    """Weighted mean of independent estimates, such as those of different tasks; equal weights by default.

    The tasks are taken as they are, not as a sample of tasks.
    """
    found = _bounded(_weighted(weights, [one.mean for one in estimates]), *_together(weights, estimates))
    if not all(one.parts for one in estimates):
        return found
    squares = _shares(weights, len(estimates)) ** 2
    parts = {of: float(squares @ [one.parts[of] for one in estimates]) for of in estimates[0].parts}
    return replace(found, seeds=min(one.seeds for one in estimates), parts=parts)


def mean_difference(differences: Sequence[Difference], weights: Sequence[float] | None = None) -> Difference:
    """Weighted mean of independent differences, as `mean_of`."""
    return difference_of(_weighted(weights, [one.difference for one in differences]), *_together(weights, differences))


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


def _is_binary_through_one(values: Floats) -> bool:
    """Whether cells [seeds, templates, units] are of one seed and template, and each is 0 or 1."""
    return values.shape[:2] == (1, 1) and bool((np.minimum(np.abs(values), np.abs(values - 1)) < 1e-9).all())


def _bounded(mean: float, variance: Variance, bounds: tuple[float, float], units: int, note: str) -> Estimate:
    """An estimate by Wilson's interval between the bounds."""
    whole, freedom = (float(number) for number in total(variance))
    if np.isnan(whole):
        nothing, note = float("nan"), note if "cannot" in note else ONE_UNIT
        return Estimate(mean, nothing, nothing, nothing, nothing, "none", bounds, units, variance, note)
    width = bounds[1] - bounds[0]
    share = min(max((mean - bounds[0]) / width, 0.0), 1.0)
    found = bounded_interval(share, whole / width**2, freedom, units)
    low, high = (float(bounds[0] + width * end) for end in (found.low, found.high))
    note = note if found.varies else NO_VARIANCE
    return Estimate(mean, low, high, float(width * found.error), float(found.freedom), "wilson", bounds, units, variance, note)


def _not_estimated(bounds: tuple[float, float], why: str) -> Difference:
    unknown = Variance(*[np.array(np.nan)] * 5)
    return difference_of(float("nan"), unknown, bounds, 0, f"cannot be estimated: {why}")


def difference_of(value: float, variance: Variance, bounds: tuple[float, float], units: int, note: str) -> Difference:
    """A difference with its interval by Student's t; `bounds` are the lowest and the highest there can be."""
    whole, freedom = (float(number) for number in total(variance))
    if np.isnan(whole):
        nothing, note = float("nan"), note if "cannot" in note else ONE_UNIT
        return Difference(value, nothing, nothing, nothing, nothing, nothing, "none", bounds, units, variance, note=note)
    width = bounds[1]
    found = difference_interval(value / width, whole / width**2, freedom, units)
    low, high, error = (float(width * number) for number in (found.low, found.high, found.error))
    p_value = float(difference_p_value(value, error, found.freedom))
    note = note if found.varies else NO_VARIANCE
    return Difference(value, low, high, error, float(found.freedom), p_value, "t", bounds, units, variance, note=note)


def _paired_binary(wins: int, losses: int, variance: Variance, units: int, note: str) -> Difference:
    """A difference of 0/1 scores through one template, by Tango's interval and McNemar's test."""
    found = paired_binary_interval(wins, losses, units)
    low, high, error = (float(number) for number in (found.low, found.high, found.error))
    note = note if found.varies else NO_VARIANCE
    p_value = float(paired_binary_p_value(wins, losses))
    value = (wins - losses) / units
    return Difference(value, low, high, error, float("inf"), p_value, "tango", (-1.0, 1.0), units, variance, note=note)


def _by_unit(pair: tuple[ScoreGrid, ScoreGrid]) -> tuple[int, int, int] | tuple[None, None, None]:
    """Units that the second has better, worse and equal."""
    one, other = (grid.unit_scores() for grid in pair)
    if one is None or other is None:
        return None, None, None
    ahead = ((other - one) * pair[0].shown).sum(axis=0)
    wins, losses = int((ahead > 1e-12).sum()), int((ahead < -1e-12).sum())
    return wins, losses, len(ahead) - wins - losses


def _distance_to_bound(mean: float, grid: ScoreGrid) -> float:
    """How far a score is from its nearer bound, as a share of the distance between the two."""
    low, high = grid.metric.bounds
    return min(mean - low, high - mean) / (high - low)


def caution(shown: Floats, seeds: int, to_bound: float, *, correlation: bool) -> str:
    """What a reader must know: that other wordings are left out, or that simulation finds such intervals other than 95 %."""
    templates, units = shown.shape
    cautions = (
        (templates == 1, ONE_TEMPLATE),
        (1 < seeds < 5, FEW_SEEDS),
        (1 < templates < 4, FEW_TEMPLATES),
        (correlation and templates > 1 and shown.sum(axis=1).min() < 10, FEW_ROWS),
        (units * to_bound <= 5, NEAR_BOUND),
    )
    return "; ".join(note for holds, note in cautions if holds)


def mean_note(notes: Sequence[str]) -> str:
    """Of a mean over tasks: why it cannot be estimated; or what holds for every task and matters to means too."""
    cannot = next((note for note in notes if "cannot be estimated" in note), "")
    return cannot or (FEW_ROWS if all(FEW_ROWS in note for note in notes) else "")


def _left_out(firsts: Sequence[ScoreGrid], seconds: Sequence[ScoreGrid], shown: Floats) -> str:
    """That one side has units which the other lacks."""
    most = max(len(grid.units) for grid in (*firsts, *seconds))
    return f"over the {shown.shape[1]} rows or groups that both have, of {most}" if shown.shape[1] < most else ""


def _together(
    weights: Sequence[float] | None, parts: Sequence[Estimate] | Sequence[Difference]
) -> tuple[Variance, tuple[float, float], int, str]:
    """Of a weighted mean: its variance, bounds, units, and note."""
    variances = Variance(*(np.array(part) for part in zip(*(one.variance for one in parts), strict=True)))
    low, high = (_weighted(weights, [one.bounds[end] for one in parts]) for end in (0, 1))
    note = mean_note([one.note for one in parts])
    return mean_variance(variances, _shares(weights, len(parts))), (low, high), sum(one.units for one in parts), note


def _weighted(weights: Sequence[float] | None, numbers: Sequence[float]) -> float:
    return float(_shares(weights, len(numbers)) @ np.asarray(numbers))


def _shares(weights: Sequence[float] | None, count: int) -> Floats:
    given = np.ones(count) if weights is None else np.asarray(weights, float)
    shares: Floats = given / given.sum()
    return shares
