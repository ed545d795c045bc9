"""Intervals and p-values: as other programs have them where these can, and right on data whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from flanlab.results.grids import Metric, ScoreGrid, mean_metric
from flanlab.results.intervals import Floats, critical, detectable, paired_binary_interval
from flanlab.results.layout import Variance, template_unit_variance, total
from flanlab.results.statistics import (
    FEW_ROWS,
    FEW_SEEDS,
    FEW_TEMPLATES,
    NEAR_BOUND,
    NO_VARIANCE,
    ONE_TEMPLATE,
    ONE_UNIT,
    Difference,
    difference,
    estimate,
    holm,
    mean_difference,
    mean_of,
)

MEAN = mean_metric("mean", "mean", "The mean over rows.", lambda prediction: float(prediction["score"]))


def pearson(pairs: Floats) -> float:
    return float(stats.pearsonr(pairs[:, 0], pairs[:, 1]).statistic)


def correlation(weights: Floats, units: Floats) -> Floats:
    return np.array([pearson(np.repeat(units, row.astype(int), axis=0)) for row in weights])


CORRELATION = Metric("pearson", "", "", lambda unit: [], bounds=(-1.0, 1.0), weighted=correlation)
"""Of the two statistics of each row; no function of sums."""


def excludes_zero(found: Difference) -> bool:
    return found.low > 0 or found.high < 0


def grid_of(values: Floats, shown: Floats | None = None) -> ScoreGrid:
    """A grid of the mean over rows, from scores [templates, units]."""
    shown = np.ones(values.shape) if shown is None else shown
    statistics = np.stack([values * shown, shown], axis=-1)
    return ScoreGrid(MEAN, tuple(range(1, len(values) + 1)), tuple(range(values.shape[1])), statistics, shown)


def turns(templates: int, rows: int, per_row: int = 1) -> Floats:
    shown = np.zeros((templates, rows))
    for turn in range(rows * per_row):
        shown[turn % templates, turn // per_row] = 1
    return shown


def test_pseudo_values_of_a_mean_are_the_rows_scores() -> None:
    values, shown = np.random.default_rng(0).random((3, 9)), turns(3, 9)
    assert grid_of(values).pseudo_values() == pytest.approx(values)
    assert grid_of(values, shown).pseudo_values() == pytest.approx(values * shown)


def test_pseudo_values_leave_each_unit_out() -> None:
    """A correlation without one row after the other, in a template that was not shown the first row."""
    pairs = np.random.default_rng(1).normal(size=(1, 8, 2))
    shown = np.ones((1, 8))
    shown[0, 0] = 0
    grid = ScoreGrid(CORRELATION, (1,), tuple(range(8)), pairs * shown[..., None], shown)
    seen = pairs[0, 1:]
    whole = pearson(seen)
    without = [pearson(np.delete(seen, row, axis=0)) for row in range(7)]
    assert grid.pseudo_values()[0] == pytest.approx([0.0, *(7 * whole - 6 * np.array(without))])


def test_one_template_of_right_and_wrong_rows_is_wilsons_interval() -> None:
    """But for Student's t in place of the normal, and a row less."""
    found = estimate(grid_of(np.array([[1.0] * 330 + [0.0] * 70])))
    by_scipy = stats.binomtest(330, 400).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((by_scipy.low, by_scipy.high), abs=5e-4)
    assert (found.note, found.units) == (ONE_TEMPLATE, 400)


def test_paired_scores_through_one_template_are_students_t() -> None:
    first, second = np.random.default_rng(2).random((2, 1, 25))
    found = difference(grid_of(first), grid_of(second))
    by_scipy = stats.ttest_rel(second[0], first[0])
    ends = by_scipy.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
    assert found.p_value == pytest.approx(by_scipy.pvalue)
    assert excludes_zero(found) is (found.p_value < 0.05)


def test_rows_that_take_turns_are_students_t_over_templates() -> None:
    """No row is seen twice, so the templates' differences are independent."""
    shown = turns(6, 60)
    first, second = np.random.default_rng(3).random((2, 6, 60))
    found = difference(grid_of(first, shown), grid_of(second, shown))
    by_template = ((second - first) * shown).sum(axis=1) / 10
    by_scipy = stats.ttest_1samp(by_template, 0)
    ends = by_scipy.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=1e-3)
    assert found.p_value == pytest.approx(by_scipy.pvalue, rel=0.01)


