"""Statistics over rows and templates: spread over templates, and bootstrap intervals that respect both.

A task's score under one model is the mean over templates of each template's score over its rows. Rows and templates are
both samples (of what could be asked, and of how), so the bootstrap resamples both, crossed; two models are compared under
the same draws, row by row and template by template. Rows that belong together (a task's `group`) are drawn together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flanlab.evaluation.metrics.metric import Floats, Metric, Prediction
from flanlab.evaluation.units import units_of

DRAWS = 2_000
LEVEL = 0.95


@dataclass(frozen=True)
class ScoreGrid:
    """Statistics of one metric for one task and model, by template and unit (a row, or rows that belong together).

    `statistics` is [templates, units, k], zero where a unit was not shown through a template; `shown` is [templates, units].
    """

    metric: Metric
    templates: tuple[int, ...]
    statistics: Floats
    shown: Floats

    def by_template(self) -> Floats:
        """Score of each template over its units, [templates]."""
        scores: Floats = self._scores(np.ones((1, self.shown.shape[1])))[0]
        return scores

    def mean(self) -> float:
        """Mean of the templates' scores."""
        return float(self.by_template().mean())

    def resampled(self, draws: Draws) -> Floats:
        """Mean over templates under each resampling, [draws]."""
        weight = draws.units @ self.shown.T
        present = draws.templates * (weight > 0)
        scores = np.where(weight > 0, self._scores(draws.units), 0.0)
        # A draw in which no chosen template met a chosen unit says nothing; it falls back to the unresampled mean.
        total = present.sum(axis=1)
        result: Floats = np.where(total > 0, (scores * present).sum(axis=1) / np.maximum(total, 1), self.mean())
        return result

    def _scores(self, weights: Floats) -> Floats:
        """Scores [draws, templates] under weights [draws, units]."""
        return np.stack([self.metric.score(weights, statistics) for statistics in self.statistics], axis=1)


@dataclass(frozen=True)
class Draws:
    """How often each unit and each template occurs in each resampling: [draws, units] and [draws, templates]."""

    units: Floats
    templates: Floats

    def over(self, templates: Sequence[int]) -> Draws:
        """The same draws of units for a variant with a single prompt, such as the baseline's, where templates cannot vary."""
        return Draws(self.units, np.ones((len(self.units), 1))) if len(templates) == 1 else self


def make_draws(unit_count: int, template_count: int, name: str) -> Draws:
    """Resamplings for one task: the same for every model and metric, and from one call to the next."""
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    generator = np.random.default_rng(seed)
    return Draws(
        generator.multinomial(unit_count, np.full(unit_count, 1 / unit_count), size=DRAWS).astype(float),
        generator.multinomial(template_count, np.full(template_count, 1 / template_count), size=DRAWS).astype(float),
    )


def score_grid(metric: Metric, predictions: Sequence[Prediction]) -> ScoreGrid:
    """Arrange the predictions of one task by template and unit."""
    templates = sorted({prediction["template"] for prediction in predictions})
    place_of = {unit: place for place, unit in enumerate(units_of(predictions))}
    cells = {
        (number, place_of[unit]): metric.statistics(together)
        for number, template in enumerate(templates)
        for unit, together in units_of(p for p in predictions if p["template"] == template).items()
    }
    statistics = np.zeros((len(templates), len(place_of), len(next(iter(cells.values())))))
    shown = np.zeros((len(templates), len(place_of)))
    for where, values in cells.items():
        statistics[where] = values
        shown[where] = 1
    return ScoreGrid(metric, tuple(templates), statistics, shown)


def interval(resampled: Floats) -> tuple[float, float]:
    """Percentile interval at the level LEVEL."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def two_sided_p(resampled: Floats) -> float:
    """Bootstrap p-value of no difference: twice the share of resampled differences on the far side of zero.

    One more draw is counted there than was seen (Davison and Hinkley 1997, section 4.2.3), so that it is never 0.
    """
    beyond = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(resampled) + 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values of a family of tests, corrected by Holm (1979): rejecting those below a level keeps the chance of any false
    rejection below it, however the tests depend on each other.
    """
    corrected: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = highest
    return {name: corrected[name] for name in p_values}
