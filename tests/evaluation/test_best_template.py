"""The template is chosen by dev rows alone, and scored by test rows alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flanlab.evaluation.best_template import best_on_dev, dev_settings
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.evaluation.scores import score_task
from flanlab.results.schema import BEST_ON_DEV
from flanlab.tasks.schema import Task
from tests.evaluation.test_results import prediction
from tests.tiny import tiny_tasks

SETTINGS = EvaluationSettings(rows=7, templates_per_row=1, choose_template=True)


@pytest.fixture
def comments(tmp_path: Path) -> Task:
    return tiny_tasks(tmp_path / "tasks")[0]


def predictions(right: dict[int, int], rows: int = 10) -> list[dict[str, Any]]:
    """Predictions of which each template has so many right."""
    return [prediction(row, template, row < count) for template, count in right.items() for row in range(rows)]


def test_dev_decides_and_test_is_scored(comments: Task) -> None:
    dev, test = predictions({1: 3, 2: 8, 3: 5}, rows=20), predictions({1: 10, 2: 6, 3: 1})
    best, grid = best_on_dev(comments, dev, test)
    assert (best.template, best.metric, best.dev_score, best.dev_rows) == (2, "accuracy", 0.4, 20)
    assert best.dev_scores == {"1": 0.15, "2": 0.4, "3": 0.25}
    assert grid.templates == (2,)
    assert grid.mean() == 0.6


def test_its_score_stands_in_the_table_with_an_interval_over_rows_alone(comments: Task) -> None:
    test = predictions({1: 10, 2: 6, 3: 1})
    dev = predictions({1: 3, 2: 8, 3: 5}, rows=20)
    task = score_task(comments, {"tuned": test}, dev={"tuned": dev})
    (score,) = [score for score in task.scores if score.template == BEST_ON_DEV]
    assert (score.mean, score.variant, score.rows) == (0.6, "tuned", 10)
    # Ten rows of which six are right, whatever the other templates do.
    binomial = np.random.default_rng(0).binomial(10, 0.6, 100_000) / 10
    assert score.interval == pytest.approx(np.quantile(binomial, [0.025, 0.975]), abs=0.101)
    without = score_task(comments, {"tuned": test}, dev={})
    assert without.facts.best_on_dev == {}, "no dev split"
    assert score_task(comments, {"tuned": test}).facts.best_on_dev is None, "not asked for"


def test_of_equals_the_lowest_number_is_chosen(comments: Task) -> None:
    dev, test = predictions({3: 7, 2: 7, 1: 2}), predictions({1: 1, 2: 2, 3: 9})
    best, grid = best_on_dev(comments, dev, test)
    assert (best.template, grid.mean()) == (2, 0.2)


def test_template_without_test_rows_cannot_be_chosen(comments: Task) -> None:
    dev, test = predictions({1: 2, 2: 9, 3: 4}), predictions({1: 1, 3: 9})
    best, _ = best_on_dev(comments, dev, test)
    assert best.template == 3
    assert set(best.dev_scores) == {"1", "2", "3"}


def test_dev_rows_are_asked_through_every_template() -> None:
    dev = dev_settings(SETTINGS)
    assert (dev.split, dev.rows, dev.templates_per_row) == ("dev", 200, None)
    assert dev.options == SETTINGS.options


def test_choosing_on_the_rows_that_are_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="another split"):
        EvaluationSettings(split="dev", choose_template=True)
