"""`ask`: one question, answered as an evaluation would have it answered; and a conversation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flanlab.cli.ask import _values
from flanlab.cli.main import app
from flanlab.data.sources import load_rows
from flanlab.errors import FlanlabError
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.experiments import ask as module
from flanlab.experiments.ask import ask
from flanlab.experiments.evaluate_model import evaluate_model
from flanlab.models.answering import Question
from flanlab.models.loading import LoadedModel
from flanlab.results.files import read_predictions
from flanlab.tasks.schema import Task
from tests.tiny import tiny_tasks


@pytest.fixture
def comments(tmp_path: Path) -> Task:
    return tiny_tasks(tmp_path / "tasks")[0]


def generated(model: LoadedModel, prompt: list[int], new_tokens: int) -> str:
    [(_, reply)] = model.answer([Question(prompt, [], new_tokens, model.encoder.ends)], 4096)
    return reply.text


def test_a_row_of_a_task_is_asked_as_in_an_evaluation(tiny: LoadedModel, comments: Task, tmp_path: Path) -> None:
    evaluate_model(tiny, [comments], EvaluationSettings(rows=20), tmp_path / "eval")
    asked = read_predictions(tmp_path / "eval" / "predictions" / "instruction" / "comments").to_pylist()
    text = load_rows(comments, "test")[0]["text"]
    for template in comments.forward_templates():
        [prediction] = [one for one in asked if (one["row"], one["template"]) == (0, template)]
        answer = ask(tiny, task=comments, row={"text": text}, template=template)
        assert (answer.prompt, answer.text) == (prediction["prompt"], prediction["generated"])
        assert {one.option: one.log_probability for one in answer.options} == pytest.approx(
            dict(zip(prediction["options"], prediction["option_scores"], strict=True))
        )
        assert answer.options[0].log_probability == pytest.approx(max(prediction["option_scores"]))
        assert sum(one.probability for one in answer.options) == pytest.approx(1)


@pytest.mark.parametrize("chat", [False, True])
def test_a_text_is_answered_after_the_turns_before_it(chat: bool, tiny: LoadedModel) -> None:
    style = "chat" if chat else "instruction"
    history = [("Which number comes after 3?", "four"), ("And then?", "five")]
    answer = ask(tiny, "And then?", history=history, chat=chat, new_tokens=9)
    prompt = tiny.encoder.encode("And then?", [], style, history).prompt  # type: ignore[arg-type]
    assert answer.text == generated(tiny, prompt, 9) != ""
    assert (answer.prompt, answer.options, answer.turns_dropped) == ("And then?", (), 0)


def test_turns_that_do_not_fit_are_dropped(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    history = [("a long story " * 10, "yes"), ("Which number comes after 3?", "four")]
    left = tiny.encoder.encode("And then?", [], "instruction", history[1:]).prompt
    monkeypatch.setattr(module, "PROMPT_TOKENS", len(left))
    answer = ask(tiny, "And then?", history=history, new_tokens=9)
    assert (answer.turns_dropped, answer.text) == (1, generated(tiny, left, 9))


@pytest.mark.parametrize(
    ("row", "template", "message", "hint"),
    [
        ({"txet": "Good"}, None, "has no field `txet`", "Did you mean text?"),
        ({"zzz": "Good"}, None, "has no field `zzz`", "Its fields are: text"),
        ({"label": "1"}, None, "show what is not given: text", "Add text"),
        ({}, None, "show what is not given: text", "Given: nothing"),
        ({"text": "Good"}, 4, "template 4 of comments is none that asks", "1, 2, 3"),
        ({"text": "Good"}, 9, "template 9 of comments is none that asks", "1, 2, 3"),
    ],
)
def test_wrong_values_are_told_before_a_model_is_loaded(
    row: dict[str, str], template: int | None, message: str, hint: str, comments: Task
) -> None:
    with pytest.raises(FlanlabError, match=message) as told:
        ask("no/such-model", task=comments, row=row, template=template)
    assert hint in told.value.hint


def test_fields_and_columns_are_both_taken_by_name(tiny: LoadedModel, make_task: Any) -> None:
    task = make_task(
        [{"sentence": "The soup was cold", "label": 0}] * 4,
        fields={"text": "{{ sentence | upper }}", "shown": "{{ shown | lower }}"},
        templates=[{"prompt": "{{ text }} {{ shown }}"}],
    )
    by_column = ask(tiny, task=task, row={"sentence": "Good", "shown": "SO"}, template=1)
    by_field = ask(tiny, task=task, row={"text": "GOOD", "shown": "SO"}, template=1)
    assert by_column.prompt.startswith("GOOD so\n")
    assert by_column == by_field
    with pytest.raises(FlanlabError, match=r"show what is not given: shown, text") as told:
        ask(tiny, task=task, row={"label": 1})
    assert "columns: sentence, shown" in told.value.hint


def test_numbers_in_a_list_stay_as_they_are_typed() -> None:
    assert str(_values(["sizes=[1.10, 2]", "size=1.10"])) == "{'sizes': [1.10, 2], 'size': '1.10'}"


def flan(*arguments: str, typed: str | None = None) -> Any:
    return CliRunner().invoke(app, ["ask", *arguments], input=typed)


def test_the_command_shows_prompt_options_and_answer(tiny_folder: Path, comments: Task, tmp_path: Path) -> None:
    named = [str(tiny_folder), "--task", str(tmp_path / "tasks" / "comments.yaml"), "text=A kind = warm [place]."]
    result = flan(*named, "--template", "3")
    assert result.exit_code == 0, result.output
    assert "A kind = warm [place]. Good or bad?\n\nOPTIONS:\n" in result.stdout
    assert {"bad", "good"} <= {line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")}
    assert "Generated: " in result.stdout
    found = json.loads(flan(*named, "--json").stdout)
    assert sum(one["probability"] for one in found["options"]) == pytest.approx(1)


def test_without_a_question_lines_are_answered_with_their_history(tiny_folder: Path, tiny: LoadedModel) -> None:
    result = flan(str(tiny_folder), "--new-tokens", "6", "--json", typed="seven?\nand then?\n\nseven?\n")
    assert result.exit_code == 0, result.output
    first, second, third = map(json.loads, result.stdout.splitlines())
    expected = ask(tiny, "and then?", history=[("seven?", first["text"])], new_tokens=6)
    assert (second["text"], second["options"]) == (expected.text, [])
    assert third == first, "an empty line forgets"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "rte", "=premise"], "'=premise' is not of the form NAME=VALUE"),
        (["--task", "rte", "a=1", "a=2"], "a is given twice"),
        (["--template", "2"], "is needed with --template"),
        (["Hello", "--tokenizer", "x"], "is needed with the options of remote models"),
    ],
)
def test_wrong_use_is_told(arguments: list[str], message: str) -> None:
    result = flan("no/such-model", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_a_text_beside_a_task_is_answered_with_the_names_of_its_fields(tmp_path: Path) -> None:
    for words, text in ((["It rained."], "It rained."), (["premise=It", "rained", "all day"], "rained all day")):
        result = flan(str(tmp_path), "--task", "rte", *words)
        assert result.exit_code == 1
        assert isinstance(result.exception, FlanlabError)
        assert f"{text!r} stands beside the task rte" in result.exception.message
        assert "hypothesis=TEXT premise=TEXT" in result.exception.hint
