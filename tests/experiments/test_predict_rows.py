"""`predict`: rows with and without answers get what an evaluation gives them, and a killed call resumes where it was."""

from __future__ import annotations

import csv
import errno
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow.parquet as pq
import pytest
import torch

from flanlab.data.sources import load_rows
from flanlab.errors import FlanlabError
from flanlab.evaluation.given import answer_row, given_task, table_of
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.experiments import predict_rows as module
from flanlab.experiments.evaluate_model import evaluate_model
from flanlab.experiments.predict_rows import predict
from flanlab.models.answering import Answer, Question
from flanlab.models.completions import Endpoint
from flanlab.models.loading import LoadedModel
from flanlab.results.files import read_predictions
from flanlab.tasks.schema import Task
from tests.completions_server import serve
from tests.task_files import generation_content
from tests.tiny import SENTIMENT_ROWS, stock_model, tiny_tasks, write_rows

CLASSES = {"options": ["yes", "no"], "answer": "{{ options[0] }}", "references": None, "metrics": ["accuracy"]}
MANY = [{"text": f"Comment {number}: the soup was {'good' if number % 3 else 'cold'}."} for number in range(70)]


@pytest.fixture
def comments(tmp_path: Path) -> Task:
    return tiny_tasks(tmp_path / "tasks")[0]


@pytest.fixture
def counting(tmp_path: Path) -> Task:
    return tiny_tasks(tmp_path / "tasks")[1]


class Counted(LoadedModel):
    """A model that counts what it is asked."""

    asked = 0

    def answer(self, questions: Sequence[Question], token_budget: int) -> Iterator[tuple[int, Answer]]:
        type(self).asked += len(questions)
        return super().answer(questions, token_budget)


def without(rows: Sequence[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != column} for row in rows]


def test_numbers_stay_as_they_are_written(tiny: LoadedModel, counting: Task, tmp_path: Path) -> None:
    assert [str(row["n"]) for row in table_of([{"n": 3}, {"n": 2.5}, {"n": None}]).to_pylist()] == ["3", "2.5", "None"]
    rows = '{"number": 3, "version": 1.10, "parts": [1e5, 2]}\n{"number": 2.5, "version": 2, "parts": []}\n'
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    for name in ("out.jsonl", "out.csv"):
        predict(tiny, counting, tmp_path / "rows.jsonl", tmp_path / name)
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert '"number": 3, "version": 1.10, "parts": [1e5, 2]' in lines[0]
    assert '"number": 2.5, "version": 2, "parts": []' in lines[1]
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        found = [[row["number"], row["version"], row["parts"]] for row in csv.DictReader(file)]
    assert found == [["3", "1.10", "[1e5, 2]"], ["2.5", "2", "[]"]]


@pytest.mark.parametrize("rows", [{"text": "Good"}, ["Good"], [3]], ids=str)
def test_rows_that_are_no_dicts_are_refused(rows: Any) -> None:
    with pytest.raises(FlanlabError, match="must be a dict") as raised:
        table_of(rows)
    assert "a list of dicts or a data frame" in raised.value.hint


def test_options_are_ranked_as_in_an_evaluation(tiny: LoadedModel, comments: Task, tmp_path: Path) -> None:
    settings = EvaluationSettings(prompt_tokens=120)
    long = [row | {"text": row["text"] * (12 if number % 2 else 1)} for number, row in enumerate(SENTIMENT_ROWS)]
    write_rows(tmp_path / "tasks" / "comments.jsonl", long)
    evaluate_model(tiny, [comments], settings, tmp_path / "eval")
    asked = read_predictions(tmp_path / "eval" / "predictions" / "instruction" / "comments").to_pylist()
    rows = [dict(row) for row in load_rows(comments, "test")]
    assert {one["shortened"] for one in asked} == {False, True}, "cut and whole prompts are among them"
    for template in comments.forward_templates():
        for given in (rows, without(rows, "label")):
            answers = predict(tiny, comments, given, templates=[template], settings=settings).rows()
            for answer, prediction in zip(answers, [one for one in asked if one["template"] == template], strict=True):
                scores = dict(zip(prediction["own_options"], prediction["option_scores"], strict=True))
                total = sum(map(math.exp, scores.values()))
                assert answer["probabilities"] == pytest.approx(
                    {name: math.exp(one) / total for name, one in scores.items()}, abs=1e-6
                )
                assert answer["prediction"] == max(scores, key=scores.__getitem__)
                right = prediction["own_options"][prediction["answer"]]
                assert answer["gold"] == (right if "label" in given[0] else None)


