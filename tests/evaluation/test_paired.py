"""Two models on the questions that both were asked, and on no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flanlab.data.rendering import BASELINE
from flanlab.errors import FlanlabError
from flanlab.evaluation.comparison import compare_sides, paired
from flanlab.evaluation.scores import build_results, score_task
from flanlab.evaluation.sides import open_side
from flanlab.results.files import write_results
from flanlab.results.schema import Hashes, Results, Variant
from tests.evaluation.test_results import is_right, prediction, random_predictions, write
from tests.tiny import tiny_tasks


def compared(
    tmp_path: Path, first: list[dict[str, Any]], second: list[dict[str, Any]], margin: float | None = None, **settings: Any
) -> Results:
    """Two evaluations of one task compared, from files."""
    task = tiny_tasks(tmp_path / "tasks")[0]
    for name, predictions in (("first", first), ("second", second)):
        write(tmp_path / name / "predictions" / "plain" / "comments", predictions)
        hashes = Hashes(task="task", rows="rows")
        scored = score_task(task, {"plain": predictions}, hashes=hashes)
        variants = {"plain": Variant(title="plain", model=name, settings=settings)}
        write_results(build_results([scored], variants, name=name), tmp_path / name)
    first_side, second_side = (open_side(str(tmp_path / name)) for name in ("first", "second"))
    return compare_sides(first_side, second_side, margin=margin)


def means(results: Results, metric: str = "accuracy") -> dict[str, float]:
    return {side: score.mean for side, score in results.scored("task", "comments", metric).items()}


def test_only_common_rows_and_templates_count(tmp_path: Path) -> None:
    first = [prediction(row, template, row < 3) for row in range(6) for template in (1, 2)]
    second = [prediction(row, template, row < 5) for row in range(2, 9) for template in (2, 3)]
    results = compared(tmp_path, first, second)
    facts = results.tasks["comments"]
    assert (facts.rows, facts.templates, facts.unpaired) == (4, [2], {"a": 8, "b": 10})
    # Rows 2 to 5 through template 2: the first has row 2 right, the second rows 2, 3 and 4.
    assert means(results) == {"a": 0.25, "b": 0.75}


def test_scores_count_with_or_without_end_tokens_as_the_sides_were_asked(tmp_path: Path) -> None:
    """The scores without the end token rank the other way round here."""
    first, second = ([prediction(row, 1, row < right) for row in range(4)] for right in (1, 4))
    assert means(compared(tmp_path / "with", first, second)) == {"a": 0.25, "b": 1.0}
    assert means(compared(tmp_path / "without", first, second, end_token=False)) == {"a": 0.75, "b": 0.0}


def test_sides_are_paired(tmp_path: Path) -> None:
    first = [one for one in random_predictions(1) if one["template"] == 1]
    second = [prediction(one["row"], one["template"], is_right(one) or one["row"] % 4 == 0, one["answer"]) for one in first]
    results = compared(tmp_path, first, second[::-1])
    row, scores = results.difference("task", "comments", "accuracy"), results.scored("task", "comments", "accuracy")
    assert row is not None
    assert row.low > 0, "every row of the second is as good or better"
    assert row.standard_error is not None
    unpaired = np.hypot(*(scores[side].standard_error or np.nan for side in "ab"))
    assert row.standard_error < 0.7 * unpaired
    assert row.losses == 0
    assert row.wins is not None
    assert row.wins > 0


def test_the_same_answers_are_equivalent_within_a_margin_and_few_rows_are_not(tmp_path: Path) -> None:
    same = [prediction(row, template, row % 3 > 0) for row in range(200) for template in (1, 2, 3, 4)]
    changed = [prediction(row, template, (row + template) % 3 > 0) for row in range(200) for template in (1, 2, 3, 4)]
    close = compared(tmp_path / "close", same, changed, margin=0.1).difference("task", "comments", "accuracy")
    few = compared(tmp_path / "few", same[:24], changed[:24], margin=0.1).difference("task", "comments", "accuracy")
    assert close is not None
    assert few is not None
    assert not close.is_clear
    assert close.is_equivalent
    assert close.detectable is not None
    assert few.detectable is not None
    assert close.detectable < few.detectable
    assert not few.is_equivalent, "so few rows show neither a difference nor that there is none"
    plain = compared(tmp_path / "plain", same, changed).difference("task", "comments", "accuracy")
    assert plain is not None
    assert plain.p_equivalence is None


def test_baseline_is_paired_by_row_with_all_templates(tmp_path: Path) -> None:
    first = [prediction(row, BASELINE, row < 2) for row in range(4)]
    second = [prediction(row, template, row < 3) for row in range(1, 5) for template in (1, 2)]
    results = compared(tmp_path, first, second)
    assert (results.tasks["comments"].rows, results.tasks["comments"].templates) == (3, [0, 1, 2])
    assert means(results) == pytest.approx({"a": 1 / 3, "b": 2 / 3})


def test_metrics_are_those_of_both(tmp_path: Path) -> None:
    first = [prediction(row, 1, True, generated=None) for row in range(3)]
    second = [prediction(row, 1, True, option_scores_alone=None) for row in range(3)]
    results = compared(tmp_path, first, second)
    expected = {"accuracy", "answer_probability", "accuracy_per_token", "accuracy_per_byte"}
    assert set(results.metrics("task", "comments")) == set(results.tasks["comments"].metrics) == expected


@pytest.mark.parametrize("change", [{"answer": 1}, {"references": ["perhaps"]}, {"options": ["no", "yes"]}, {"group": "g"}])
def test_another_question_under_the_same_number_is_refused(change: dict[str, Any]) -> None:
    first = [prediction(row, 1, True) for row in range(3)]
    second = [prediction(0, 1, True), prediction(1, 1, True, **change) if "answer" not in change else prediction(1, 1, True, 1)]
    with pytest.raises(FlanlabError, match="comments, row 1, template 1: the two were asked different questions"):
        paired("comments", first, second)


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(FlanlabError, match="no row through the same template"):
        paired("comments", [prediction(0, 1, True)], [prediction(0, 2, True)])
