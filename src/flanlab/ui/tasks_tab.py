"""The tab of tasks: what there is, and one row through all templates of a task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flanlab.data.rendering import BASELINE, PreparedRow, prepare_row, render
from flanlab.data.sources import Rows
from flanlab.errors import FlanlabError
from flanlab.tasks.clusters import Cluster
from flanlab.tasks.facts import lineage_in_words, origin
from flanlab.tasks.schema import Task
from flanlab.ui.workplace import Workplace, number_in, show, splits_of


@dataclass(frozen=True)
class Rendered:
    """A row seen through a template, with OPTIONS in the task's own order; or why it cannot be."""

    row: int
    template: int
    prompt: str = ""
    target: str = ""
    fault: FlanlabError | None = None
    tokens: Sequence[int] = ()
    """Of prompt and target, where they were counted."""


def rendered(task: Task, template: int, rows: Rows, row: int) -> Rendered:
    """One row through one template."""
    try:
        prepared = chosen_row(task, rows, row)
        example = render(task, template, prepared, range(len(prepared.options)))
    except FlanlabError as error:
        return Rendered(row, template, fault=error)
    return Rendered(row, template, example.prompt, example.target)


def search(tasks: Iterable[Task], text: str = "", cluster: str = "") -> list[Task]:
    """Tasks of a cluster (of all, where it is empty) whose name, description or cluster holds every word of a text."""
    words = text.lower().replace("-", " ").replace("_", " ").split()
    found = []
    for task in tasks:
        about = " ".join([task.name, task.description, *(one.label for one in task.clusters)]).lower().replace("_", " ")
        if (not cluster or cluster in {one.value for one in task.clusters}) and all(word in about for word in words):
            found.append(task)
    return sorted(found, key=lambda task: (task.clusters[0], task.name))


def through_all_templates(task: Task, rows: Rows, row: int) -> list[Rendered]:
    """A row through each template, and the baseline prompt if there is one."""
    numbers = [*range(1, len(task.templates) + 1), *([] if task.baseline is None else [BASELINE])]
    return [rendered(task, number, rows, row) for number in numbers]


def chosen_row(task: Task, rows: Rows, number: int) -> PreparedRow:
    """One row, ready to be rendered.

    Raises:
        FlanlabError: there is no such row, or its fields cannot be worked out.
    """
    if number >= len(rows):
        raise FlanlabError(
            f"{task.name} has rows 0 to {len(rows) - 1} here, not {number}." if len(rows) else f"{task.name} has no rows here.",
            hint="Ask for one of those, or choose another split.",
        )
    return prepare_row(task, rows[number], number)


def tasks_page(workplace: Workplace, fields: Mapping[str, str]) -> str:
    """The list of tasks."""
    text, cluster = fields.get("q", ""), fields.get("cluster", "")
    found = search(workplace.tasks.values(), text, cluster)
    there = {one for task in workplace.tasks.values() for one in task.clusters}
    clusters = [one for one in Cluster if one in there]
    return show("tasks", tab="tasks", tasks=found, clusters=clusters, text=text, cluster=cluster, total=len(workplace.tasks))


def task_page(workplace: Workplace, fields: Mapping[str, str]) -> str:
    """One task: what it is, and a row through all of its templates."""
    task = workplace.task(fields.get("task", ""))
    facts = {
        "about": task.description,
        "clusters": ", ".join(cluster.label for cluster in task.clusters),
        "from": "; ".join(dict.fromkeys(origin(source) for source in task.sources.values())),
        "licence": task.licence,
        "citation": task.citation,
        "derived from": "\n".join(lineage_in_words(task, workplace.ancestors)) or "no other data set that it declares",
        "metrics": ", ".join(task.metrics),
        "file": str(task.path),
    }
    number = number_in(fields, "row")
    split, length, columns, shown, fault = fields.get("split", ""), 0, {}, [], None
    try:
        split, rows = workplace.rows(task, split)
        length = len(rows)
        columns = dict(chosen_row(task, rows, number).columns)
        shown = through_all_templates(task, rows, number)
    except FlanlabError as error:  # what the task is can be told without its rows
        fault = error
    return show(
        "task",
        tab="tasks",
        task=task,
        facts=facts,
        splits=splits_of(task),
        split=split,
        row=number,
        length=length,
        columns=columns,
        shown=shown,
        fault=fault,
    )
