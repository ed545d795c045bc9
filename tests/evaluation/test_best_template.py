"""The template is chosen by dev rows alone, and scored by test rows alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flanlab.data.rendering import BASELINE
from flanlab.errors import FlanlabError
from flanlab.evaluation.best_template import best_dev_template, dev_settings
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.tasks.schema import Task
from tests.evaluation.test_results import prediction, write
from tests.tiny import tiny_tasks

SETTINGS = EvaluationSettings(rows=7, templates_per_row=1, choose_template=True)


@pytest.fixture
def comments(tmp_path: Path) -> Task:
    return tiny_tasks(tmp_path / "tasks")[0]


def folder(path: Path, right: dict[int, int], rows: int = 10) -> Path:
    """Predictions of which each template has so many right."""
    return write(path, [prediction(row, template, row < count) for template, count in right.items() for row in range(rows)])


def test_dev_decides_and_test_is_told(comments: Task, tmp_path: Path) -> None:
    dev, test = folder(tmp_path / "dev", {1: 3, 2: 8, 3: 5}, rows=20), folder(tmp_path / "test", {1: 10, 2: 6, 3: 1})
    best = best_dev_template(comments, dev, test, SETTINGS)
    assert best is not None
    assert (best["template"], best["metric"], best["dev_score"], best["score"]) == (2, "accuracy", 0.4, 0.6)
    assert best["dev_scores"] == {"1": 0.15, "2": 0.4, "3": 0.25}
    assert best["dev_rows"] == 20
    # Over rows alone: ten rows of which six are right, whatever the other templates do.
    binomial = np.random.default_rng(0).binomial(10, 0.6, 100_000) / 10
    assert best["interval"] == pytest.approx(np.quantile(binomial, [0.025, 0.975]), abs=0.101)


def test_of_equals_the_lowest_number_is_chosen(comments: Task, tmp_path: Path) -> None:
    dev, test = folder(tmp_path / "dev", {3: 7, 2: 7, 1: 2}), folder(tmp_path / "test", {1: 1, 2: 2, 3: 9})
    best = best_dev_template(comments, dev, test, SETTINGS)
    assert best is not None
    assert (best["template"], best["score"]) == (2, 0.2)


def test_template_without_test_rows_cannot_be_chosen(comments: Task, tmp_path: Path) -> None:
    dev, test = folder(tmp_path / "dev", {1: 2, 2: 9, 3: 4}), folder(tmp_path / "test", {1: 1, 3: 9})
    best = best_dev_template(comments, dev, test, SETTINGS)
    assert best is not None
    assert best["template"] == 3
    assert set(best["dev_scores"]) == {"1", "2", "3"}


def test_baseline_leaves_no_choice(comments: Task, tmp_path: Path) -> None:
    test = write(tmp_path / "test", [prediction(row, BASELINE, True) for row in range(3)])
    assert best_dev_template(comments, tmp_path / "none", test, SETTINGS) is None


def test_dev_rows_are_asked_through_every_template() -> None:
    dev = dev_settings(SETTINGS)
    assert (dev.split, dev.rows, dev.templates_per_row) == ("dev", 200, None)
    assert dev.options == SETTINGS.options


def test_choosing_on_the_rows_that_are_scored_is_refused(comments: Task, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another split"):
        EvaluationSettings(split="dev", choose_template=True)
    with pytest.raises(FlanlabError, match="no predictions"):
        best_dev_template(comments, tmp_path / "dev", folder(tmp_path / "test", {1: 1}), SETTINGS)
