"""Metrics, and scores of one task as a grid of templates and units, with each cell's contribution to the score.

For most metrics the statistics of rows add up: the score of one prediction, or counts, and a function of their sum. Kept this
way, any resampling of rows is a weighted sum, so intervals need no prediction to be looked at again. Rows that belong together
(a task's `group`) are one unit: they are resampled as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flanlab.results.intervals import Floats

Prediction = Mapping[str, Any]
"""A row of `PREDICTION_SCHEMA`."""
_CHUNK_CELLS = 4_000_000
"""Weights held at once while units are left out one by one: 32 MB."""


@dataclass(frozen=True)
class Metric:
    """A metric with its name in results.json, a title, and its definition in one line."""

    name: str
    title: str
    definition: str
    statistics: Callable[[Sequence[Prediction]], Sequence[float]]
    """Of one unit seen through one template (a row, or all rows of a group): k numbers, all 0 for a unit not seen."""
    combine: Callable[[Floats], Floats] | None = None
    """From sums of statistics [..., k] to scores [...]; None where the score is no function of sums."""
    bounds: tuple[float, float] = (0.0, 1.0)
    """The lowest and the highest score there can be."""
    weighted: Callable[[Floats, Floats], Floats] | None = None
    """Where the score is no function of sums: as `score`."""

    def score(self, weights: Floats, statistics: Floats) -> Floats:
        """From weights [draws, units] and the units' statistics [units, k] to scores [draws]."""
        if self.combine is not None:
            return self.combine(weights @ statistics)
        assert self.weighted is not None
        return self.weighted(weights, statistics)


