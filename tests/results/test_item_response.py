"""Quantiles over wordings, estimated from a few answers to each row."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from flanlab.evaluation.planning import balanced_turns
from flanlab.results.intervals import Floats
from flanlab.results.item_response import quantiles_over_wordings

SHARES = (0.05, 0.5, 0.95)
TEMPLATES, ROWS = 20, 300


def simulated(seed: int) -> tuple[Floats, Floats, NDArray[np.int_], Floats]:
    """Answers [templates, rows], which of them two a row show, labels, and the quantiles over all rows there could be."""
    generator = np.random.default_rng(seed)
    effects = 0.3 + 0.25 * generator.standard_normal((TEMPLATES, 1)) + 0.5 * generator.standard_normal((TEMPLATES, 2))
    labels = generator.integers(2, size=ROWS)
    variable = effects[:, labels] + generator.standard_normal(ROWS) + generator.standard_normal((TEMPLATES, ROWS))
    whole = stats.norm.cdf(effects / np.sqrt(2)).mean(axis=1)
    return (variable > 0) * 1.0, dealt(TEMPLATES, ROWS, seed), labels, np.quantile(whole, SHARES)


def dealt(templates: int, rows: int, seed: int) -> Floats:
    """Which templates each row is shown through, [templates, rows]: two each."""
    shown = np.zeros((templates, rows))
    for row, turn in enumerate(balanced_turns(range(templates), [2] * rows, (seed, "test"))):
        shown[turn, row] = 1
    return shown


def test_model_is_closer_than_each_templates_mean_and_its_intervals_hold() -> None:
    plain, model, held = [], [], []
    for seed in range(3):
        right, shown, labels, whole = simulated(seed)
        truth = np.quantile(right.mean(axis=1), SHARES)
        for design in (dealt(TEMPLATES, ROWS, seed) for seed in range(20)):
            plain.append(np.quantile((right * design).sum(axis=1) / design.sum(axis=1), SHARES) - truth)
        found = quantiles_over_wordings(np.where(shown > 0, right, np.nan), shown, labels, SHARES)
        model.append([one.value for one in found] - truth)
        held += [one.low <= value <= one.high for one, value in zip(found, whole, strict=True)]
    assert np.abs(model).mean() < 0.9 * np.abs(plain).mean()
    assert np.abs(model).mean() < 0.05
    assert sum(held) >= 7, "of 9 intervals of 95 %"


def test_labels_tell_which_answers_a_template_favours() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(2, size=200)
    # Each template always says one thing, so its score is the share of that label.
    right = np.stack([labels == template % 2 for template in range(8)]) * 1.0
    shown = dealt(8, 200, 0)
    truth = np.quantile(right.mean(axis=1), SHARES)
    known = quantiles_over_wordings(right, shown, labels, SHARES)
    unknown = quantiles_over_wordings(right, shown, labels * 0, SHARES)
    errors = [np.abs([one.value for one in found] - truth).max() for found in (known, unknown)]
    assert errors[0] < 0.02 < errors[1]


def test_margins_say_more_than_right_and_wrong() -> None:
    errors: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(2):
        generator = np.random.default_rng(seed)
        variable = 3 * (0.3 * generator.standard_normal((10, 1)) + generator.standard_normal(150))
        variable += generator.standard_normal(variable.shape)
        right, labels = (variable > 0) * 1.0, np.zeros(150, int)
        shown = dealt(10, 150, seed)
        truth = np.quantile(right.mean(axis=1), SHARES)
        for known in (True, False):
            margins = np.where(shown > 0, variable, np.nan) if known else None
            found = quantiles_over_wordings(right, shown, labels, SHARES, margins)
            errors[known].append(float(np.abs([one.value for one in found] - truth).mean()))
    assert np.mean(errors[True]) < 0.7 * np.mean(errors[False])
    assert np.mean(errors[True]) < 0.02


def test_full_tables_are_taken_as_they_are_and_still_have_an_interval() -> None:
    right = simulated(0)[0]
    found = quantiles_over_wordings(right, np.ones_like(right), np.zeros(ROWS, int), SHARES)
    assert [one.value for one in found] == pytest.approx(np.quantile(right.mean(axis=1), SHARES))
    assert all(one.low < one.value < one.high for one in found)


@pytest.mark.parametrize("right", [0.0, 1.0])
@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("by_margins", [True, False])
def test_answers_that_are_all_alike_are_no_certainty(right: float, rows: int, by_margins: bool) -> None:
    """The interval of so many rows by Jeffreys, where every template is asked all of them; and no narrower where it is not."""
    scores = np.full((3, rows), right)
    margins = (2 * scores - 1) * np.random.default_rng(0).uniform(1, 2, scores.shape) if by_margins else None
    width = 1 - stats.beta.ppf(0.025, rows + 0.5, 0.5)
    for shown in (np.ones_like(scores), dealt(3, rows, 0)) if rows > 1 else (np.ones_like(scores),):
        for one in quantiles_over_wordings(scores, shown, [0] * rows, SHARES, margins):
            far = one.low if right else 1 - one.high
            assert abs(one.value - right) < 0.05
            assert one.low <= one.value <= one.high
            assert far < 1 - 0.7 * width
            if shown.all():
                assert far == pytest.approx(1 - width, abs=0.3 * width)


def test_nothing_is_estimated_of_one_template_or_of_other_scores() -> None:
    with pytest.raises(ValueError, match="single template"):
        quantiles_over_wordings(np.ones((1, 5)), np.ones((1, 5)), [0] * 5, SHARES)
    with pytest.raises(ValueError, match="0 and 1"):
        quantiles_over_wordings(np.full((2, 5), 0.5), np.ones((2, 5)), [0] * 5, SHARES)
