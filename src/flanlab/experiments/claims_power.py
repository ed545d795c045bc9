"""Which effects the design of a claim could detect: its weighted sums of cells, each task as it will be asked."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flanlab.experiments.claims import detectable_effect, over_clusters
from flanlab.experiments.paper_claims import Claim, Part
from flanlab.experiments.power import Asked
from flanlab.results.intervals import Floats
from flanlab.results.layout import UNKNOWN, Variance
from flanlab.results.power import Components, planned, shown_in_turns
from flanlab.results.statistics import Difference, difference_of

_FEWEST_TEMPLATES = 4
"""As in `spread_difference`."""


@dataclass(frozen=True)
class ClaimDesign:
    """A claim, how the tasks of its weighted sums will be asked, and what their scores vary by."""

    claim: Claim
    parts: Sequence[tuple[Part, Sequence[Sequence[Asked]]]]
    """Each part, with the tasks of each of its weighted sums."""
    known: Mapping[str, Components]
    """Of a difference of two cells, by task; half of it is taken for what is a cell's own."""
    seeds: int
    power: float

    def tasks(self) -> Iterator[Asked]:
        """Every task of every sum."""
        return (one for _, sums in self.parts for tasks in sums for one in tasks)

    def detectable(self, rows: int | None = None) -> tuple[float, str]:
        """The effect that each part of the claim shows, and what to know of it; NaN where it cannot be estimated.

        Args:
            rows: of each task, as far as it has them; None: as planned.
        """
        means = [self._mean(part, sums, rows) for part, sums in self.parts]
        values = [detectable_effect(mean, self.claim.kind, self.power) for mean in means]
        return float(np.max(values)), next((mean.note for mean in means if mean.note), "")

    def rows_needed(self) -> int | None:
        """The fewest rows of each task that show the smallest effect worth calling one; None where all rows do not."""

        def detects(rows: int) -> bool:
            return self.detectable(rows)[0] <= self.claim.smallest

        most = max(one.available for one in self.tasks())
        return 1 + bisect_left(range(1, most), True, key=detects) if detects(most) else None

    def _mean(self, part: Part, sums: Sequence[Sequence[Asked]], rows: int | None) -> Difference:
        by_task: dict[str, list[Difference]] = {}
        homes: dict[str, str] = {}
        for weights, tasks in zip(part.sums, sums, strict=True):
            for asked in tasks:
                one = asked if rows is None else asked.with_design(rows, asked.per_row)
                by_task.setdefault(one.task.name, []).append(self._expected(list(weights.values()), one))
                homes[one.task.name] = one.task.clusters[0].value
        return over_clusters(part.title, by_task, homes).mean

    def _expected(self, weights: Sequence[float], asked: Asked) -> Difference:
        """What is expected of a weighted sum of cells on one task, where the truth is no effect."""
        shown, known = shown_in_turns(asked.templates, asked.units, asked.per_row), self.known[asked.task.name]
        if self.claim.statistic == "spread":
            return _expected_spread(known, shown)
        pair = planned(known, shown, self.seeds)
        factor = float(np.square(weights).sum()) / 2
        between, freedom, common, error, floor = pair.variance
        variance = Variance(between * factor, freedom, common * factor, error * factor, floor * factor)
        return difference_of(0.0, variance, pair.bounds, shown.shape[1], pair.note)


def _expected_spread(known: Components, shown: Floats) -> Difference:
    """Of a difference of two spreads over templates.

    Of normal scores of two cells with the same spread s and the correlation r over templates, the difference of the spreads
    has the variance s^2 (1 - r^2) / (templates - 1). That is at most the variance of the scores' difference, 2 s^2 (1 - r),
    divided by the same number.
    """
    templates, one = len(shown), planned(known, shown)
    if templates < _FEWEST_TEMPLATES or not shown.all():
        why = "cannot be estimated: a spread over templates needs each row through all templates, four or more"
        return difference_of(0.0, UNKNOWN, one.bounds, shown.shape[1], why)
    none = np.zeros(())
    between = np.asarray(one.variance.between * templates / (templates - 1))
    return difference_of(0.0, Variance(between, none + templates - 1, none, none, none), one.bounds, shown.shape[1], one.note)
