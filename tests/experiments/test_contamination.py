"""`flan contamination` as a whole: a recipe's mixture, an export of it, and the rows of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from flanlab.data.corpus import read_corpus
from flanlab.data.mixture_card import export_mixture
from flanlab.data.ngrams import words
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.experiments.contamination import check_contamination, predicted_tasks
from flanlab.experiments.evaluate_model import evaluate_model
from flanlab.experiments.recipe import make_mixture, make_plan, read_recipe
from flanlab.models.loading import load_encoder
from flanlab.progress import meter
from flanlab.report.contamination import write_contamination_figure
from flanlab.tasks.loading import load_collection
from flanlab.tasks.schema import Task
from tests.task_files import refusal
from tests.tiny import SENTIMENT_TASK, recipe_content, write_recipe, write_rows, write_tasks

WORDS = words("the small grey cat sat down beside the warm stove and slept until the morning came")
AT_8 = (8,)


def long_row(number: int) -> dict[str, Any]:
    return {"text": " ".join(f"{word}{number}" for word in WORDS), "label": number % 2}


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    """`comments` (held out) with rows 0 to 9; `twin`, which trains on two of its rows; `counting`."""
    folder = write_tasks(tmp_path / "tasks")
    write_rows(folder / "comments.jsonl", [long_row(number) for number in range(20)])
    twin = {
        **SENTIMENT_TASK,
        "name": "twin",
        "cluster": "miscellaneous",
        "source": {"files": {"train": "twin.jsonl", "test": "twin.jsonl"}},
    }
    (folder / "twin.yaml").write_text(yaml.safe_dump(twin, sort_keys=False), encoding="utf-8")
    write_rows(folder / "twin.jsonl", [long_row(number) for number in (12, 15, 30, 31)])
    return load_collection(folder)


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Path) -> Path:
    write_recipe(tmp_path, recipe_content(tiny_folder, steps=40, tokens_per_step=500))
    return tmp_path / "recipe.yaml"


def overlapping(folder: Path, name: str = "comments") -> dict[int, str]:
    rows = pq.read_table(folder / "contamination.parquet").to_pylist()
    return {
        row["row"]: row["place"]
        for row in rows
        if row["task"] == name and row["compared"] == "input" and row["verdict"] == "overlapping"
    }


def test_rows_of_the_test_split_that_a_recipe_trains_on_are_found(tasks: list[Task], recipe: Path, tmp_path: Path) -> None:
    comments = [task for task in tasks if task.name == "comments"]
    summary = check_contamination(comments, [recipe], tmp_path / "out", sizes=AT_8)
    assert json.loads((tmp_path / "out" / "contamination.json").read_text()) == summary
    assert summary["tasks"]["comments"]["8"]["input"]["rows"] == 10
    found = overlapping(tmp_path / "out")
    assert set(found) == {2, 5}, "the test split begins at row 10, and twin trains on rows 12 and 15"
    assert all(": twin, row " in place for place in found.values())

    mixture = make_mixture(make_plan(read_recipe(recipe)))
    examples = summary["corpus"]["documents"]
    with meter("", examples) as bar:
        export_mixture(mixture, load_encoder(read_recipe(recipe).model), examples, tmp_path / "mixture.jsonl", bar)
    of_export = check_contamination(comments, [tmp_path / "mixture.jsonl"], tmp_path / "out", sizes=AT_8)
    assert of_export["corpus"]["words"] == summary["corpus"]["words"]
    assert set(overlapping(tmp_path / "out")) == {2, 5}


def test_predicted_rows_are_looked_for_and_scored_apart(tasks: list[Task], tiny_folder: Path, tmp_path: Path) -> None:
    results = evaluate_model(str(tiny_folder), tasks, EvaluationSettings(rows=8, generate=False), tmp_path / "eval")
    assert predicted_tasks(tmp_path / "eval") == ["comments", "counting", "twin"]
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write_rows(corpus / "held.jsonl", [long_row(number) for number in (11, 12, 13, 14)])
    (corpus / "other.txt").write_text(f"something else\n{long_row(15)['text']}\n", encoding="utf-8")
    summary = check_contamination(tasks, [corpus], tmp_path / "out", sizes=AT_8, predictions=tmp_path / "eval")
    predicted = {row for (row, _) in pairs(tmp_path / "eval", "comments")}
    found = overlapping(tmp_path / "out")
    assert set(found) == predicted & {1, 2, 3, 4, 5}
    assert found.get(5, "line 2") == "line 2"
    scores = summary["scores"]["comments"]["8"]
    assert (scores["all"]["rows"], scores["overlapping"]["rows"]) == (8, len(found))
    assert scores["clean"]["rows"] == 8 - len(found)
    found_change = scores["clean_minus_all"]["instruction"]
    means = [scores[subset]["scores"]["accuracy"]["instruction"]["mean"] for subset in ("clean", "all")]
    assert found_change["difference"] == means[0] - means[1]
    assert found_change["low"] < found_change["difference"] < found_change["high"]
    assert results is not None
    for variant, score in results.main_scores("comments").items():
        assert scores["all"]["scores"]["accuracy"][variant] == {"mean": score.mean, "interval": list(score.interval)}
    assert summary["tasks"]["counting"]["8"]["input"]["too_short"] == 8
    assert summary["corpus"] == {"read": [str(corpus)], "files": 2, "documents": 5, "words": 5 * len(WORDS) + 2}


def test_what_clean_rows_change_is_ranked_in_one_figure(tmp_path: Path) -> None:
    """The difference that the most score is lost by stands first; a task without clean rows is left out."""

    def entry(difference: float, low: float | None, high: float | None) -> dict[str, Any]:
        found = {"untuned": {"difference": 0.9, "low": 0.9, "high": 0.9}}
        found["tuned"] = {"difference": difference, "low": low, "high": high}  # type: ignore[dict-item]
        return {"13": {"all": {"rows": 40}, "clean": {"rows": 30}, "clean_minus_all": found}, "8": {}}

    scores = {"boolq": entry(0.01, 0.0, 0.02), "record": entry(-0.031, -0.05, -0.01), "rte": entry(-0.02, None, None)}
    scores["drop"] = {"13": {"all": {"rows": 40}, "clean": {"rows": 0}}}
    path = write_contamination_figure({"sizes": [13, 8], "scores": scores}, tmp_path)
    assert path == tmp_path / "contamination.svg"
    text = path.read_text(encoding="utf-8")
    assert "Clean minus all rows, n = 13: tuned" in text
    places = [text.index(f"{task} (30 of 40 rows clean)") for task in ("record", "rte", "boolq")]
    assert places == sorted(places)
    assert "drop" not in text
    assert [text.count(number) for number in ("\N{MINUS SIGN}3.1", "\N{MINUS SIGN}2.0", "+1.0")] == [1, 1, 1]
    assert write_contamination_figure({"sizes": [13], "scores": {}}, tmp_path) is None
    assert not path.exists()


def test_predictions_without_instructions_and_of_another_split_are_read_as_they_were_made(
    tasks: list[Task], tiny_folder: Path, tmp_path: Path
) -> None:
    settings = EvaluationSettings(rows=4, generate=False, instructions="none", split="train")
    comments = [task for task in tasks if task.name == "comments"]
    evaluate_model(str(tiny_folder), comments, settings, tmp_path / "eval")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("nothing of it\n", encoding="utf-8")
    summary = check_contamination(comments, [corpus], tmp_path / "out", sizes=AT_8, predictions=tmp_path / "eval")
    assert summary["scores"]["comments"]["8"]["all"]["rows"] == 4


def pairs(folder: Path, task: str) -> set[tuple[int, int]]:
    table = pq.read_table(folder / "predictions" / "instruction" / task)
    return set(zip(table["row"].to_pylist(), table["template"].to_pylist(), strict=True))


def test_nothing_is_written_when_reading_stops(tasks: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: Any) -> Any:
        yield from read_corpus(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr("flanlab.experiments.contamination.read_corpus", stop)
    (tmp_path / "corpus.txt").write_text("some text")
    with pytest.raises(KeyboardInterrupt):
        check_contamination(tasks, [tmp_path / "corpus.txt"], tmp_path / "out", sizes=AT_8)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_done_is_refused(tasks: list[Task], tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("some text")
    corpus, out = [tmp_path / "corpus.txt"], tmp_path / "out"
    assert "7-grams" in refusal(lambda: check_contamination(tasks, corpus, out, sizes=(13, 7))).message
    assert (
        "no predictions" in refusal(lambda: check_contamination(tasks, corpus, out, sizes=AT_8, predictions=tmp_path)).message
    )
    (tmp_path / "predictions" / "instruction" / "elsewhere").mkdir(parents=True)
    assert "elsewhere" in refusal(lambda: check_contamination(tasks, corpus, out, sizes=AT_8, predictions=tmp_path)).message
