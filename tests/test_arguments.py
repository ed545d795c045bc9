"""Odd arguments of the public functions: the right result, or an error that names the argument."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import flanlab
from flanlab.arguments import checked
from flanlab.evaluation.given import table_of
from tests.task_files import refusal, task_content, write_task_file
from tests.tiny import make_config

fl: Any = flanlab  # because arguments are wrong on purpose

SMALL: dict[str, Any] = {"rows": 2, "templates_per_row": 1, "generate": False, "pmi": False}


OPTIONS = ["yes", "no", "yes, often"]


@pytest.mark.parametrize(
    "options",
    [tuple(OPTIONS), (one for one in OPTIONS), np.array(OPTIONS), pd.Series(OPTIONS), dict.fromkeys(OPTIONS).keys()],
    ids=lambda options: type(options).__name__,
)
def test_any_iterable_is_a_list(options: Any, model: Any) -> None:
    assert fl.score(model, "Is it?", options).rows() == fl.score(model, "Is it?", OPTIONS).rows()


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda model: fl.score(model, "Is it?", "yes"), "score: `options` is 'yes'"),
        (lambda model: fl.score(model, "Is it?", [1, 2]), "score: `options` is [1, 2]. Input should be a valid string"),
        (lambda model: fl.score(model, None, ["yes"]), "score: `prompt` is None"),
        (lambda model: fl.score(model, "Is it?", ["yes"], style="plain"), "should be 'instruction', 'chat' or 'baseline'"),
        (lambda model: fl.evaluate(model, "visitor_comments", styles="chat"), "evaluate: `styles` is 'chat'"),
        (lambda model: fl.evaluate(model, "visitor_comments", styles=["plain"]), "evaluate: `styles` is ['plain']"),
        (lambda model: fl.evaluate(model, "visitor_comments", styles=[]), "No prompt style is named"),
        (lambda model: fl.evaluate(model, "visitor_comments", seed="x"), "evaluate: `seed` is 'x'"),
        (lambda model: fl.evaluate(model, "visitor_comments", seed=None), "evaluate: `seed` is None"),
        (lambda model: fl.evaluate(model, None), "evaluate: `tasks` is None"),
        (lambda model: fl.evaluate(model, []), "No task is named"),
        (lambda model: fl.predict(model, "visitor_comments", [{"comment": "a"}], templates=1), "predict: `templates` is 1"),
        (lambda model: fl.load_task(None), "load_task: `name` is None"),
        (lambda model: fl.load_task("visitor_comments").render(options="shuffled"), "render: `options` is 'shuffled'"),
        (lambda model: fl.load_task("visitor_comments").render(split="validation"), "should be 'train', 'dev' or 'test'"),
        (lambda model: fl.load_model("a", model.encoder.tokenizer), "A model by name has its own tokenizer"),
        (lambda model: fl.load_model(model.folder, device="gpu"), "The device gpu cannot be used"),
        (lambda model: fl.load_model(model.folder, device="meta"), "The device meta cannot be used"),
        (lambda model: fl.load_model(model.model.model, model.encoder.tokenizer), "LlamaModel has no output layer"),
        (
            lambda model: fl.check_contamination("visitor_comments", "corpus.txt", "out"),
            "check_contamination: `corpus` is 'corpus.txt'",
        ),
    ],
)
def test_what_is_no_argument_is_refused_by_name(call: Callable[[Any], object], told: str, model: Any) -> None:
    assert told in refusal(lambda: call(model)).message


def test_templates_may_be_a_generator_or_an_array(model: Any) -> None:
    rows = [{"comment": "Fine.", "place": "a hotel"}]
    expected = fl.predict(model, "visitor_comments", rows, templates=[1, 2]).rows()
    for templates in ((number for number in (1, 2)), np.array([1, 2])):
        assert fl.predict(model, "visitor_comments", rows, templates=templates).rows() == expected


def test_a_number_of_numpy_is_a_number(model: Any, tmp_path: Path) -> None:
    run = fl.evaluate(model, "visitor_comments", seed=np.int64(1), out=tmp_path, **SMALL)
    assert run is not None
    assert next(iter(run.results.variants.values())).seed == 1


def test_settings_may_be_a_dict(model: Any) -> None:
    run = fl.evaluate(model, "visitor_comments", settings=SMALL)
    assert run is not None


def test_halves_of_characters_are_replaced(model: Any) -> None:
    assert fl.score(model, "a \ud800?", OPTIONS).rows() == fl.score(model, "a \ufffd?", OPTIONS).rows()


# ---- tasks


def test_two_tasks_of_one_name_are_refused_unless_they_are_the_same(model: Any) -> None:
    task = fl.load_task("visitor_comments")
    assert fl.load_tasks([task, "visitor_comments", task.model_copy(deep=True)]) == [task]
    other = task.model_copy(update={"templates": task.templates[:1]})
    assert "Two tasks that differ are called `visitor_comments`" in refusal(lambda: fl.load_tasks([task, other])).message


def test_a_task_that_was_changed_is_checked_again(model: Any) -> None:
    emptied = fl.load_task("visitor_comments").model_copy(deep=True)
    emptied.templates.clear()
    assert "at least one template must be forward" in refusal(lambda: fl.evaluate(model, emptied, **SMALL)).message
    longer = fl.load_task("visitor_comments").model_copy(deep=True)
    assert isinstance(longer.options, list)
    longer.options.append("mixed")
    assert "must match the task's fixed list" in refusal(lambda: fl.evaluate(model, longer, **SMALL)).message
    raw = longer.model_copy(update={"templates": [{"prompt": "a"}]})
    assert "'dict' object has no attribute" in refusal(lambda: fl.evaluate(model, raw, **SMALL)).message


def test_the_files_of_a_task_made_in_python_are_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = task_content()
    task = fl.Task.model_validate(content)
    assert "reviews.yaml: source.splits" in refusal(task.render).message
    write_task_file(tmp_path, content)
    monkeypatch.chdir(tmp_path)
    assert task.render() == fl.load_task(tmp_path / "reviews.yaml").render()


# ---- models


def test_a_model_without_weights_is_refused(model: Any) -> None:
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(make_config("llama", 340))
    assert "has weights without content" in refusal(lambda: fl.load_model(empty, model.encoder.tokenizer)).message


def test_a_model_of_several_number_types_is_refused(model_folder: Path) -> None:
    mixed = AutoModelForCausalLM.from_pretrained(model_folder)
    mixed.lm_head.half()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    assert "LlamaForCausalLM cannot compute" in refusal(lambda: fl.load_model(mixed, tokenizer)).message


def test_a_score_that_is_no_number_is_refused(model_folder: Path) -> None:
    found = fl.load_model(model_folder, device="cpu")
    found.model.model.norm.weight.data[0] = float("nan")
    assert "computes no number (NaN or infinity)" in refusal(lambda: fl.score(found, "Is it?", OPTIONS)).message


# ---- data frames

ROWS = [{"comment": "Fine."}, {"comment": "Cold soup."}]


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(ROWS, index=["a", "b"]),
        pd.DataFrame({"comment": [b"Fine.", b"Cold soup."]}),
        pd.DataFrame({"comment": pd.Categorical(["Fine.", "Cold soup."])}),
        pa.table({"comment": pa.array([b"Fine.", b"Cold soup."])}),
        pa.record_batch({"comment": ["Fine.", "Cold soup."]}),
    ],
    ids=["index", "bytes", "category", "binary", "batch"],
)
def test_frames_are_rows(frame: Any, model: Any) -> None:
    def said(rows: Any) -> list[Any]:
        return [(row["comment"], row["probability"]) for row in fl.predict(model, "visitor_comments", rows).rows()]

    assert said(frame) == said(ROWS)


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (pd.concat([pd.DataFrame(ROWS)] * 2, axis=1), "Duplicate column names"),
        (pa.Table.from_arrays([pa.array(["a"])] * 2, names=["comment", "comment"]), "the column comment occurs twice"),
        (pd.DataFrame({"comment": ["a", "b"], "more": [1, "b"]}), "The data frame cannot be read"),
        (pd.Series(["a"], name="comment"), "The data frame cannot be read"),
        (pd.DataFrame({"comment": []}), "The input holds no rows"),
    ],
)
def test_frames_that_are_no_rows(frame: Any, told: str, model: Any) -> None:
    assert told in refusal(lambda: fl.predict(model, "visitor_comments", frame)).message


@pytest.mark.parametrize(
    ("values", "printed"),
    [
        ([np.float32(0.1), np.float16(3.14)], ["0.1", "3.14"]),
        ([np.int64(3), 2.5], ["3", "2.5"]),
        ([Decimal("1.10"), Decimal("2.5")], ["1.10", "2.5"]),
        ([[np.float32(0.1)], np.array([0.7], np.float32)], ["[0.1]", "[0.7]"]),
    ],
)
def test_numbers_of_rows_are_printed_with_their_own_digits(values: list[Any], printed: list[str]) -> None:
    cells = table_of([{"value": value} for value in values]).column("value").to_pylist()
    assert [str(cell) for cell in cells] == printed


def test_labels_of_pandas_that_are_fractions_because_some_are_missing(model: Any) -> None:
    frame = pd.DataFrame({"comment": ["a", "b", "c"], "label": [0, None, 1]})
    assert fl.predict(model, "visitor_comments", frame).column("gold") == ["negative", None, "positive"]


def test_predictions_may_be_a_frame(model: Any) -> None:
    frame = pd.DataFrame({"comment": ["a", "b", "c"], "label": [0, None, 1]})
    found = fl.predict(model, "visitor_comments", frame)
    expected = fl.accuracy_by(found).rows()
    assert expected[0]["rows"] == 2
    as_pandas = found.to_pandas()
    assert fl.accuracy_by(as_pandas).rows() == expected
    # A missing answer is NaN in the dicts of pandas, and not the class "nan".
    records = [{**row, "gold": float("nan") if row["gold"] is None else row["gold"]} for row in found.rows()]
    assert fl.accuracy_by(records).rows() == expected
    assert fl.confusion(as_pandas).rows() == fl.confusion(found.rows()).rows()


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"prediction": "1", "gold": "1.0", "probabilities": {"0": 0.4, "1": 0.6}}, "'1.0' is none of the options"),
        ({"prediction": 1, "gold": 1, "probabilities": '{"00": 0.4, "01": 0.6}'}, "'1' is none of the options"),
        ({"prediction": "1", "gold": "1", "probabilities": "{'0': 0.4}"}, "no mapping of options to numbers"),
    ],
)
def test_predictions_that_another_program_has_changed(record: dict[str, Any], told: str) -> None:
    assert told in refusal(lambda: fl.accuracy_by([record])).message


def test_a_table_is_asked_for_values_of_its_columns_type() -> None:
    table = fl.Table.from_rows([{"task": "rte", "rows": 2}])
    assert len(table.where(task="rte", rows=2)) == len(table.where(rows=2.0)) == 1
    assert "The column task has values of the type string, and 3 is none" in refusal(lambda: table.where(task=3)).message


def test_the_checks_leave_a_function_as_it_is() -> None:
    assert fl.score.__name__ == "score"
    assert fl.score.__doc__
    with pytest.raises(TypeError, match="missing a required argument"):
        checked(fl.load_task)()
