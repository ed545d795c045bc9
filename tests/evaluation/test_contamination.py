"""Overlap of evaluation rows with a corpus: verdicts by hand, frequent n-grams, and scores apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flanlab.data.ngrams import Piece
from flanlab.data.rendering import prepare_row, render
from flanlab.evaluation.contamination import (
    EvaluatedRow,
    evaluated_rows,
    find_overlaps,
    refuse_other_rows,
    scores_apart,
    summarize,
)
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.results.files import PREDICTION_SCHEMA
from flanlab.tasks.schema import Task
from tests.evaluation.test_results import prediction, write
from tests.task_files import refusal, rows_in_memory, task_in_memory

LONG = [f"w{number}" for number in range(20)]


def row(index: int, *fields: str, answer: str = "yes", task: str = "comments") -> EvaluatedRow:
    return EvaluatedRow(task, index, fields, answer)


def documents(*texts: str) -> list[Piece]:
    return [Piece("corpus.jsonl", f"line {number}", text) for number, text in enumerate(texts, start=1)]


def verdicts(rows: list[EvaluatedRow], corpus: list[Piece], sizes: tuple[int, ...] = (13,), **how: Any) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = find_overlaps(rows, corpus, sizes, **how)[0].to_pylist()
    return [record for record in records if record["compared"] == "input"]


def test_a_row_overlaps_where_any_of_its_ngrams_occurs() -> None:
    rows = [row(0, " ".join(LONG))]
    held, missed = " ".join(LONG[4:17]), " ".join(LONG[4:16])
    found, _ = find_overlaps(rows, documents("other", f"Before: {held.upper()}!"), (13, 8))
    at_13, _, at_8, _ = sorted(found.to_pylist(), key=lambda record: (-record["n"], record["compared"]))
    assert (at_13["verdict"], at_13["ngram"], at_13["file"], at_13["place"], at_13["documents"]) == (
        *("overlapping", held, "corpus.jsonl", "line 2", 1),
    )
    assert at_8["ngram"] == " ".join(LONG[4:12])
    [record] = verdicts(rows, documents(missed))
    assert (record["verdict"], record["ngram"], record["words"]) == ("clean", None, 20)


def test_text_without_spaces_is_searched_by_its_characters() -> None:
    held = "我们每天早上在学校学习外语"
    rows = [row(0, f"听说{held},是吗?"), row(1, "他明天下午去医院看望一位生病的老朋友")]
    overlapping, clean = verdicts(rows, documents(f"前面的话,{held}。"))
    assert (overlapping["verdict"], overlapping["ngram"]) == ("overlapping", " ".join(held))
    assert (clean["verdict"], clean["words"]) == ("clean", 18)


def test_the_first_ngram_of_the_row_is_told_not_the_first_of_the_corpus() -> None:
    [record] = verdicts([row(0, " ".join(LONG))], documents(" ".join(LONG[7:]), " ".join(LONG[2:15])))
    assert record["ngram"] == " ".join(LONG[2:15])
    assert record["place"] == "line 2"


@pytest.mark.parametrize(("count", "verdict"), [(13, "overlapping"), (12, "overlapping"), (8, "overlapping"), (7, "too short")])
def test_a_short_row_is_looked_for_whole_down_to_eight_words(count: int, verdict: str) -> None:
    short = LONG[:count]
    [record] = verdicts([row(0, " ".join(short))], documents(" ".join(LONG)))
    assert record["verdict"] == verdict
    if count >= 8:
        assert record["ngram"] == " ".join(short)
        [record] = verdicts([row(0, " ".join(short))], documents(" ".join(LONG[: count - 1])))
        assert record["verdict"] == "clean"


def test_input_alone_and_with_its_answer_are_told_apart() -> None:
    rows = [row(0, " ".join(LONG[:10]), answer=" ".join(LONG[10:15]))]
    found, _ = find_overlaps(rows, documents(" ".join(LONG[2:15])), (13,))
    counts = summarize(found)["comments"]["13"]
    assert counts["input"] == {"rows": 1, "overlapping": 0, "clean": 1, "too_short": 0, "only_frequent": 0}
    assert counts["input_and_answer"]["overlapping"] == 1


def test_ngrams_frequent_in_the_evaluation_rows_are_ignored() -> None:
    boilerplate = " ".join(LONG[:13])
    rows = [row(number, f"unlike {number} {boilerplate} other {number}") for number in range(11)]
    corpus = documents(boilerplate)
    assert {record["verdict"] for record in verdicts(rows[:10], corpus)} == {"overlapping"}
    ignored = verdicts(rows, corpus)
    assert {(record["verdict"], record["only_frequent"]) for record in ignored} == {("clean", True)}
    assert {record["verdict"] for record in verdicts(rows, corpus, frequent=11)} == {"overlapping"}
    assert {record["verdict"] for record in verdicts(rows, corpus, frequent_in="nowhere")} == {"overlapping"}


def test_a_passage_that_many_questions_share_is_one_place() -> None:
    passage = " ".join(LONG[:13])
    rows = [row(number, passage, f"question {number}") for number in range(30)]
    assert {record["verdict"] for record in verdicts(rows, documents(passage))} == {"overlapping"}


def test_ngrams_frequent_in_the_corpus_are_ignored_on_request() -> None:
    """GPT-3's rule: more than ten documents."""
    rows = [row(0, " ".join(LONG[:13]))]
    ten, eleven = (documents(*[" ".join(LONG)] * count) for count in (10, 11))
    assert verdicts(rows, ten, frequent_in="corpus")[0]["documents"] == 10
    assert verdicts(rows, eleven, frequent_in="corpus")[0]["only_frequent"]
    assert verdicts(rows, eleven)[0]["documents"] == 11


