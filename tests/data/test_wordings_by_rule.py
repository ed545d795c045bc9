"""Wordings made by rule."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from flanlab.data.rendering import open_row, render
from flanlab.data.wordings_by_rule import Wording, worded
from flanlab.tasks.loading import load_task
from flanlab.tasks.schema import Task

FILE = """
name: mood
cluster: sentiment
source: {files: {test: rows.jsonl}}
licence: MIT
options: ["bad", "good"]
answer: "{{ options[label] }}"
fields: {text: "{{ text }}"}
metrics: [accuracy]
templates:
  - prompt: |
      {{ text }}

      How does this sound?
  - prompt: |
      Judge the line below.

      {{ text }}
    options: ["no", "yes"]
  - prompt: "{{ text }} Good?"
  - {direction: inverted, prompt: "Write a {{ answer }} line.", target: "{{ text }}"}
"""


def mood(folder: Path) -> Task:
    (folder / "mood.yaml").write_text(FILE)
    (folder / "rows.jsonl").write_text('{"text": "Hm.", "label": 1}\n')
    return load_task(folder / "mood.yaml")


def made(task: Task) -> dict[str, Wording]:
    return {one.name: one for one in task.templates if isinstance(one, Wording)}


def prompt_of(task: Task, name: str) -> str:
    number = next(number for number, one in enumerate(task.templates, 1) if isinstance(one, Wording) and one.name == name)
    row = open_row(task, {"text": "Hm.\n\nOh.", "label": 1}, 0)
    return render(task, number, row, [1, 0]).prompt


def test_each_rule_makes_its_variant(tmp_path: Path) -> None:
    task = worded(mood(tmp_path), 1000, with_options=True)
    assert prompt_of(task, "1-stars") == "Hm.\n\nOh.\n\nHow does this sound?\n\nOptions:\n* good\n* bad"
    assert prompt_of(task, "1-line") == "Hm.\n\nOh.\n\nHow does this sound?\n\nOptions: good; bad"
    assert prompt_of(task, "1-moved") == "How does this sound?\n\nHm.\n\nOh.\n\nOPTIONS:\n- good\n- bad"
    assert prompt_of(task, "1-tight") == "Hm.\n\nOh.\nHow does this sound?\n\nOPTIONS:\n- good\n- bad", (
        "the row's own breaks stay"
    )
    assert prompt_of(task, "2-dashes-line") == "Judge the line below.\n\n---\n\nHm.\n\nOh.\n\nOptions: yes; no"
    names = set(made(task))
    assert not any(name.startswith("2-moved") for name in names), "it says where the line is"
    assert {name for name in names if name[0] == "3"} == {"3-stars", "3-choices", "3-answers", "3-line"}, "one paragraph"
    assert not any(name[0] == "4" for name in names), "inverted"


def test_numbers_and_names_are_stable(tmp_path: Path) -> None:
    task = mood(tmp_path)
    few, many = worded(task, 9, with_options=True), worded(task, 20, with_options=True)
    assert len(few.forward_templates()) == 9
    assert few.templates[:4] == task.templates
    assert few.templates == many.templates[: len(few.templates)]
    assert Counter(name[0] for name in made(few)) == {"1": 2, "2": 2, "3": 2}
    assert worded(task, 2, with_options=True).templates == task.templates, "never fewer than the task has"
    assert task.hash != few.hash


def test_without_options_their_style_makes_no_difference(tmp_path: Path) -> None:
    assert all(one.option_style == "" for one in made(worded(mood(tmp_path), 100, with_options=False)).values())
    everything = worded(mood(tmp_path), 1000, with_options=True)
    asked = {(one.prompt.strip(), one.listed(["a", "b"])) for one in everything.templates if one.direction == "forward"}
    assert len(asked) == len(everything.forward_templates()), "no two alike"
