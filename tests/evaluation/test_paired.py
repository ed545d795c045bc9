"""Two models on the questions that both were asked, and on no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flanlab.data.rendering import BASELINE
from flanlab.errors import FlanlabError
from flanlab.evaluation.paired import paired_results
from tests.evaluation.test_results import is_right, prediction, random_predictions


def paired(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> tuple[dict[str, Any], Any]:
    return paired_results("comments", ["accuracy"], first, second, end_token=True)


def test_only_common_rows_and_templates_count() -> None:
    first = [prediction(row, template, row < 3) for row in range(6) for template in (1, 2)]
    second = [prediction(row, template, row < 5) for row in range(2, 9) for template in (2, 3)]
    entry, _ = paired(first, second)
    assert (entry["rows"], entry["templates"], entry["left_aside"]) == (4, [2], {"a": 8, "b": 10})
    # Rows 2 to 5 through template 2: the first has row 2 right, the second rows 2, 3 and 4.
    assert entry["scores"]["accuracy"]["a"]["mean"] == 0.25
    assert entry["scores"]["accuracy"]["b"]["mean"] == 0.75


def test_sides_are_paired() -> None:
    first = random_predictions(1)
    second = [prediction(one["row"], one["template"], is_right(one) or one["row"] % 4 == 0, one["answer"]) for one in first]
    _, found = paired(first, second[::-1])
    difference = found.difference("accuracy", "a", "b")
    unpaired = np.hypot(*(found.estimate("accuracy", side).standard_error for side in "ab"))
    assert difference.standard_error < 0.7 * unpaired
    assert difference.losses == 0
    assert difference.wins is not None
    assert difference.wins > 0


def test_baseline_is_paired_by_row_with_all_templates() -> None:
    first = [prediction(row, BASELINE, row < 2) for row in range(4)]
    second = [prediction(row, template, row < 3) for row in range(1, 5) for template in (1, 2)]
    entry, _ = paired(first, second)
    assert (entry["rows"], entry["templates"]) == (3, [0, 1, 2])
    assert entry["scores"]["accuracy"]["a"]["mean"] == pytest.approx(1 / 3)
    assert entry["scores"]["accuracy"]["b"]["mean"] == pytest.approx(2 / 3)


def test_metrics_are_those_of_both() -> None:
    first = [prediction(row, 1, True, generated=None) for row in range(3)]
    second = [prediction(row, 1, True, option_scores_alone=None) for row in range(3)]
    entry, _ = paired(first, second)
    assert set(entry["scores"]) == {"accuracy", "answer_probability", "accuracy_per_token", "accuracy_per_byte"}


@pytest.mark.parametrize("change", [{"answer": 1}, {"references": ["perhaps"]}, {"options": ["no", "yes"]}, {"group": "g"}])
def test_another_question_under_the_same_number_is_refused(change: dict[str, Any]) -> None:
    first = [prediction(row, 1, True) for row in range(3)]
    second = [prediction(0, 1, True), prediction(1, 1, True, **change) if "answer" not in change else prediction(1, 1, True, 1)]
    with pytest.raises(FlanlabError, match="comments, row 1, template 1: the two were asked different questions"):
        paired(first, second)


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(FlanlabError, match="no row through the same template"):
        paired([prediction(0, 1, True)], [prediction(0, 2, True)])
