"""Scores and differences with intervals that hold what they say (`docs/statistics.md`, `benchmarks/coverage.py`).

A task's score under one model is the mean over templates of each template's score over its rows. Rows and templates are
both samples: of what could be asked, and of how. Rows that belong together (a task's `group`) are one unit. With a single
template nothing is known of other wordings, and the interval is over rows alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import special

from flanlab.results.grids import ScoreGrid, common_cells
from flanlab.results.intervals import (
    Floats,
    Interval,
    bounded_interval,
    detectable,
    difference_interval,
    difference_p_value,
    paired_binary_interval,
    paired_binary_p_value,
)
from flanlab.results.layout import UNKNOWN, Variance, mean_variance, seed_variance, template_unit_variance, total, unit_variance

ONE_UNIT = "cannot be estimated: too few rows"
NO_VARIANCE = "no row differs: the interval is that of as many 0/1 scores"
ONE_TEMPLATE = "one template: over rows alone"
FEW_TEMPLATES = "two or three templates: very wide, often wider than need be"
FEW_ROWS = "so few rows for each template that the interval is wider than need be"
FEW_SEEDS = "two to four seeds: wider than need be"
NEAR_BOUND = "so few rows differ from the rest that the interval is wider than need be"
_NAN = float("nan")
FEWEST_TEMPLATES = 4
"""A spread over fewer has no useful standard error."""


@dataclass(frozen=True, kw_only=True)
class Uncertain:
    """A number with its uncertainty, in the metric's unit.

    `low` and `high` bound the 95 % interval, `standard_error` has `freedom` degrees of freedom; all four are NaN where they
    cannot be estimated, and `note` says why. `bounds` are the lowest and the highest there can be; `units` counts the rows or
    groups. `variance` has the parts that means are made of.
    """

    low: float = _NAN
    high: float = _NAN
    standard_error: float = _NAN
    freedom: float = _NAN
    bounds: tuple[float, float]
    units: int
    variance: Variance
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Estimate(Uncertain):
    """A score."""

    mean: float
    seeds: int = 1
    """Models trained with different seeds that it is a mean over."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """With several seeds: what rows, templates and seeds each add to the variance (`variance_parts`)."""


@dataclass(frozen=True, kw_only=True)
class Difference(Uncertain):
    """One score minus another, paired.

    `p_value` is that of no difference, two-sided: below 0.05 exactly where the interval excludes zero. `wins`, `losses` and
    `ties` count the units that the one has better, worse and equal, by their means over templates; None for a correlation,
    which a single unit does not have, and for means over tasks.
    """

    difference: float
    p_value: float = _NAN
    wins: int | None = None
    losses: int | None = None
    ties: int | None = None

    @property
    def detectable(self) -> float:
        """The smallest true difference that such data show to differ from zero with 80 % power.

        NaN without interval; infinite where it would be larger than any difference there can be.
        """
        size = float(detectable(self.standard_error, self.freedom))
        return np.inf if size > self.bounds[1] else size

    def equivalence(self, margin: float) -> float:
        """p-value of two one-sided tests (Schuirmann 1987): below 0.05, the two are the same but for less than `margin`.

        Args:
            margin: in the metric's unit. The 90 % interval lies within it where the p-value is below 0.05.

        Raises:
            ValueError: the margin is not positive.
        """
        if not margin > 0:
            raise ValueError(f"The margin must be positive, not {margin}.")
        return float(special.stdtr(self.freedom, (abs(self.difference) - margin) / self.standard_error))


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
    bounds = firsts[0].metric.bounds
    low, high = bounds[0] - bounds[1], bounds[1] - bounds[0]
    cells = _common([firsts, seconds])
    if cells is None:
        return _not_estimated((low, high), "the two were asked nothing in common")
    shown = cells[0][0].shown
    one, other = (np.stack([grid.pseudo_values() for grid in grids]) for grids in cells)
    value = float(np.mean([after.mean() - before.mean() for before, after in zip(*cells, strict=True)]))
    variance = seed_variance(other - one, shown)
    nearest = min(_distance_to_bound(grid.mean(), grid) for grids in cells for grid in grids)
    note = caution(shown, len(one), nearest, correlation=bounds[0] < 0)
    wins, losses, ties = _by_unit(cells[0][0], cells[1][0]) if len(one) == 1 else (None, None, None)
    if shown.size > 1 and _is_binary_through_one(one) and _is_binary_through_one(other):
        # Pseudo-values are 0 and 1 but for rounding, which must not break ties.
        gain = np.rint(other - one)
        found = _paired_binary(int((gain > 0).sum()), int((gain < 0).sum()), variance, shown.shape[1], note)
    else:
        found = difference_of(value, variance, (low, high), shown.shape[1], note)
    note = "; ".join(filter(None, (_left_out(firsts, seconds, shown), found.note)))
    return replace(found, wins=wins, losses=losses, ties=ties, note=note)


def mean_over_clusters(found: Mapping[str, Difference], clusters: Mapping[str, str]) -> dict[str, Difference]:
    """The mean over the tasks of each cluster, by cluster; the subtasks of a task count as one.

    Args:
        found: of each task.
        clusters: of each task its cluster.
    """
    means = {}
    for cluster in sorted({clusters[task] for task in found}):
        tasks = [task for task in found if clusters[task] == cluster]
        means[cluster] = mean_difference([found[task] for task in tasks], task_weights(tasks))
    return means


def task_weights(names: Sequence[str]) -> list[float]:
    """Weights of tasks in a mean in which the subtasks of a task (`anli.r1`) count as one."""
    wholes = [name.partition(".")[0] for name in names]
    return [1 / wholes.count(whole) for whole in wholes]


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
    if list(weights) == [-1, 1]:
        return difference(cells[0], cells[1])
    ends = [cells[0][0].metric.bounds[one] for one in (0, 1)]
    low = sum(weight * ends[0 if weight > 0 else 1] for weight in weights)
    high = sum(weight * ends[1 if weight > 0 else 0] for weight in weights)
    common = _common(cells)
    if common is None:
        return _not_estimated((low, high), "the models were asked nothing in common")
    values = np.stack([[grid.pseudo_values() for grid in grids] for grids in common])
    value = float(np.dot(weights, [np.mean([grid.mean() for grid in grids]) for grids in common]))
    shown = common[0][0].shown
    note = ONE_TEMPLATE if len(shown) == 1 else ""
    variance = seed_variance(np.tensordot(weights, values, axes=1), shown)
    return difference_of(value, variance, (low, high), shown.shape[1], note)


def _common(cells: Sequence[Sequence[ScoreGrid]]) -> list[list[ScoreGrid]] | None:
    """Of each model its grids, one for each seed, with the cells that all were shown; None if there are none.

    Raises:
        ValueError: two models with different numbers of seeds above one.
    """
    seeds = max(map(len, cells))
    if {len(grids) for grids in cells} - {1, seeds}:
        raise ValueError(f"Models with {sorted({len(grids) for grids in cells})} seeds cannot be paired.")
    found = common_cells(*(grid for grids in cells for grid in (grids if len(grids) == seeds else [*grids] * seeds)))
    return None if found is None else [found[start : start + seeds] for start in range(0, len(found), seeds)]


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
    width = first[0].metric.bounds[1] - first[0].metric.bounds[0]
    bounds = (-width / 2, width / 2)
    cells = _common([first, second])
    if cells is None or not cells[0][0].shown.all() or len(cells[0][0].templates) < FEWEST_TEMPLATES:
        return _not_estimated(bounds, f"fewer than {FEWEST_TEMPLATES} templates were asked the same rows")
    scores = np.stack([np.mean([grid.by_template() for grid in grids], axis=0) for grids in cells])
    count = scores.shape[1]
    value = float(np.subtract(*scores.std(axis=1)[::-1]))
    without = np.array([np.subtract(*np.delete(scores, one, axis=1).std(axis=1)[::-1]) for one in range(count)])
    between = np.array((count - 1) / count * ((without - without.mean()) ** 2).sum())
    none = np.zeros_like(between)
    variance = Variance(between, none + count - 1, none, none, none)
    return difference_of(value, variance, bounds, cells[0][0].shown.shape[1], "")


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
        note = note if "cannot" in note else ONE_UNIT
        return Estimate(mean=mean, bounds=bounds, units=units, variance=variance, note=note)
    width = bounds[1] - bounds[0]
    share = min(max((mean - bounds[0]) / width, 0.0), 1.0)
    found = bounded_interval(share, whole / width**2, freedom, units)
    return Estimate(mean=mean, bounds=bounds, units=units, variance=variance, **_ends(found, note, width, bounds[0]))


def _not_estimated(bounds: tuple[float, float], why: str) -> Difference:
    return difference_of(_NAN, UNKNOWN, bounds, 0, f"cannot be estimated: {why}")


def difference_of(value: float, variance: Variance, bounds: tuple[float, float], units: int, note: str) -> Difference:
    """A difference with its interval by Student's t; `bounds` are the lowest and the highest there can be."""
    whole, freedom = (float(number) for number in total(variance))
    if np.isnan(whole):
        note = note if "cannot" in note else ONE_UNIT
        return Difference(difference=value, bounds=bounds, units=units, variance=variance, note=note)
    width = bounds[1]
    found = difference_interval(value / width, whole / width**2, freedom, units)
    ends = _ends(found, note, width)
    p_value = float(difference_p_value(value, ends["standard_error"], found.freedom))
    return Difference(difference=value, p_value=p_value, bounds=bounds, units=units, variance=variance, **ends)


