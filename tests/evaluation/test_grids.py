"""Predictions arranged by template and unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from flanlab.results.grids import Metric, Prediction, mean_metric, score_grid
from flanlab.results.intervals import Floats

MEAN = mean_metric("value", "value", "The mean.", lambda prediction: float(prediction["value"]))


def rows_of(values: Floats, shown: Floats | None = None) -> list[dict[str, Any]]:
    """Predictions of a [templates, rows] table."""
    return [
        {"template": template + 1, "row": 10 * row, "group": None, "value": float(values[template, row])}
        for template in range(values.shape[0])
        for row in range(values.shape[1])
        if shown is None or shown[template, row]
    ]


def test_grid_has_the_score_of_each_template() -> None:
    values = np.asarray([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]])
    grid = score_grid(MEAN, rows_of(values))
    assert grid.templates == (1, 2)
    assert grid.by_template().tolist() == [0.75, 0.25]
    assert grid.mean() == 0.5
    assert grid.shown.sum() == 8


def test_order_of_predictions_does_not_matter() -> None:
    predictions = rows_of(np.random.default_rng(0).random((3, 7)))
    left, right = score_grid(MEAN, predictions), score_grid(MEAN, predictions[::-1])
    assert left.units == right.units
    assert np.array_equal(left.statistics, right.statistics)


def test_incomplete_design() -> None:
    """Each row through two of five templates: cells not shown count nowhere."""
    shown = incomplete_design(5, 12, 2)
    values = np.random.default_rng(2).random((5, 12))
    grid = score_grid(MEAN, rows_of(values, shown))
    assert np.array_equal(grid.shown, shown)
    assert grid.by_template() == pytest.approx((values * shown).sum(axis=1) / shown.sum(axis=1))


def incomplete_design(templates: int, rows: int, per_row: int) -> Floats:
    shown = np.zeros((templates, rows))
    for row in range(rows):
        for turn in range(per_row):
            shown[(row * per_row + turn) % templates, row] = 1
    return shown


def test_rows_of_a_group_are_one_unit() -> None:
    values = np.random.default_rng(3).random((2, 9))
    group_of = ["x", "x", "y", "z", "z", "z", "z", "y", "u"]
    predictions = [{**one, "group": group_of[one["row"] // 10]} for one in rows_of(values)]
    grid = score_grid(MEAN, predictions)
    assert grid.by_template() == pytest.approx(values.mean(axis=1)), "the mean is over rows, large groups weigh more"
    assert grid.shown.shape == (2, 4)


def test_a_metric_of_groups_sees_each_group_whole_and_by_template() -> None:
    seen: list[tuple[int, list[float]]] = []

    def statistics(unit: Sequence[Prediction]) -> Sequence[float]:
        seen.append((unit[0]["template"], [row["value"] for row in unit]))
        return (float(len(unit)), 1.0)

    metric = Metric("size", "size", "Mean size.", statistics, lambda sums: sums[..., 0] / sums[..., 1])
    predictions = [{**one, "group": "x" if one["row"] < 20 else "y"} for one in rows_of(np.arange(6.0).reshape(2, 3))]
    assert score_grid(metric, predictions[::-1]).by_template().tolist() == [1.5, 1.5]
    assert seen == [(1, [0.0, 1.0]), (1, [2.0]), (2, [3.0, 4.0]), (2, [5.0])]