def test_variance_of_the_complete_layout_is_that_of_the_mean_squares() -> None:
    templates, rows = 5, 40
    generator = np.random.default_rng(4)
    values = (
        generator.normal(size=(templates, 1)) + 2 * generator.normal(size=(1, rows)) + generator.normal(size=(templates, rows))
    )
    mean = values.mean()
    by_template, by_row = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    of_templates = rows * ((by_template - mean) ** 2).sum() / (templates - 1)
    of_rows = templates * ((by_row - mean) ** 2).sum() / (rows - 1)
    of_rest = ((values - by_template - by_row + mean) ** 2).sum() / ((templates - 1) * (rows - 1))
    found = template_unit_variance(values, np.ones((templates, rows)))
    assert found.between + found.common == pytest.approx((of_templates + of_rows - of_rest) / (templates * rows))
    assert found.floor == pytest.approx(of_rows / (templates * rows)), "templates as they are"


@pytest.mark.parametrize("per_row", [1, 2, 4])
def test_variance_has_no_bias_whichever_cells_are_shown(per_row: int) -> None:
    generator = np.random.default_rng(5)
    shown = turns(4, 24, per_row)
    values = (
        0.5 * generator.normal(size=(20_000, 4, 1))
        + 2 * generator.normal(size=(20_000, 1, 24))
        + generator.normal(size=(20_000, 4, 24))
    )
    means = ((values * shown).sum(axis=-1) / shown.sum(axis=1)).mean(axis=-1)
    found = template_unit_variance(values, shown)
    assert (found.between + found.common).mean() == pytest.approx(means.var(), rel=0.05)


def test_tangos_interval_is_that_of_the_score_test() -> None:
    """Against a search for the likeliest probabilities at each difference, by brute force."""
    wins, losses, count = 9, 3, 40
    shares = np.linspace(0, 1, 4_001)

    def score(delta: float) -> float:
        losing = shares[(shares + delta >= 0) & (2 * shares + delta <= 1)]
        winning, rest = losing + delta, 1 - 2 * losing - delta
        with np.errstate(divide="ignore", invalid="ignore"):
            likelihood = wins * np.log(winning) + losses * np.log(losing) + (count - wins - losses) * np.log(rest)
        best = losing[np.nanargmax(likelihood)]
        return float((wins - losses - count * delta) / np.sqrt(count * (2 * best + delta - delta**2)))

    found = paired_binary_interval(wins, losses, count)
    assert abs(score(float(found.low))) == pytest.approx(1.96, abs=0.01)
    assert abs(score(float(found.high))) == pytest.approx(1.96, abs=0.01)


def test_interval_of_paired_right_and_wrong_rows_agrees_with_mcnemars_test() -> None:
    for wins in range(12):
        first, second = np.zeros((1, 30)), np.zeros((1, 30))
        first[0, :3], second[0, 3 : 3 + wins] = 1, 1
        found = difference(grid_of(first), grid_of(second))
        tango = paired_binary_interval(wins, 3, 30)
        assert (found.low, found.high) == (tango.low, tango.high)
        assert (found.wins, found.losses, found.ties) == (wins, 3, 27 - wins)
        assert excludes_zero(found) is (found.p_value < 0.05)
        assert found.difference == pytest.approx((wins - 3) / 30)


def test_rounding_breaks_no_ties() -> None:
    """Pseudo-values of right and wrong rows are 0 and 1 but for rounding, which differs between two models' scores."""
    generator = np.random.default_rng(0)
    for count in (40, 77, 300):
        first, second = (generator.integers(0, 2, (1, count)).astype(float) for _ in range(2))
        found = difference(grid_of(first), grid_of(second))
        tango = paired_binary_interval((second > first).sum(), (second < first).sum(), count)
        assert (found.low, found.high) == (tango.low, tango.high)
        assert found.difference == pytest.approx((second - first).mean())
        assert found.low < found.difference < found.high


def test_equivalence_is_two_one_sided_tests() -> None:
    first, second = np.random.default_rng(6).random((2, 1, 60))
    found = difference(grid_of(first), grid_of(second)).equivalence(0.2)
    apart = (second - first)[0]
    by_scipy = [
        stats.ttest_1samp(apart, -0.2, alternative="greater").pvalue,
        stats.ttest_1samp(apart, 0.2, alternative="less").pvalue,
    ]
    assert found == pytest.approx(max(by_scipy))
    with pytest.raises(ValueError, match="must be positive"):
        difference(grid_of(first), grid_of(second)).equivalence(0.0)