def _paired_binary(wins: int, losses: int, variance: Variance, units: int, note: str) -> Difference:
    """A difference of 0/1 scores through one template, by Tango's interval and McNemar's test."""
    return Difference(
        difference=(wins - losses) / units,
        p_value=float(paired_binary_p_value(wins, losses)),
        bounds=(-1.0, 1.0),
        units=units,
        variance=variance,
        **_ends(paired_binary_interval(wins, losses, units), note),
    )


def _ends(found: Interval, note: str, width: float = 1.0, lowest: float = 0.0) -> dict[str, Any]:
    """The fields that say what an interval of a number from 0 to 1 is, where this number goes from `lowest` by `width`."""
    return {
        "low": float(lowest + width * found.low),
        "high": float(lowest + width * found.high),
        "standard_error": float(width * found.error),
        "freedom": float(found.freedom),
        "note": note if found.varies else NO_VARIANCE,
    }


def _by_unit(first: ScoreGrid, second: ScoreGrid) -> tuple[int, int, int] | tuple[None, None, None]:
    """Units that the second has better, worse and equal."""
    one, other = first.unit_scores(), second.unit_scores()
    if one is None or other is None:
        return None, None, None
    ahead = ((other - one) * first.shown).sum(axis=0)
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
        (templates > 1 and shown.sum(axis=1).min() < (10 if correlation else 4), FEW_ROWS),
        (units * to_bound <= 6, NEAR_BOUND),
    )
    return "; ".join(note for holds, note in cautions if holds)


def mean_note(notes: Sequence[str]) -> str:
    """Of a mean over tasks: why it cannot be estimated; or what holds for every task and matters to means too."""
    cannot = next((note for note in notes if "cannot be estimated" in note), "")
    return cannot or "; ".join(one for one in (FEW_ROWS, NEAR_BOUND) if all(one in note for note in notes))


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