def test_a_vote_is_the_mean_over_templates(tiny: LoadedModel, comments: Task) -> None:
    rows = without(SENTIMENT_ROWS, "label")
    alone = [predict(tiny, comments, rows, templates=[number]).rows() for number in (1, 2, 3)]
    assert len({tuple(row["prediction"] for row in answers) for answers in alone}) > 1, "the templates do not all agree"
    for row, together in enumerate(predict(tiny, comments, rows, templates=[1, 2, 3])):
        mean = sum(answers[row]["probabilities"]["positive"] for answers in alone) / 3
        assert together["probabilities"]["positive"] == pytest.approx(mean)
        assert together["prediction"] == ("positive" if mean > 0.5 else "negative")
        assert together["probability"] == pytest.approx(max(mean, 1 - mean))
        said = [answers[row]["prediction"] for answers in alone]
        assert together["agreement"] == pytest.approx(said.count(together["prediction"]) / 3)


def test_a_text_is_generated_to_its_end(tiny: LoadedModel, tiny_folder: Path, counting: Task) -> None:
    settings = EvaluationSettings(new_tokens=12)
    [answer] = predict(tiny, counting, [{"number": 7}], settings=settings)
    prompt = tiny.encoder.encode("Which number comes after 7?", []).prompt
    ids, stock = list(prompt), stock_model(tiny_folder)
    for _ in range(12):
        with torch.inference_mode():
            token = int(stock(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in tiny.encoder.ends:
            break
        ids.append(token)
    assert answer["prediction"] == tiny.encoder.decode(ids[len(prompt) :]).strip() != ""
    assert (answer["probability"], answer["probabilities"], answer["gold"]) == (None, None, None)
    [known] = predict(tiny, counting, [{"number": 7, "next": "8"}], settings=settings)
    assert known == answer | {"gold": "8", "next": "8"}, "the row's answer shapes nothing"


TRANSLATION = {
    "fields": {"german": "{{ de }}", "english": "{{ en }}"},
    "answer": "{{ english }}",
    "templates": [
        {"prompt": "Translate into English: {{ german }}"},
        {"prompt": "Translate into German: {{ english }}", "target": "{{ german }}"},
    ],
}


def gold_of(task: Task, row: dict[str, Any], text: str, template: int) -> str | None:
    given = given_task(task, table_of([row]), [template])
    gold: str | None = answer_row(Mock(), given, 0, [(Mock(), Answer([], [], [], text))])["gold"]
    return gold


def test_a_text_is_right_if_it_is_one_of_the_references_by_exact_match() -> None:
    task = Task.model_validate(generation_content())
    row = {"country": "Bolivia", "names": ["Sucre", "La Paz"]}
    assert gold_of(task, row, "the la paz.", 1) == "the la paz."
    assert gold_of(task, row, "Lima", 1) == "Sucre"


def test_a_text_is_compared_with_what_its_template_asks_for() -> None:
    task = Task.model_validate(generation_content(**TRANSLATION, references=None))
    row = {"de": "Guten Tag", "en": "Good day"}
    assert [gold_of(task, row, "?", template) for template in (1, 2)] == ["Good day", "Guten Tag"]
    assert gold_of(task, {"en": "Good day"}, "Guten Tag", 2) is None, "the input is not the answer"


@pytest.mark.parametrize(
    ("changes", "templates"),
    [
        (TRANSLATION | {"references": None}, [1, 2]),
        ({"fields": {}, "templates": [{"prompt": "No?", "target": "{{ options[0] }}"}]} | CLASSES, [1]),
    ],
)
def test_answers_to_another_question_are_no_answers_of_the_task(changes: Any, templates: list[int], tiny: LoadedModel) -> None:
    task = Task.model_validate(generation_content(**changes))
    with pytest.raises(FlanlabError, match="has its own `target`, so what it asks for is not the task's answer"):
        predict(tiny, task, [{"de": "Guten Tag", "en": "Good day"}], templates=templates)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_output_holds_the_rows_and_their_answers(suffix: str, tiny: LoadedModel, comments: Task, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text('text,team,score,label\n"Lovely, ""really""\nso",sales,2.50,1\nAwful [b],support,3,\n', encoding="utf-8")
    out = tmp_path / "new" / f"answers{suffix}"
    returned = predict(tiny, comments, source, out).rows()
    assert [(row["row"], row["team"], row["gold"]) for row in returned] == [(0, "sales", "positive"), (1, "support", None)]
    if suffix == ".csv":
        read = list(csv.DictReader(out.open(encoding="utf-8", newline="")))
        assert [row["score"] for row in read] == ["2.50", "3"], "numbers stay as they were written"
        assert read[1]["gold"] == ""
        read = [row | {"probabilities": json.loads(row["probabilities"])} for row in read]
    elif suffix == ".jsonl":
        read = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    else:
        read = pq.read_table(out).to_pylist()
    for mine, theirs in zip(returned, read, strict=True):
        assert theirs["text"] == mine["text"]
        assert theirs["prediction"] == mine["prediction"]
        assert dict(theirs["probabilities"]) == mine["probabilities"]
    assert [path.name for path in out.parent.iterdir()] == [out.name], "nothing else is left there"


def test_a_killed_call_resumes_wherever_it_was(
    tiny: LoadedModel, comments: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Counted(tiny.model, tiny.encoder, tiny.name, tiny.folder, tiny.stamp)
    out, work = tmp_path / "answers.csv", tmp_path / ".answers.csv.unfinished"
    with monkeypatch.context() as kept:
        kept.setattr(module, "shutil", Mock())
        predict(model, comments, MANY, out)
    whole, blocks = out.read_bytes(), sorted(work.glob("rows-*.json"))
    assert [path.name for path in blocks] == ["rows-000000000.json", "rows-000000032.json", "rows-000000064.json"]
    times = {path: path.stat().st_mtime_ns for path in blocks}
    saved = shutil.copytree(work, tmp_path / "saved")
    # Killed before the first block, after it, after the second, and when all was there; and with a block missing in between.
    for there, left in (((), 70), ((0,), 38), ((0, 1), 6), ((0, 1, 2), 0), ((0, 2), 32)):
        out.unlink()
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(saved, work)
        for place, path in enumerate(blocks):
            if place not in there:
                path.unlink()
        Counted.asked = 0
        with monkeypatch.context() as kept:
            kept.setattr(module, "shutil", Mock())
            predict(model, comments, MANY, out)
        assert out.read_bytes() == whole
        assert Counted.asked == left
        assert all(blocks[place].stat().st_mtime_ns == times[blocks[place]] for place in there), "what is there stays"
    predict(model, comments, MANY, out)
    assert not work.exists()


def test_answers_to_something_else_are_not_mixed(
    tiny: LoadedModel, comments: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "answers.csv"
    with monkeypatch.context() as kept:
        kept.setattr(module, "shutil", Mock())
        predict(tiny, comments, MANY[:3], out)
    for changes, what in (
        ({"rows": MANY[:4]}, "another input"),
        ({"templates": [2]}, "another choice of templates"),
        ({"chat": True}, "another prompt style"),
        ({"seed": 1}, "another choice of settings"),
    ):
        with pytest.raises(FlanlabError, match=what):
            predict(tiny, comments, out=out, **{"rows": MANY[:3], **changes})  # type: ignore[arg-type]
    with torch.no_grad():
        next(tiny.model.parameters())[0, 0] += 1
    changed = replace(tiny)
    with pytest.raises(FlanlabError, match="another model") as told:
        predict(changed, comments, MANY[:3], out)
    assert "name another output" in told.value.hint


def test_a_model_that_computes_no_number_is_told_and_nothing_is_lost(tiny: LoadedModel, comments: Task, tmp_path: Path) -> None:
    class Overflows(Counted):
        asked = 0

        def answer(self, questions: Sequence[Question], token_budget: int) -> Iterator[tuple[int, Answer]]:
            for place, reply in super().answer(questions, token_budget):
                yield place, replace(reply, failed=True) if self.asked > 32 and place == 3 else reply

    out = tmp_path / "answers.csv"
    out.write_text("of an earlier call", encoding="utf-8")
    facts = (tiny.model, tiny.encoder, tiny.name, tiny.folder, tiny.stamp)
    with pytest.raises(FlanlabError, match=r"comments, row 35, template 1: the model computes no number"):
        predict(Overflows(*facts), comments, MANY, out)
    assert out.read_text(encoding="utf-8") == "of an earlier call"
    assert [path.name for path in (tmp_path / ".answers.csv.unfinished").glob("rows-*")] == ["rows-000000000.json"]
    sound = Counted(*facts)
    Counted.asked = 0
    predict(sound, comments, MANY, out)
    assert Counted.asked == len(MANY) - 32
    assert out.read_text(encoding="utf-8").startswith("row,text,")


def test_an_output_that_cannot_be_written_out_leaves_the_earlier_one(
    tiny: LoadedModel, comments: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(joined: Any, path: Path) -> None:
        path.write_text("row,te", encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    out = tmp_path / "answers.csv"
    out.write_text("of an earlier call", encoding="utf-8")
    with monkeypatch.context() as full:
        full.setattr(module, "_WRITERS", {".csv": fill_the_disk})
        with pytest.raises(OSError, match="No space"):
            predict(tiny, comments, MANY[:3], out)
    assert out.read_text(encoding="utf-8") == "of an earlier call"
    predict(tiny, comments, MANY[:3], out)
    assert [path.name for path in tmp_path.glob("*answers*")] == ["answers.csv"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("text,label\nGood\n", "line 2: has 1 cells, but the header has 2"),
        ('text,label\n"Good,1\n', "line 2: a quotation mark opens a cell"),
        ("text,label\n", "holds no rows"),
        ("comment,label\nGood,1\n", "show what is not given: text"),
        (
            "text,label\nGood,1\n,1\nBad,1\n,0\n",
            r"^2 of 4 rows cannot be asked: 1, 3 .*row 1, template 1, prompt: a value is missing(.|\n)*in this row: text"
            r"(.|\n)*Here `filter` does not apply",
        ),
        ("text,label\nGood,1\nBad,2\n", r"row 1, answer: \[2\] does not exist"),
        ("text,prediction\nGood,x\n", "has a column `prediction`"),
    ],
)
def test_rows_that_cannot_be_asked_are_told_before_a_model_is_loaded(
    rows: str, message: str, comments: Task, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text(rows, encoding="utf-8")
    with pytest.raises(FlanlabError, match=message):
        predict("no/such-model", comments, tmp_path / "in.csv", tmp_path / "out.csv")
    assert not list(tmp_path.glob("*out.csv*"))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("out.txt", "cannot write files"),
        ("in.csv", "is the input"),
        ("in.csv/out.csv", r"in\.csv cannot be written to: Not a directory"),
    ],
)
def test_outputs_that_cannot_be_written_are_told(out: str, message: str, comments: Task, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text\nGood\n", encoding="utf-8")
    with pytest.raises(FlanlabError, match=message):
        predict("no/such-model", comments, tmp_path / "in.csv", tmp_path / out)


def test_a_second_process_is_refused(tiny: LoadedModel, comments: Task, tmp_path: Path) -> None:
    class Begins(Counted):
        def answer(self, questions: Sequence[Question], token_budget: int) -> Iterator[tuple[int, Answer]]:
            with pytest.raises(FlanlabError, match="another process"):
                predict(tiny, comments, MANY[:2], tmp_path / "out.csv")
            return super().answer(questions, token_budget)

    predict(Begins(tiny.model, tiny.encoder, tiny.name, tiny.folder, tiny.stamp), comments, MANY[:2], tmp_path / "out.csv")


@pytest.mark.parametrize("ranks", [True, False])
def test_an_endpoint_answers_as_the_model_does(ranks: bool, tiny: LoadedModel, tiny_folder: Path, comments: Task) -> None:
    rows = without(SENTIMENT_ROWS, "label")[:4]
    here = predict(tiny, comments, rows).rows()
    with serve(tiny_folder, log_probabilities=ranks, says=None if ranks else "Positive.") as served:
        there = predict("tiny", comments, rows, endpoint=Endpoint(served.url, str(tiny_folder))).rows()
    for mine, theirs in zip(here, there, strict=True):
        if ranks:
            assert theirs["probabilities"] == pytest.approx(mine["probabilities"], abs=1e-4)
        else:
            assert (theirs["prediction"], theirs["probabilities"]) == ("positive", None)


def test_rows_of_a_task_with_options_of_their_own(tiny: LoadedModel, make_task: Any) -> None:
    task = make_task(
        [{"question": "Which?", "choices": ["a", "b"], "right": 0}] * 4,
        fields={"question": "{{ question }}", "choices": "{{ choices }}"},
        options="{{ choices }}",
        answer="{{ options[right] }}",
        templates=[{"prompt": "{{ question }}"}],
        baseline=None,
    )
    rows = [{"question": "Where?", "choices": ["here", "there"]}, {"question": "When?", "choices": ["now", "then", "never"]}]
    first, second = predict(tiny, task, rows)
    assert [name for name, _ in first["probabilities"]] == ["here", "there"]
    assert sum(share for _, share in second["probabilities"]) == pytest.approx(1)
    assert second["prediction"] in ("now", "then", "never")


def test_a_file_of_rows_is_read(tiny: LoadedModel, comments: Task, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", MANY[:3])
    assert predict(tiny, comments, tmp_path / "in.jsonl").rows() == predict(tiny, comments, MANY[:3]).rows()


def test_numbers_of_rows_in_memory_keep_their_text() -> None:
    assert [str(row["n"]) for row in table_of([{"n": 7}, {"n": 2.5}]).to_pylist()] == ["7", "2.5"]
    with pytest.raises(FlanlabError, match="do not go together"):
        table_of([{"n": 2.5}, {"n": True}])
