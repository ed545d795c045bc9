from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flanlab.tasks.clusters import Cluster
from flanlab.tasks.loading import load_task
from flanlab.tasks.schema import Task, json_schema
from tests.task_files import generation_content, refusal, task_content, task_in_memory

WriteTask = Callable[..., Path]
ONE = {"prompt": "{{ text }}"}


def test_a_valid_task_knows_its_parts(make_task: Callable[..., Task]) -> None:
    task = make_task()
    assert task.is_classification
    assert task.clusters == (Cluster.SENTIMENT,)
    assert task.forward_templates() == [1, 2]
    assert task.path is not None
    assert task.path.name == "reviews.yaml"
    assert task.templates[0].target == "{{ answer }}"


def test_a_valid_generation_task() -> None:
    assert not Task.model_validate(generation_content()).is_classification


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cluster": "entailment"}, "`cluster`"),
        ({"cluster": []}, "`cluster`"),
        ({"cluster": ["sentiment", "entailment"]}, "`cluster.2`"),
        ({"name": "reviews", "licence": None}, "the field `licence` is missing"),
        ({"answer": None}, "the field `answer` is missing"),
        ({"licens": "MIT"}, "unknown field `licens`. Did you mean `licence`?"),
        ({"options": [True, False]}, '`options.1` is text, but YAML reads True here: put it in quotes, "true"'),
        ({"options": ["yes", False]}, '`options.2` is text, but YAML reads False here: put it in quotes, "false"'),
        ({"options": [1, 2]}, 'put it in quotes, "1"'),
        ({"options": ["yes"]}, "at least two options"),
        ({"options": ["yes", "yes"]}, "all different"),
        ({"options": ["yes", " "]}, "an option is empty"),
        ({"options": ["yes", "no "]}, "begins or ends with blank space"),
        ({"options": "text"}, "one expression"),
        ({"options": "{{ choices"}, "not valid jinja2"),
        ({"options": None}, "tasks with `options` need the metric `accuracy`"),
        ({"metrics": ["f1"]}, "tasks with `options` need the metric `accuracy`"),
        ({"metrics": []}, "`metrics`"),
        ({"metrics": ["accurracy"]}, "`metrics.1`"),
        ({"references": "names"}, "`references`: write one expression"),
        ({"turns": "two"}, "`turns`: write one expression"),
        ({"metrics": ["accuracy", "multirc_exact_match"]}, "the metric multirc_exact_match needs `group`"),
        ({"metrics": ["pearson", "accuracy"]}, "the metric pearson needs `gold_value`"),
        ({"filter": "label >= 0"}, "`filter`: write one expression"),
        ({"filter": "{{ a }} and {{ b }}"}, "`filter`: write one expression"),
        ({"answer": "{{ options[label }}"}, "`answer`: not valid jinja2"),
        ({"answer": " "}, "`answer`: is empty"),
        ({"fields": {"text": "{{ text"}}, "field text: not valid jinja2"),
        ({"fields": {"text": "{{ text }}", "options": "{{ a }}"}}, "`options` has another meaning"),
        ({"fields": {"body": "{{ text }}"}}, "template 1: prompt uses text, which is no field (fields: body)"),
        (
            {"metrics": ["accuracy", "spearman"], "gold_value": "{{ label }}", "group": "{{ text }}"},
            "the metric spearman does not work on groups of rows",
        ),
        ({"source": {}}, "`files` or `generator`"),
        ({"source": {"hub": "a/b", "files": "c.jsonl"}}, "`files` or `generator`"),
        ({"source": {"hub": "a/b"}}, "this source needs `splits`"),
        ({"source": {"files": "c.jsonl"}}, "a single file needs `splits`"),
        ({"source": {"files": {"validation": "c.jsonl"}}}, "name the files train, dev and test"),
        ({"source": {"files": {"train": "c"}, "config": "x"}}, "belongs to a `hub` or `generator` source"),
        ({"source": {"files": {"train": "c"}, "obtain": "x"}}, "belong to a `hub` source"),
        ({"source": None}, "give either `source`, or `subtasks`"),
        ({"subtasks": {"a": {"files": {"train": "c"}}}}, "give either `source`, or `subtasks`"),
        ({"derived_from": {"squad": " "}}, "give the evidence that the data set reuses"),
        ({"baseline": {"prompt": "{{ answer }}"}}, "baseline: a forward prompt may not contain the answer"),
        ({"baseline": {"prompt": "{{ txet }}"}}, "baseline: prompt uses txet, which is no field"),
        ({"baseline": {**ONE, "options": ["a", "b", "c"]}}, "baseline: its options must match"),
        ({"source": {"hub": "a/b", "splits": {"validation": "x"}}}, "`source.splits.validation`"),
        ({"templates": []}, "`templates`"),
        ({"templates": [{"prompt": "{{ text }}", "promt": "x"}]}, "unknown field `templates.1.promt`"),
        ({"templates": [{"prompt": ""}]}, "`templates.1.prompt`: is empty"),
        ({"templates": [{"prompt": "{{ text | shout }}"}]}, "`templates.1.prompt`: not valid jinja2"),
        ({"templates": [ONE, {"prompt": "{{ txet }}"}]}, "template 2: prompt uses txet, which is no field"),
        ({"templates": [{**ONE, "target": "{{ txet }}"}]}, "template 1: target uses txet"),
        ({"templates": [{"prompt": "{{ answer }}"}]}, "a forward prompt may not contain the answer"),
        ({"templates": [{"prompt": "{{ answer }}"}], "fields": {}}, "a forward prompt may not contain the answer"),
        ({"templates": [{"prompt": "{{ row['a b'] }}"}], "fields": {}}, "the prompt uses `row`, which also holds the answer"),
        ({"templates": [{**ONE, "direction": "inverted"}]}, "at least one template must be forward"),
        ({"templates": [{**ONE, "direction": "backward"}]}, "`templates.1.direction`"),
        ({"templates": [{**ONE, "options": ["a", "b", "c"]}]}, "template 1: its options must match"),
        ({"templates": [{**ONE, "options": ["a", "a"]}]}, "all different"),
        ({"templates": [{**ONE, "options": ["a", "b "]}]}, "begins or ends with blank space"),
        ({"templates": [{**ONE, "options": ["a", "b"]}], "options": "{{ choices }}"}, "must match the task's fixed list"),
    ],
)
def test_a_faulty_task_is_refused_with_the_place(changes: dict[str, Any], told: str, write_task: WriteTask) -> None:
    path = write_task(**changes)
    message = refusal(lambda: load_task(path)).message
    assert told in message
    assert f"{path}, line " in message


