"""Tasks without their instructions."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest

from flanlab.data.rendering import prepare_row, render
from flanlab.data.sources import load_rows
from flanlab.errors import FlanlabError
from flanlab.tasks.loading import load_collection
from flanlab.tasks.phrasing import Phrasing, phrased
from flanlab.tasks.schema import Task

ROW = {"text": "The soup was cold.", "label": 0, "title": None, "place": "Lisbon"}


@pytest.fixture
def task(make_task: Callable[..., Task]) -> Task:
    return make_task(
        [ROW],
        fields={"place": "{{ place }}", "text": "{{ text }}", "title": "{{ title }}"},
        templates=[
            {"prompt": "{% if title %}{{ title }}: {% endif %}{{ text }}\nIs this positive or negative?"},
            {"prompt": "What does the writer of this feel? {{ text }} {{ title or '' }}"},
            {"prompt": "In {{ place }}, somebody wrote: {{ text }} Positive or negative?"},
            {"direction": "inverted", "prompt": "Write a {{ answer }} review of {{ place }}.", "target": "{{ text }}"},
        ],
    )


def test_inputs_alone(task: Task) -> None:
    """Text and title are shown by most templates, the place by one; the title is missing in this row."""
    bare = phrased(task, "none")
    assert [template.direction for template in bare.templates] == ["forward"]
    row = prepare_row(bare, ROW, 0)
    assert render(bare, 1, row).prompt == "The soup was cold."
    titled = prepare_row(bare, {**ROW, "title": "Lunch"}, 0)
    assert render(bare, 1, titled).prompt == "The soup was cold.\nLunch"
    assert render(bare, 1, row).target == "negative"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (["first fact", "second fact"], "first fact\nsecond fact"),
        (["one", None, 2, ["a", 1.5], {"b": True}], 'one\n2\n["a", 1.5]\n{"b": true}'),
        ({"author": "Ana", "year": 1999, "editor": None, "tags": ["x", "y"]}, 'author: Ana\nyear: 1999\ntags: ["x", "y"]'),
        ([], ""),
        (None, ""),
        (float("nan"), ""),
        (7, "7"),
        (0, "0"),
        (2.5, "2.5"),
        (False, "false"),
        (" two words ", "two words"),
    ],
)
def test_how_values_are_shown(make_task: Callable[..., Task], value: object, shown: str) -> None:
    """Nothing is printed as Python code, and a value that is missing leaves no blank line."""
    fields = {"before": "{{ before }}", "value": "{{ value }}", "after": "{{ after }}"}
    task = make_task([{"label": 0}], fields=fields, templates=[{"prompt": "{{ before }} {{ value }} {{ after }}?"}])
    bare = phrased(task, "none")
    row = prepare_row(bare, {"label": 0, "before": "First.", "value": value, "after": "Last."}, 0)
    assert render(bare, 1, row).prompt == "\n".join(filter(None, ["First.", shown, "Last."]))


def test_a_name_that_is_not_there_is_an_error(make_task: Callable[..., Task]) -> None:
    bare = phrased(make_task([{"label": 0}], fields={}, templates=[{"prompt": "{{ text }} {{ nothing }}?"}]), "none")
    with pytest.raises(FlanlabError, match="'nothing' is undefined"):
        render(bare, 1, prepare_row(bare, {"label": 0, "text": "Good."}, 0))


def test_every_sampler_task_renders_without_instructions() -> None:
    for task in load_collection("sampler"):
        for phrasing in get_args(Phrasing):
            bare = phrased(task, phrasing)
            rows = load_rows(bare, "train")
            for row in range(5):
                for template in bare.forward_templates():
                    assert render(bare, template, prepare_row(bare, rows[row], row)).prompt, task.name


def test_names_before_the_inputs(task: Task) -> None:
    named = phrased(task, "name")
    heading, text = render(named, 1, prepare_row(named, ROW, 0)).prompt.split("\n")
    assert heading == f"[Sentiment: {task.name}]".replace("_", " ")
    assert text == "The soup was cold."


def test_instructions_are_the_task_itself(task: Task) -> None:
    assert phrased(task, "full") is task


def test_only_templates_change(task: Task) -> None:
    bare = phrased(task, "none")
    assert (bare.name, bare.path, bare.whole) == (task.name, task.path, bare)
    assert bare.hash != task.hash
    assert phrased(bare, "none").hash == bare.hash


def test_both_directions_of_a_translation() -> None:
    [task] = [task for task in load_collection("library") if task.name == "wmt14_fr_en"]
    prompts = [(template.prompt.count("french"), template.target) for template in phrased(task, "none").templates]
    assert prompts == [(1, "{{ answer }}"), (0, "{{ french }}")]


@pytest.mark.parametrize("collection", ["library", "extra", "sampler"])
def test_every_task_has_inputs(collection: str) -> None:
    for task in load_collection(collection):
        for template in phrased(task, "none").templates:
            assert "{{" in template.prompt, task.name
            assert "{{ answer" not in template.prompt, task.name
