"""Intervals, tests and variances as statsmodels and scipy have them, which know nothing of this project."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from flanlab.results.grids import Floats, ScoreGrid
from flanlab.results.intervals import bounded_interval, paired_binary_interval, paired_binary_p_value
from flanlab.results.layout import template_unit_variance
from flanlab.results.statistics import difference, estimate, holm
from tests.results.test_statistics import CORRELATION, grid_of, turns

statsmodels = pytest.importorskip("statsmodels", reason="statsmodels is not installed; pip install -c constraints.txt '.[dev]'")


@pytest.mark.parametrize(("right", "count"), [(0, 12), (3, 40), (57, 60), (200, 400), (30, 30)])
def test_wilsons_interval_is_that_of_statsmodels(right: int, count: int) -> None:
    from statsmodels.stats.proportion import proportion_confint

    share = right / count
    found = bounded_interval(share, share * (1 - share) / count, np.inf, count)
    assert (float(found.low), float(found.high)) == pytest.approx(proportion_confint(right, count, method="wilson"))


@pytest.mark.parametrize(("wins", "losses"), [(9, 3), (0, 7), (5, 5), (30, 12)])
def test_mcnemars_test_is_that_of_statsmodels(wins: int, losses: int) -> None:
    from statsmodels.stats.contingency_tables import mcnemar

    by_other = mcnemar([[20, losses], [wins, 20]], exact=False, correction=False)
    assert float(paired_binary_p_value(wins, losses)) == pytest.approx(by_other.pvalue)
    found = paired_binary_interval(wins, losses, 40 + wins + losses)
    assert bool((found.low > 0) | (found.high < 0)) is bool(by_other.pvalue < 0.05)


def test_equivalence_is_that_of_statsmodels() -> None:
    from statsmodels.stats.weightstats import ttost_paired

    first, second = np.random.default_rng(0).random((2, 1, 45))
    for margin in (0.05, 0.1, 0.3):
        p_value, _, _ = ttost_paired(second[0], first[0], -margin, margin)
        assert difference(grid_of(first), grid_of(second)).equivalence(margin) == pytest.approx(p_value, rel=1e-3)


def test_holms_correction_is_that_of_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    p_values = {str(number): float(p) for number, p in enumerate(np.random.default_rng(1).random(12) ** 3)}
    by_other = multipletests(list(p_values.values()), method="holm")[1]
    assert list(holm(p_values).values()) == pytest.approx(list(by_other))


@pytest.mark.parametrize("per_row", [6, 2])
def test_variance_over_templates_and_rows_is_that_of_a_mixed_model(per_row: int) -> None:
    """Crossed random effects by restricted maximum likelihood: the same for the whole layout, near it where rows take turns.

    The second is another estimator, which weighs cells otherwise; so only the mean over some samples is held against it.
    """
    from statsmodels.regression.mixed_linear_model import MixedLM

    shown, found, by_other = turns(6, 24, per_row), [], []
    for seed in range(1 if per_row == 6 else 6):
        generator = np.random.default_rng(seed)
        values = generator.normal(size=(6, 1)) + 1.5 * generator.normal(size=(1, 24)) + generator.normal(size=(6, 24))
        template, row = np.nonzero(shown)
        table = pd.DataFrame({"value": values[template, row], "template": template, "row": row, "whole": 1})
        effects = {"template": "0 + C(template)", "row": "0 + C(row)"}
        model = MixedLM.from_formula("value ~ 1", table, groups="whole", re_formula="0", vc_formula=effects)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = model.fit(reml=True)
        parts = template_unit_variance(values, shown)
        found.append(float(parts.between + parts.common))
        by_other.append(float(fitted.bse_fe.iloc[0] ** 2))
    assert np.mean(found) == pytest.approx(np.mean(by_other), rel=0.01 if per_row == 6 else 0.15)


def test_jackknife_of_a_correlation_is_near_a_bootstrap() -> None:
    pairs = np.random.default_rng(2).multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=150)
    grid = ScoreGrid(CORRELATION, (1,), tuple(range(150)), pairs[None], np.ones((1, 150)))
    found = estimate(grid)

    def correlation(x: Floats, y: Floats, axis: int) -> Floats:
        value: Floats = stats.pearsonr(x, y, axis=axis).statistic
        return value

    by_other = stats.bootstrap(
        (pairs[:, 0], pairs[:, 1]), correlation, paired=True, n_resamples=2_000, rng=np.random.default_rng(3)
    )
    assert found.standard_error == pytest.approx(by_other.standard_error, rel=0.1)
    assert found.low == pytest.approx(by_other.confidence_interval.low, abs=0.03)
    assert found.high == pytest.approx(by_other.confidence_interval.high, abs=0.03)
