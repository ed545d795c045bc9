"""The tab to try a model: a text of one's own, or a task's template with values of one's own; two models side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flanlab.data.rendering import PreparedRow
from flanlab.errors import FlanlabError
from flanlab.tasks.schema import Task
from flanlab.tasks.templating import variables_in
from flanlab.ui.pages import show
from flanlab.ui.tasks_tab import chosen_row
from flanlab.ui.workplace import SPLITS, Workplace, number_in

COLUMN = "column:"
"""Before the name of a column, in the form."""
NEW_TOKENS = 128


@dataclass(frozen=True)
class Given:
    """A column that a template needs, with the value to begin with; a value that is no text is written as JSON."""

    name: str
    value: str
    is_json: bool


def needed_columns(task: Task, template: int, row: PreparedRow) -> list[Given]:
    """The columns of the task's data that a template's prompt and options are made of, with a row's values."""
    sources = [task.templates[template - 1].prompt, *([task.options] if isinstance(task.options, str) else [])]
    names: set[str] = set()
    for name in (name for source in sources for name in variables_in(source)):
        names |= variables_in(task.fields[name]) if name in task.fields else {name}
    return [
        Given(
            name,
            value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str),
            not isinstance(value, str),
        )
        for name in row.columns
        if name in names or "row" in names
        for value in [row.columns[name]]
    ]


def given_values(fields: Mapping[str, str]) -> dict[str, Any]:
    """The values of columns in a form.

    Raises:
        FlanlabError: one that should be JSON is not.
    """
    values: dict[str, Any] = {}
    for key, text in fields.items():
        if not key.startswith(COLUMN):
            continue
        name = key.removeprefix(COLUMN)
        values[name] = text
        if fields.get(f"json:{name}"):
            try:
                values[name] = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise FlanlabError(
                    f"`{name}` is not valid JSON: {error}", hint='Write a value such as 3 or ["a", "b"].'
                ) from error
    return values


def try_page(workplace: Workplace, fields: Mapping[str, str]) -> str:
    """The form: a text, or the columns of a task with the values of a row."""
    facts: dict[str, Any] = {"task": None, "templates": [], "given": [], "splits": [], "fault": None}
    template, row, split = number_in(fields, "template"), number_in(fields, "row"), fields.get("split", "")
    if fields.get("task"):
        task = workplace.task(fields["task"])
        forward = task.forward_templates()
        template = template if template in forward else forward[0]
        facts |= {"task": task, "templates": forward, "splits": [name for name in SPLITS if task.has_split(name)]}
        try:
            split, rows = workplace.rows(task, split)
            facts["given"] = needed_columns(task, template, chosen_row(task, rows, row))
        except FlanlabError as error:
            facts["fault"] = error
    models = list(workplace.models)
    return show(
        "try",
        tab="try",
        tasks=sorted(workplace.tasks),
        models=models,
        chosen=[fields.get("model") or next(iter(models), ""), fields.get("other", "")],
        template=template,
        row=row,
        split=split,
        **facts,
    )


def answer_part(workplace: Workplace, fields: Mapping[str, str]) -> str:
    """The answers of one model, or of two side by side."""
    from flanlab.experiments.ask import ask

    names = [name for name in dict.fromkeys([fields.get("model", ""), fields.get("other", "")]) if name]
    task = workplace.task(fields["task"]) if fields.get("task") else None
    answers = []
    for name in names or [""]:
        with workplace.model(name) as model:
            if task is not None:
                answer = ask(model, task=task, row=given_values(fields), template=number_in(fields, "template", 1))
            else:
                answer = ask(model, fields.get("question", ""), new_tokens=NEW_TOKENS)
        answers.append((name, answer))
    return show("try_answer", answers=answers, prompt=answers[0][1].prompt)