def summed_metric(
    name: str,
    title: str,
    definition: str,
    statistics: Callable[[Prediction], Sequence[float]],
    combine: Callable[[Floats], Floats],
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Metric:
    """A metric whose rows' statistics add up; `combine` takes sums [..., k] to scores [...]."""
    return Metric(name, title, definition, lambda unit: np.sum([statistics(row) for row in unit], axis=0), combine, bounds)


def mean_metric(name: str, title: str, definition: str, score: Callable[[Prediction], float]) -> Metric:
    """The mean of a score over rows."""
    return summed_metric(name, title, definition, lambda row: (score(row), 1.0), lambda sums: ratio(sums[..., 0], sums[..., 1]))


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Element by element; 0 where the denominator is 0, as scikit-learn has it for a score that is not defined."""
    result: Floats = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
    return result


@dataclass(frozen=True)
class ScoreGrid:
    """Statistics of one metric for one task and model, by template and unit.

    A unit is a row, or all rows of a group. `statistics` is [templates, units, k], zero where a unit was not shown through
    a template; `shown` is [templates, units], 1 or 0. `units` names the units, so that two grids can be paired.
    """

    metric: Metric
    templates: tuple[int, ...]
    units: tuple[Hashable, ...]
    statistics: Floats
    shown: Floats

    def by_template(self) -> Floats:
        """Score of each template over its units, [templates]."""
        ones = np.ones((1, len(self.units)))
        return np.concatenate([self.metric.score(ones, statistics) for statistics in self.statistics])

    def mean(self) -> float:
        """Mean of the templates' scores."""
        return float(self.by_template().mean())

    def pseudo_values(self) -> Floats:
        """Jackknife pseudo-values [templates, units]: what each unit contributes to its template's score.

        n * score - (n - 1) * score without the unit, for a template with n units (Efron and Tibshirani 1993, section 11.5).
        For a mean over rows they are the rows' own scores; for any other metric, a template's score behaves as their mean.
        0 where a unit was not shown.
        """
        if self.metric.combine is not None:
            return additive_pseudo_values(self.metric.combine, self.statistics, self.shown)
        values = np.zeros(self.shown.shape)
        for template, shown in enumerate(self.shown):
            seen = np.flatnonzero(shown)
            values[template, seen] = _pseudo_values(self.metric.score, self.statistics[template][seen])
        return values

    def unit_scores(self) -> Floats | None:
        """Score of each unit by itself [templates, units]; None for a correlation, which a single unit does not have."""
        if self.metric.bounds[0] < 0:
            return None
        if self.metric.combine is not None:
            return self.metric.combine(self.statistics)
        return np.stack([self.metric.score(np.eye(len(self.units)), statistics) for statistics in self.statistics])


def groups_of(predictions: Iterable[Prediction]) -> dict[Hashable, list[Prediction]]:
    """Predictions by group (or row that stands alone), in the order of each group's first row."""
    groups: dict[Hashable, list[Prediction]] = {}
    for prediction in sorted(predictions, key=lambda prediction: prediction["row"]):
        key = prediction["row"] if prediction["group"] is None else prediction["group"]
        groups.setdefault(key, []).append(prediction)
    return groups


def score_grid(metric: Metric, predictions: Sequence[Prediction]) -> ScoreGrid:
    """Arrange the predictions of one task and model by template and unit."""
    templates = sorted({prediction["template"] for prediction in predictions})
    place_of = {unit: place for place, unit in enumerate(groups_of(predictions))}
    cells = {
        (number, place_of[unit]): metric.statistics(together)
        for number, template in enumerate(templates)
        for unit, together in groups_of(p for p in predictions if p["template"] == template).items()
    }
    statistics = np.zeros((len(templates), len(place_of), len(next(iter(cells.values())))))
    shown = np.zeros((len(templates), len(place_of)))
    for where, values in cells.items():
        statistics[where] = values
        shown[where] = 1
    return ScoreGrid(metric, tuple(templates), tuple(place_of), statistics, shown)


def common_cells(*grids: ScoreGrid) -> list[ScoreGrid] | None:
    """All grids with the same templates and units, and only the cells that all were shown; None if there are none.

    A grid of one template beside one of several is paired with all of them: its cells are repeated for each.
    """
    several = [grid for grid in grids if len(grid.templates) > 1] or grids[:1]
    templates = tuple(one for one in several[0].templates if all(one in grid.templates for grid in several))
    known = set.intersection(*(set(grid.units) for grid in grids))
    units = tuple(unit for unit in grids[0].units if unit in known)
    if not templates or not units:
        return None
    selected = [_selected(grid, templates, units) for grid in grids]
    shown = np.prod([grid.shown for grid in selected], axis=0)
    kept, met = shown.sum(axis=1) > 0, shown.sum(axis=0) > 0
    if not kept.any():
        return None
    templates = tuple(template for template, keep in zip(templates, kept, strict=True) if keep)
    units = tuple(unit for unit, meets in zip(units, met, strict=True) if meets)
    return [
        _selected(replace(grid, statistics=grid.statistics * shown[..., None], shown=shown), templates, units)
        for grid in selected
    ]


def _selected(grid: ScoreGrid, templates: tuple[int, ...], units: tuple[Hashable, ...]) -> ScoreGrid:
    """The grid's cells in the order given; the only template of a grid stands for every one."""
    place_of = {unit: place for place, unit in enumerate(grid.units)}
    columns = [place_of[unit] for unit in units]
    rows = [0 if len(grid.templates) == 1 else grid.templates.index(template) for template in templates]
    cells = np.ix_(rows, columns)
    return replace(grid, templates=templates, units=units, statistics=grid.statistics[cells], shown=grid.shown[cells])


def additive_pseudo_values(combine: Callable[[Floats], Floats], statistics: Floats, shown: Floats) -> Floats:
    """Pseudo-values [..., templates, units] of a metric that is a function of sums.

    Args:
        combine: from sums of statistics [..., k] to scores [...].
        statistics: of the cells, [..., templates, units, k], zero where a unit was not shown.
        shown: 1 or 0, [templates, units].
    """
    sums = statistics.sum(axis=-2, keepdims=True)
    counts = shown.sum(axis=1, keepdims=True)
    values: Floats = (counts * combine(sums) - (counts - 1) * combine(sums - statistics)) * shown
    return values


def _pseudo_values(score: Callable[[Floats, Floats], Floats], statistics: Floats) -> Floats:
    """Pseudo-values [units] of one template, from its units' statistics [units, k]."""
    count = len(statistics)
    whole = score(np.ones((1, count)), statistics)
    if count == 1:
        return whole
    step = max(1, _CHUNK_CELLS // count)
    without = np.concatenate(
        [score(1.0 - np.eye(min(step, count - start), count, start), statistics) for start in range(0, count, step)]
    )
    values: Floats = count * whole - (count - 1) * without
    return values
