"""Tasks of several subtasks: trained on together, evaluated apart, left out by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flanlab.data.reader import RowReader
from flanlab.data.rendering import prepare_row, render
from flanlab.data.sources import load_rows
from flanlab.errors import FlanlabError
from flanlab.evaluation.evaluate import plan_tasks
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.tasks.clusters import Cluster
from flanlab.tasks.holdout import HoldOut, seen_reason
from flanlab.tasks.loading import leave_out, load_task, select_tasks
from flanlab.tasks.schema import Task
from tests.task_files import task_content, write_task_file

SUBTASKS = {
    "hotels": {"files": {"train": "hotels.jsonl", "test": "hotels.jsonl"}},
    "films": {"files": {"train": "films.jsonl"}, "splits": {"train": "train[:1]", "test": "train[1:]"}},
    "books": {"files": {"test": "books.jsonl"}},
}
ROWS = {
    "hotels": [{"text": "Cold soup.", "label": 0}, {"text": "Kind people.", "label": 1}],
    "films": [{"text": "A dull film.", "label": 0, "year": 1990}, {"text": "A bright film.", "label": 1, "year": 1991}],
    "books": [{"text": "A thin book.", "label": 0}],
}


@pytest.fixture
def task(tmp_path: Path) -> Task:
    fields = {"text": "{{ subtask }}: {{ text }}"}
    path = write_task_file(tmp_path, task_content(source=None, subtasks=SUBTASKS, fields=fields), [])
    for name, rows in ROWS.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_task(path)


def texts(task: Task, split: Any) -> list[str]:
    rows = load_rows(task, split)
    return [render(task, 1, prepare_row(task, row, 0)).prompt.splitlines()[0] for row in rows]


def test_training_reads_the_subtasks_one_after_the_other(task: Task) -> None:
    assert texts(task, "train") == ["hotels: Cold soup.", "hotels: Kind people.", "films: A dull film."]


def test_each_subtask_that_has_the_split_is_evaluated_by_itself(task: Task) -> None:
    subtasks = task.evaluated_subtasks("test")
    assert [subtask.name for subtask in subtasks] == ["reviews.hotels", "reviews.films", "reviews.books"]
    assert [texts(subtask, "test") for subtask in subtasks] == [
        ["hotels: Cold soup.", "hotels: Kind people."],
        ["films: A bright film."],
        ["books: A thin book."],
    ]
    assert [subtask.name for subtask in task.evaluated_subtasks("train")] == ["reviews.hotels", "reviews.films"]
    assert subtasks[0].evaluated_subtasks("test") == [subtasks[0]]


def test_exemplars_are_of_the_subtask_or_of_the_whole_task_where_it_has_no_train_rows(task: Task, tmp_path: Path) -> None:
    def exemplars(*tasks: Task) -> dict[str, list[str]]:
        planned = plan_tasks(tasks, EvaluationSettings(shots=1), 0, RowReader())
        return {one.task.name: [row["text"] for row in one.exemplars or ()] for one in planned}

    hotels, films = (["Cold soup.", "Kind people."], ["A dull film."])
    together = {"reviews.hotels": hotels, "reviews.films": films, "reviews.books": hotels + films}
    assert exemplars(task) == exemplars(*map(task.subtask, SUBTASKS)) == together
    (tmp_path / "films.jsonl").unlink()
    assert exemplars(task.subtask("hotels")) == {"reviews.hotels": hotels}


def test_the_hash_of_the_rows_follows_every_part(task: Task, tmp_path: Path) -> None:
    whole, alone = load_rows(task, "train").source_hash, load_rows(task.subtask("films"), "train").source_hash
    (tmp_path / "films.jsonl").write_text(json.dumps(ROWS["films"][0]) + "\n", encoding="utf-8")
    assert load_rows(task, "train").source_hash != whole
    assert load_rows(task.subtask("films"), "train").source_hash != alone


def test_a_task_without_subtasks_is_evaluated_as_it_is(make_task: Callable[..., Task]) -> None:
    plain = make_task()
    assert plain.evaluated_subtasks("test") == [plain]
    with pytest.raises(FlanlabError, match="no subtask `films`"):
        plain.subtask("films")


def test_a_subtask_is_selected_and_left_out_by_name(task: Task) -> None:
    assert [found.name for found in select_tasks([task], ["reviews.films"])] == ["reviews.films"]
    assert [found.name for found in select_tasks([task], ["reviews.films", "reviews"])] == ["reviews"]
    (rest,) = leave_out([task], ["reviews.films"])
    assert texts(rest, "train") == ["hotels: Cold soup.", "hotels: Kind people."]
    assert leave_out([task], ["reviews"]) == []
    films, hotels = select_tasks([task], ["reviews.films", "reviews.hotels"])
    assert leave_out([films, hotels], ["reviews.films"]) == [hotels]
    assert leave_out([task], ["sentiment", "reviews.films"]) == []
    with pytest.raises(FlanlabError, match="no subtask `plays`"):
        select_tasks([task], ["reviews.plays"])
    with pytest.raises(FlanlabError, match="films is the only subtask"):
        leave_out([task], ["reviews.hotels", "reviews.books", "reviews.films"])


def test_the_hold_out_tests_subtasks_and_knows_where_they_come_from(task: Task, make_task: Callable[..., Task]) -> None:
    split = HoldOut(clusters=(Cluster.SENTIMENT,)).split([task, make_task(name="other", cluster="coreference")])
    assert [subtask.name for subtask in split.test] == ["reviews.hotels", "reviews.films", "reviews.books"]
    assert "reviews" in split.lineage["reviews.films"]
    stamp = {"tasks": {"far": {"clusters": ["coreference"], "lineage": ["far", "reviews"]}}}
    assert "shares reviews" in str(seen_reason(task.subtask("films"), stamp))


def test_a_task_without_a_train_split_is_left_out_of_training(task: Task, make_task: Callable[..., Task]) -> None:
    tasks = [task, make_task(name="other", cluster="coreference", source={"files": {"test": "reviews.jsonl"}})]
    split = HoldOut(clusters=(Cluster.SENTIMENT,)).split(tasks)
    assert split.train == ()
    assert split.left_out["other"] == "it has no train split"


def test_subtasks_with_columns_of_different_types_are_refused(task: Task, tmp_path: Path) -> None:
    (tmp_path / "films.jsonl").write_text('{"text": "A film.", "label": "bad"}\n' * 2, encoding="utf-8")
    with pytest.raises(FlanlabError, match="its subtasks hotels, films cannot be joined"):
        load_rows(task, "train")


def test_a_missing_subtask_is_named_so_that_it_can_be_left_out(tmp_path: Path) -> None:
    subtasks = {"near": SUBTASKS["hotels"], "far": {"hub": "nobody/nothing", "splits": {"train": "train"}}}
    path = write_task_file(tmp_path, task_content(source=None, subtasks=subtasks), [])
    (tmp_path / "hotels.jsonl").write_text(json.dumps(ROWS["hotels"][0]) + "\n", encoding="utf-8")
    (tmp_path / "mirror").mkdir()
    with pytest.raises(FlanlabError, match=r"reviews\.far: the mirror .* does not have nobody/nothing"):
        load_rows(load_task(path), "train", tmp_path / "mirror")