def test_no_difference_there_can_be_is_called_detectable() -> None:
    better_and_worse = np.array([np.ones(6), np.zeros(6)])
    found = difference(grid_of(better_and_worse), grid_of(1 - better_and_worse))
    assert detectable(found.standard_error, found.freedom) > 1
    assert found.detectable == np.inf


def test_wins_losses_and_ties_are_counted_by_row_over_templates() -> None:
    first = np.array([[1.0, 0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0, 1.0]])
    second = np.array([[1.0, 1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]])
    found = difference(grid_of(first), grid_of(second))
    assert (found.wins, found.losses, found.ties) == (1, 2, 2)


def test_a_single_prompt_is_paired_with_every_template_by_row() -> None:
    """The baseline's prompt: each row of the other's templates is held against the same row."""
    generator = np.random.default_rng(7)
    hard = generator.random((1, 60))
    baseline, tuned = hard + 0.01 * generator.normal(size=(1, 60)), hard + 0.05 + 0.01 * generator.normal(size=(6, 60))
    found = difference(replace(grid_of(baseline), templates=(0,)), grid_of(tuned, turns(6, 60)))
    assert found.difference == pytest.approx(0.05, abs=0.01)
    assert found.standard_error < 0.01 < estimate(grid_of(tuned, turns(6, 60))).standard_error


def test_only_what_both_were_asked_is_compared() -> None:
    values = np.random.default_rng(8).random((2, 3, 10))
    first = grid_of(values[0])
    without = replace(
        grid_of(values[1]),
        units=tuple(range(5, 15)),
        templates=(2, 3, 4),
        statistics=np.stack([values[1], np.ones((3, 10))], -1),
    )
    found = difference(first, without)
    assert found.difference == pytest.approx(values[1][:2, :5].mean() - values[0][1:, 5:].mean())
    assert found.units == 5
    assert found.note.startswith(f"over the 5 rows or groups that both have, of 10; {FEW_TEMPLATES}")
    nothing = difference(first, replace(without, units=tuple(range(20, 30))))
    assert np.isnan(nothing.difference)
    assert np.isnan(nothing.p_value)
    assert not excludes_zero(nothing)
    assert "nothing in common" in nothing.note


def test_several_seeds_are_a_sample_too() -> None:
    """Models that differ from seed to seed, all alike from row to row: rows tell nothing of the next seed."""
    generator = np.random.default_rng(9)
    values = generator.random((1, 50)) / 10 + 0.4 + 0.05 * generator.normal(size=(4, 1, 1)) + np.zeros((4, 3, 50))
    found, alone = estimate([grid_of(one) for one in values]), estimate(grid_of(values[0]))
    assert found.mean == pytest.approx(values.mean())
    assert found.standard_error == pytest.approx(values.mean(axis=(1, 2)).std(ddof=1) / 2, rel=0.1)
    assert found.standard_error > 3 * alone.standard_error


@pytest.mark.parametrize("seed_variance", [0.0, 1.0, 10.0])
def test_intervals_over_few_seeds_hold_95_percent_whatever_seeds_add(seed_variance: float) -> None:
    """Three seeds over ten templates, each through rows of its own: the estimates are multiples of chi-squares."""
    generator, count, rest = np.random.default_rng(0), 20_000, 0.4

    def estimated(variance: float, freedom: int) -> Floats:
        return variance * generator.chisquare(freedom, count) / freedom

    together, between, own = estimated(1.0, 9), estimated(seed_variance + rest, 2), estimated(rest, 18)
    few = np.full(count, 2.0)
    whole, freedom = total(Variance(between, few, together - own, together / 3, together))
    held = np.abs(np.sqrt(1 + seed_variance) * generator.standard_normal(count)) <= critical(freedom) * np.sqrt(whole)
    assert 0.945 <= held.mean() <= 0.965


