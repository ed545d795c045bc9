"""Examples are chosen by rule and spread over templates and rows."""

from __future__ import annotations

from typing import Any

from flanlab.report.page import Facts, Group
from flanlab.report.plots import running_mean
from flanlab.report.predictions import example_blocks, is_right, spread
from flanlab.report.training import TrainingStep


def records(templates: list[int], rows: int) -> list[dict[str, int]]:
    return [{"template": template, "row": row} for row in range(rows) for template in templates]


def pairs(chosen: list[dict[str, int]]) -> list[tuple[int, int]]:
    return [(record["template"], record["row"]) for record in chosen]


def test_templates_are_evenly_spaced_and_rows_differ() -> None:
    assert pairs(spread(records([1, 2, 3, 4, 5, 6, 7], 9), 3)) == [(1, 0), (4, 1), (7, 2)]


def test_order_of_the_file_does_not_matter() -> None:
    given = records([1, 2, 3, 4, 5], 9)
    assert spread(given[::-1], 3) == spread(given, 3)


def test_few_templates_take_turns() -> None:
    assert pairs(spread(records([2, 5], 9), 3)) == [(2, 0), (5, 1), (2, 2)]


def test_rows_taken_elsewhere_are_passed_over() -> None:
    assert pairs(spread(records([1, 2, 3], 9), 3, frozenset({0, 2}))) == [(1, 1), (2, 3), (3, 4)]


def test_few_records_are_all_shown() -> None:
    assert len(spread(records([3], 2), 3)) == 2
    assert pairs(spread(records([1, 2], 1), 3)) == [(1, 0), (2, 0)]
    assert spread([], 3) == []


def test_any_right_option_makes_an_example_right() -> None:
    row = {
        "template": 1,
        "prompt": "Who?",
        "options": ["Ann", "Ben", "Cleo"],
        "answer": 0,
        "references": ["Ann", "Cleo"],
        "generated": None,
    }
    chosen = [[-3.0, -2.0, -1.0], [-3.0, -1.0, -2.0]]
    predictions: list[dict[str, Any]] = [
        {**row, "row": number, "option_scores": scores} for number, scores in enumerate(chosen)
    ]
    assert [is_right(record, ["accuracy"]) for record in predictions] == [True, False]
    shown = [block for block in example_blocks(predictions, ["accuracy"]) if isinstance(block, Group)]
    assert [block.kind for block in shown] == ["fold example right", "fold example wrong"]
    facts = shown[0].blocks[1]
    assert isinstance(facts, Facts)
    assert facts.facts["Right answer"] == "<q>Ann</q> or <q>Cleo</q>"


def test_the_running_mean_weighs_by_target_tokens() -> None:
    def step(number: int, loss: float, tokens: int) -> TrainingStep:
        return TrainingStep(step=number, loss=loss, examples=1, tokens=9, target_tokens=tokens, seconds=1.0)

    steps = [step(number, 1.0, 1) for number in range(1, 19)] + [step(19, 2.0, 30), step(20, 4.0, 10)]
    assert running_mean(steps)[-3:] == [1.0, 61 / 31, 2.5]
