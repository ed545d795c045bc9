"""Which predictions are right: one by one and all at once, ranked and generated, each by its task's own rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flanlab.report.predictions import is_right, ranked_options, which_are_right
from flanlab.results.files import PREDICTION_SCHEMA


def ranking(options: list[str], scores: list[float], references: list[str]) -> dict[str, Any]:
    return {"options": options, "option_scores": scores, "option_scores_without_end": scores[::-1], "references": references}


def generation(text: str | None, references: list[str], options: list[str] | None = None) -> dict[str, Any]:
    return {"options": options or [], "option_scores": [], "references": references, "generated": text}


def made_up() -> list[dict[str, Any]]:
    """Ranked and generated ones in turns; options of different number, ties, options that are alike, several right ones."""
    draw = np.random.default_rng(5)
    found = []
    for _ in range(300):
        options = [str(one) for one in draw.integers(0, 6, draw.integers(1, 6))]
        scores = [float(one) for one in draw.integers(-3, 0, len(options))]
        references = [options[place] for place in sorted({0, int(draw.integers(len(options)))})]
        found.append(ranking(options, scores, references))
        found.append(generation(str(draw.integers(0, 6)), references, options if draw.random() < 0.5 else None))
    scores = [float("-inf"), float("-inf"), float("nan")]
    return [*found, ranking(["a", "b", "c"], scores, ["c"]), ranking(["a", "b"], scores[:2], ["a"]), generation(None, ["x"])]


def test_all_at_once_is_one_by_one() -> None:
    predictions = made_up()
    expected = [is_right(one, ["exact_match"]) for one in predictions]
    assert 100 < sum(expected) < 500
    table = pa.Table.from_pylist(predictions, schema=PREDICTION_SCHEMA)
    cut = pa.concat_tables([table.slice(0, 101), table.slice(101)])
    assert which_are_right(cut, ["exact_match"]).tolist() == expected
    for kind in (slice(0, 600, 2), slice(1, 600, 2), slice(0, 0)):
        part = pa.Table.from_pylist(predictions[kind], schema=PREDICTION_SCHEMA)
        assert which_are_right(part, ["exact_match"]).tolist() == expected[kind]


@pytest.mark.parametrize(
    ("metrics", "generated", "reference", "expected"),
    [
        (["exact_match"], "The cat.", "cat", True),
        (["exact_match"], "-32", "32", False),  # the sign says something
        (["f1"], "-32", "32", True),  # SQuAD's rule drops it
        (["trivia_qa_f1"], "twenty-one", "twenty one", True),
        (["f1"], "twenty-one", "twenty one", False),
        (["drop_f1"], "3,000", "3000", True),
        (["edit_similarity"], "It rains.", "it rains", False),
    ],
)
def test_a_generated_answer_is_right_as_the_tasks_exact_match_counts_it(
    metrics: list[str], generated: str, reference: str, expected: bool
) -> None:
    assert is_right(generation(generated, [reference]), metrics) == expected


def test_options_are_ranked_by_their_shares() -> None:
    ranked = ranked_options(ranking(["a", "b", "c"], [-3.0, -1.0, -1.0], ["c"]))
    assert [(one.option, one.is_right) for one in ranked] == [("b", False), ("c", True), ("a", False)]
    assert [one.probability for one in ranked] == pytest.approx([0.468, 0.468, 0.063], abs=1e-3)
    assert ranked_options(generation("x", ["x"])) == []
