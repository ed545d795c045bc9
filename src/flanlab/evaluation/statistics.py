"""Statistics over rows and templates: spread over templates, and bootstrap intervals that respect both.

A task's score under one model is the mean over templates of each template's score over its rows. Rows and templates are
both samples (of what could be asked, and of how), so the bootstrap resamples both, crossed; two models are compared under
the same draws, row by row and template by template.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flanlab.evaluation.metrics import Floats, Metric, Prediction

DRAWS = 2_000
LEVEL = 0.95


@dataclass(frozen=True)
class ScoreGrid:
    """Statistics of one metric for one task and model, by template and row.

    `statistics` is [templates, rows, k], zero where a row was not shown through a template; `shown` is [templates, rows].
    """

    metric: Metric
    templates: tuple[int, ...]
    statistics: Floats
    shown: Floats

    def by_template(self) -> Floats:
        """Score of each template over its rows, [templates]."""
        return self.metric.combine(self.statistics.sum(axis=1), self.shown.sum(axis=1))

    def mean(self) -> float:
        """Mean of the templates' scores."""
        return float(self.by_template().mean())

    def resampled(self, draws: Draws) -> Floats:
        """Mean over templates under each resampling, [draws]."""
        totals = np.einsum("dr,trk->dtk", draws.rows, self.statistics, optimize=True)
        weight = draws.rows @ self.shown.T
        with np.errstate(invalid="ignore", divide="ignore"):
            scores = self.metric.combine(totals, weight)
        present = draws.templates * (weight > 0)
        scores = np.where(weight > 0, scores, 0.0)
        # A draw in which no chosen template met a chosen row says nothing; it falls back to the unresampled mean.
        total = present.sum(axis=1)
        result: Floats = np.where(total > 0, (scores * present).sum(axis=1) / np.maximum(total, 1), self.mean())
        return result


@dataclass(frozen=True)
class Draws:
    """How often each row and each template occurs in each resampling: [draws, rows] and [draws, templates]."""

    rows: Floats
    templates: Floats

    def over(self, templates: Sequence[int]) -> Draws:
        """The same draws of rows for a variant with a single prompt, such as the baseline's, where templates cannot vary."""
        return Draws(self.rows, np.ones((len(self.rows), 1))) if len(templates) == 1 else self


def make_draws(row_count: int, template_count: int, name: str) -> Draws:
    """Resamplings for one task: the same for every model and metric, and from one call to the next."""
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    generator = np.random.default_rng(seed)
    return Draws(
        generator.multinomial(row_count, np.full(row_count, 1 / row_count), size=DRAWS).astype(float),
        generator.multinomial(template_count, np.full(template_count, 1 / template_count), size=DRAWS).astype(float),
    )


def score_grid(metric: Metric, predictions: Sequence[Prediction]) -> ScoreGrid:
    """Arrange the predictions of one task by template and row."""
    templates = sorted({prediction["template"] for prediction in predictions})
    rows = {row: place for place, row in enumerate(sorted({prediction["row"] for prediction in predictions}))}
    place_of = {template: place for place, template in enumerate(templates)}
    values = [metric.statistics(prediction) for prediction in predictions]
    statistics = np.zeros((len(templates), len(rows), len(values[0])))
    shown = np.zeros((len(templates), len(rows)))
    for prediction, value in zip(predictions, values, strict=True):
        where = place_of[prediction["template"]], rows[prediction["row"]]
        statistics[where] = value
        shown[where] = 1
    return ScoreGrid(metric, tuple(templates), statistics, shown)


def interval(resampled: Floats) -> tuple[float, float]:
    """Percentile interval at the level LEVEL."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
