"""Scores by template and bootstrap intervals: right on data whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from flanlab.evaluation import statistics
from flanlab.evaluation.metrics.declared import metrics_for
from flanlab.evaluation.metrics.metric import Floats, Prediction, grouped_metric, mean_metric
from flanlab.evaluation.statistics import DRAWS, holm, interval, make_draws, score_grid, two_sided_p

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
    values = np.random.default_rng(0).random((3, 7))
    predictions = rows_of(values)
    draws = make_draws(7, 3, "task")
    left = score_grid(MEAN, predictions).resampled(draws)
    assert np.array_equal(left, score_grid(MEAN, predictions[::-1]).resampled(draws))


def test_resampling_is_what_it_would_be_row_by_row() -> None:
    """Against the plain way: take rows and templates with repetition, and average."""
    values = np.random.default_rng(1).random((3, 5))
    draws = make_draws(5, 3, "task")
    resampled = score_grid(MEAN, rows_of(values)).resampled(draws)
    assert resampled.shape == (DRAWS,)
    for number in range(50):
        rows = np.repeat(np.arange(5), draws.units[number].astype(int))
        templates = np.repeat(np.arange(3), draws.templates[number].astype(int))
        assert (len(rows), len(templates)) == (5, 3)
        assert resampled[number] == pytest.approx(values[np.ix_(templates, rows)].mean())


def incomplete_design(templates: int, rows: int, per_row: int) -> Floats:
    shown = np.zeros((templates, rows))
    for row in range(rows):
        for turn in range(per_row):
            shown[(row * per_row + turn) % templates, row] = 1
    return shown


def test_incomplete_design_row_by_row() -> None:
    """Each row through two of five templates: cells not shown count nowhere."""
    shown = incomplete_design(5, 12, 2)
    values = np.random.default_rng(2).random((5, 12))
    grid = score_grid(MEAN, rows_of(values, shown))
    assert np.array_equal(grid.shown, shown)
    assert grid.by_template() == pytest.approx((values * shown).sum(axis=1) / shown.sum(axis=1))
    draws = make_draws(12, 5, "task")
    resampled = grid.resampled(draws)
    assert np.isfinite(resampled).all()
    for number in range(50):
        weight = draws.units[number] * shown
        scores = [(values[t] * weight[t]).sum() / weight[t].sum() if weight[t].sum() else None for t in range(5)]
        kept = [(score, draws.templates[number][t]) for t, score in enumerate(scores) if score is not None]
        if sum(times for _, times in kept):
            expected = sum(score * times for score, times in kept) / sum(times for _, times in kept)
            assert resampled[number] == pytest.approx(expected)


def test_rows_of_a_group_are_drawn_together() -> None:
    """Against the plain way: repeat whole groups, and average over the rows that come with them."""
    values = np.random.default_rng(3).random((2, 9))
    group_of = ["x", "x", "y", "z", "z", "z", "z", "y", "u"]
    predictions = [{**one, "group": group_of[one["row"] // 10]} for one in rows_of(values)]
    grid = score_grid(MEAN, predictions)
    assert grid.by_template() == pytest.approx(values.mean(axis=1)), "the mean is over rows, large groups weigh more"
    assert grid.shown.shape == (2, 4)
    draws = make_draws(4, 2, "task")
    resampled = grid.resampled(draws)
    for number in range(50):
        times = dict(zip("xyzu", draws.units[number].astype(int), strict=True))
        rows = [row for row, group in enumerate(group_of) for _ in range(times[group])]
        templates = np.repeat(np.arange(2), draws.templates[number].astype(int))
        assert resampled[number] == pytest.approx(values[np.ix_(templates, rows)].mean())


def test_a_metric_of_groups_sees_each_group_whole_and_by_template() -> None:
    seen: list[tuple[int, list[float]]] = []

    def statistics(unit: Sequence[Prediction]) -> Sequence[float]:
        seen.append((unit[0]["template"], [row["value"] for row in unit]))
        return (float(len(unit)), 1.0)

    metric = grouped_metric("size", "size", "Mean size.", statistics, lambda sums: sums[..., 0] / sums[..., 1])
    predictions = [{**one, "group": "x" if one["row"] < 20 else "y"} for one in rows_of(np.arange(6.0).reshape(2, 3))]
    assert score_grid(metric, predictions[::-1]).by_template().tolist() == [1.5, 1.5]
    assert seen == [(1, [0.0, 1.0]), (1, [2.0]), (2, [3.0, 4.0]), (2, [5.0])]


def test_very_sparse_design_stays_finite() -> None:
    """Two rows, each through a template of its own: some draws hold nothing, and none may become NaN."""
    grid = score_grid(MEAN, rows_of(np.asarray([[0.2, 0.0], [0.0, 0.6]]), np.eye(2)))
    resampled = grid.resampled(make_draws(2, 2, "task"))
    assert np.isfinite(resampled).all()
    assert set(np.round(resampled, 6)) <= {0.2, 0.4, 0.6}


def test_draws_are_the_same_for_every_model_and_differ_by_task() -> None:
    one, again, other = make_draws(20, 4, "rte"), make_draws(20, 4, "rte"), make_draws(20, 4, "cb")
    assert np.array_equal(one.units, again.units)
    assert np.array_equal(one.templates, again.templates)
    assert not np.array_equal(one.units, other.units)
    assert (one.units.sum(axis=1) == 20).all()
    assert (one.templates.sum(axis=1) == 4).all()


def test_interval_is_the_middle_95_percent() -> None:
    assert interval(np.arange(1001) / 1000) == pytest.approx((0.025, 0.975))


def coverage(
    monkeypatch: pytest.MonkeyPatch, templates: int, rows: int, row_spread: float, template_spread: float, per_row: int
) -> float:
    """How often the interval holds the true mean, 0.5, over 400 simulated evaluations."""
    monkeypatch.setattr(statistics, "DRAWS", 400)
    generator = np.random.default_rng(11)
    shown = incomplete_design(templates, rows, per_row)
    draws = make_draws(rows, templates, "simulated")
    held = 0
    for _ in range(400):
        chance = (
            0.5
            + row_spread * generator.standard_normal((1, rows))
            + template_spread * generator.standard_normal((templates, 1))
            + 0.1 * generator.standard_normal((templates, rows))
        )
        low, high = interval(score_grid(MEAN, rows_of(chance, shown)).resampled(draws))
        held += low <= 0.5 <= high
    return held / 400


@pytest.mark.parametrize(
    ("templates", "rows", "row_spread", "template_spread", "per_row"),
    [
        (10, 60, 0.5, 0.0, 10),
        (10, 60, 0.5, 0.02, 10),
        (10, 60, 0.5, 0.02, 2),
        (12, 30, 0.1, 0.1, 12),
    ],
)
def test_interval_covers_the_truth(
    monkeypatch: pytest.MonkeyPatch, templates: int, rows: int, row_spread: float, template_spread: float, per_row: int
) -> None:
    assert 0.89 <= coverage(monkeypatch, templates, rows, row_spread, template_spread, per_row) <= 0.99


def test_interval_of_a_corpus_metric() -> None:
    """BLEU goes through the same resampling, from counts."""
    predictions = [
        {
            "template": 1 + row % 2,
            "row": row,
            "group": None,
            "options": [],
            "generated": text,
            "references": ["the cat sat on the mat today"],
        }
        for row, text in enumerate(["the cat sat on the mat", "a cat sat on the mat today", "dogs bark", "the cat sat"])
    ]
    (bleu,) = metrics_for(["bleu"], predictions, end_token=True)
    grid = score_grid(bleu, predictions)
    low, high = interval(grid.resampled(make_draws(4, 2, "bleu")))
    assert 0 <= low < grid.mean() < high <= 1


def test_p_value_is_twice_the_far_side_and_never_zero() -> None:
    differences = np.array([-0.1, 0.1, 0.2, 0.3, 0.2, 0.1, 0.4, 0.2, 0.3])
    assert two_sided_p(differences) == pytest.approx(2 * 2 / 10)
    assert two_sided_p(-differences) == pytest.approx(2 * 2 / 10)
    assert two_sided_p(np.abs(differences)) == pytest.approx(2 / 10)
    assert two_sided_p(np.zeros(9)) == 1.0


def test_p_values_are_small_as_often_as_they_say() -> None:
    """Where two models are equally good, one comparison in ten has a p-value below 0.1."""
    generator = np.random.default_rng(5)
    small = 0
    for _ in range(300):
        rows = generator.normal(size=80)
        draws = generator.multinomial(80, np.full(80, 1 / 80), size=400)
        small += two_sided_p(draws @ rows / 80) < 0.1
    assert 0.06 < small / 300 < 0.15


def test_holm_by_hand() -> None:
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert list(corrected) == ["a", "b", "c", "d"]
    assert corrected == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