def test_only_fields_that_forward_templates_show_are_compared() -> None:
    task = task_in_memory(
        fields={"text": "{{ text }}", "turns": "{{ turns }}", "hidden": "{{ label }}", "inverted": "{{ 'inverted' }}"},
        templates=[
            {"prompt": "Good or bad? {{ text }}", "options": ["bad", "good"]},
            {"prompt": "{% for turn in turns %}{{ turn }} {% endfor %}Well?"},
            {"direction": "inverted", "prompt": "{{ answer }} {{ inverted }}", "target": "{{ text }}"},
        ],
    )
    rows = rows_in_memory([{"text": "Fine.", "turns": ["a", "b"], "label": 0}, {"text": "No.", "turns": ["c"], "label": 1}])
    (found,) = evaluated_rows(task, rows, [1])
    assert (found.task, found.row, found.fields) == ("reviews", 1, ("No.", "c"))
    assert found.answer == "positive", "in the words of the task, which the second template keeps"
    assert found.text("input_and_answer") == "No.\nc\npositive"


def test_scores_apart_are_those_of_the_rows(make_task: Callable[..., Task], tmp_path: Path) -> None:
    task = make_task(name="comments")
    predictions = [prediction(index, template, index % 3 == 0) for index in range(9) for template in (1, 2)]
    held = {0, 1, 3}
    rows = [row(index, " ".join(f"{word}of{index}" for word in LONG)) for index in range(8)] + [row(8, "too short")]
    table, _ = find_overlaps(rows, documents(*(rows[index].fields[0] for index in held)), (13, 8))
    found = scores_apart(task, {"tuned": write(tmp_path / "tuned", predictions, parts=2)}, EvaluationSettings(), table, 13)
    assert found["main_metric"] == "accuracy"
    assert {subset: found[subset]["rows"] for subset in ("all", "clean", "overlapping")} == {
        "all": 9,
        "clean": 5,
        "overlapping": 3,
    }
    means = {subset: found[subset]["scores"]["accuracy"]["tuned"]["mean"] for subset in ("all", "clean", "overlapping")}
    assert means == pytest.approx({"all": 3 / 9, "clean": 1 / 5, "overlapping": 2 / 3})
    low, high = found["clean"]["scores"]["accuracy"]["tuned"]["interval"]
    assert low < 1 / 5 < high
    nothing, _ = find_overlaps(rows, documents("nothing"), (13,))
    assert "scores" not in scores_apart(task, {"tuned": tmp_path / "tuned"}, EvaluationSettings(), nothing, 13)["overlapping"]


def test_rows_that_belong_together_are_scored_together(make_task: Callable[..., Task], tmp_path: Path) -> None:
    task = make_task(name="comments", group="{{ text }}")
    predictions = [prediction(index, 1, True, group="abbcc"[index]) for index in range(5)]
    rows = [row(index, " ".join(f"{word}of{index}" for word in LONG)) for index in range(4)] + [row(4, "too short")]
    table, _ = find_overlaps(rows, documents(rows[2].fields[0]), (13,))
    found = scores_apart(task, {"tuned": write(tmp_path / "tuned", predictions)}, EvaluationSettings(), table, 13)
    assert {subset: found[subset]["rows"] for subset in ("all", "clean", "overlapping")} == {
        "all": 5,
        "clean": 1,
        "overlapping": 2,
    }


def test_predictions_of_other_rows_are_refused(make_task: Callable[..., Task], tmp_path: Path) -> None:
    task = make_task()
    rows = rows_in_memory([{"text": f"Comment {number}.", "label": number % 2} for number in range(4)])
    prompts = [render(task, 1, prepare_row(task, rows[index], index), [1, 0]).prompt for index in range(4)]
    made = pa.Table.from_pylist(
        [prediction(index, 1, True, prompt=prompt) for index, prompt in enumerate(prompts)], schema=PREDICTION_SCHEMA
    )
    refuse_other_rows(task, rows, made)
    moved = rows_in_memory([{"text": f"Comment {number}.", "label": number % 2} for number in range(1, 5)])
    assert "row 0, template 1" in refusal(lambda: refuse_other_rows(task, moved, made)).message
    fewer = rows_in_memory([{"text": f"Comment {number}.", "label": number % 2} for number in range(3)])
    assert "row 3" in refusal(lambda: refuse_other_rows(task, fewer, made)).message


def test_table_survives_parquet(tmp_path: Path) -> None:
    table, _ = find_overlaps([row(0, " ".join(LONG))], documents(" ".join(LONG)), (13, 8))
    pq.write_table(table, tmp_path / "table.parquet")
    assert pq.read_table(tmp_path / "table.parquet").equals(table)