@pytest.mark.parametrize("name", ["Reviews", "1reviews", "movie-reviews", "a b", ""])
def test_names_are_safe_as_file_names(name: str) -> None:
    with pytest.raises(ValidationError):
        task_in_memory(name=name)


def test_names_and_files_agree(write_task: WriteTask) -> None:
    path = write_task()
    message = refusal(lambda: load_task(path.rename(path.with_name("other.yaml")))).message
    assert "`reviews`" in message
    assert "other.yaml" in message


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"files": {"train": "a", "test": "b"}}, ("train", None, "test")),
        ({"files": {"all": "a"}, "splits": {"train": "all[:9]"}}, ("all[:9]", None, None)),
        ({"hub": "a/b", "splits": {"dev": "validation", "test": "test[:5%]"}}, (None, "validation", "test[:5%]")),
    ],
)
def test_split_specifications(source: dict[str, Any], expected: tuple[str | None, ...]) -> None:
    found = task_in_memory(source=source).source
    assert (found.split_spec("train"), found.split_spec("dev"), found.split_spec("test")) == expected


def test_the_hash_follows_the_content_and_not_the_file() -> None:
    one, same, other = task_in_memory(), task_in_memory(), task_in_memory(answer="{{ options[1 - label] }}")
    assert one.hash == same.hash
    assert one.hash != other.hash
    assert len({template.hash for template in one.templates}) == 3
    assert one.templates[0].hash == other.templates[0].hash


def test_the_json_schema_names_every_field() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == set(Task.model_fields)
    assert {"name", "cluster", "licence", "answer", "metrics", "templates"} == set(schema["required"])
    assert set(task_content()) <= set(schema["properties"])