@pytest.mark.parametrize("shape", [(1, 1), (5, 1)])
def test_one_row_gives_no_interval(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(10).random(shape)
    one, apart = estimate(grid_of(values)), difference(grid_of(values), grid_of(values / 2))
    assert one.mean == pytest.approx(values.mean())
    assert np.isnan([one.low, one.high, apart.low, apart.high, apart.p_value, apart.detectable]).all()
    assert not excludes_zero(apart)
    assert one.note == apart.note == ONE_UNIT
    together = mean_of([one, estimate(grid_of(np.eye(3)))])
    assert np.isnan(together.low)
    assert together.note == ONE_UNIT


@pytest.mark.parametrize("score", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("templates", [1, 4])
def test_rows_without_a_difference_are_no_certainty(score: float, templates: int) -> None:
    few, many = (estimate(grid_of(np.full((templates, rows), score))) for rows in (10, 1_000))
    by_scipy = stats.binomtest(10, 10).proportion_ci(method="wilson")
    assert few.high - few.low >= by_scipy.high - by_scipy.low - 1e-9
    assert 0 <= many.low <= score <= many.high <= 1
    assert 0 < many.high - many.low < few.high - few.low
    assert few.note == NO_VARIANCE
    apart = difference(grid_of(np.full((templates, 10), score)), grid_of(np.full((templates, 10), score)))
    assert apart.low < 0 == apart.difference < apart.high
    assert apart.p_value == 1.0
    assert apart.note == NO_VARIANCE


def test_notes_say_where_simulation_finds_other_than_95_percent() -> None:
    values = np.random.default_rng(14).random((10, 90))
    assert estimate(grid_of(values)).note == ""
    assert estimate(grid_of(values[:3])).note == FEW_TEMPLATES
    few = grid_of(values, turns(10, 90))
    assert estimate(few).note == "", "a mean over rows"
    correlated = estimate(replace(few, metric=replace(MEAN, bounds=(-1.0, 1.0))))
    assert correlated.note == mean_of([correlated] * 2).note == FEW_ROWS
    assert mean_of([correlated, estimate(few)]).note == ""
    fewest = estimate(grid_of(values[:, :30], turns(10, 30)))
    assert fewest.note == mean_of([fewest, correlated]).note == FEW_ROWS, "three rows for each template"
    assert estimate([grid_of(values)] * 3).note == FEW_SEEDS
    assert difference(grid_of(values), grid_of(values[::-1] ** 0.01)).note == NEAR_BOUND
    near = estimate(grid_of(values[:1] ** 0.01))
    assert near.note == f"{ONE_TEMPLATE}; {NEAR_BOUND}"
    assert mean_of([near, near]).note == NEAR_BOUND
    assert mean_of([near, estimate(grid_of(values))]).note == ""


def test_templates_that_happen_to_agree_are_no_certainty() -> None:
    """Rows that take turns with two templates of equal score: their spread is zero, that of the rows is not."""
    values = np.tile([1.0, 1.0, 0.0, 0.0], 10)[None] * np.ones((2, 1))
    found = estimate(grid_of(values, turns(2, 40)))
    over_rows = estimate(grid_of(values[:1]))
    assert found.high - found.low > 0.5 * (over_rows.high - over_rows.low)


def test_rows_each_through_a_template_of_its_own() -> None:
    found = estimate(grid_of(np.random.default_rng(11).random((8, 8)), np.eye(8)))
    assert 0 <= found.low < found.mean < found.high <= 1


def test_mean_over_tasks() -> None:
    generator = np.random.default_rng(12)
    one, other = (estimate(grid_of(generator.random((1, rows)))) for rows in (50, 200))
    found = mean_of([one, other], [1, 3])
    assert found.mean == pytest.approx((one.mean + 3 * other.mean) / 4)
    assert found.standard_error == pytest.approx(np.hypot(one.standard_error, 3 * other.standard_error) / 4)
    assert one.freedom < found.freedom
    assert found.units == 250
    alone = mean_of([one])
    assert (alone.low, alone.high) == pytest.approx((one.low, one.high))


def test_mean_difference_over_tasks() -> None:
    first, second = np.random.default_rng(13).random((2, 3, 40))
    one = difference(grid_of(first), grid_of(second))
    found = mean_difference([one] * 4)
    assert found.difference == pytest.approx(one.difference)
    assert found.standard_error < 0.7 * one.standard_error
    assert found.wins is None
    assert found.p_value < one.p_value


def test_mean_of_perfect_scores_is_no_certainty() -> None:
    found = mean_of([estimate(grid_of(np.ones((2, 20))))] * 3)
    assert found.high == 1
    assert 0.9 < found.low < 1


def test_holm_by_hand() -> None:
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert list(corrected) == ["a", "b", "c", "d"]
    assert corrected == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_holm_counts_a_test_that_could_not_be_made() -> None:
    corrected = holm({"a": float("nan"), "b": 0.02})
    assert corrected["b"] == 0.04
    assert np.isnan(corrected["a"])
