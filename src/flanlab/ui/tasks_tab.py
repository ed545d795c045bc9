"""The tab of tasks: what there is, and one row through all templates of a task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flanlab.data.rendering import BASELINE, PreparedRow, prepare_row, render
from flanlab.data.sources import Rows
from flanlab.errors import FlanlabError
from flanlab.tasks.clusters import Cluster
from flanlab.tasks.facts import lineage_in_words, origin
from flanlab.tasks.schema import Task
from flanlab.ui.pages import show
from flanlab.ui.workplace import Workplace, number_in, splits_of


@dataclass(frozen=True)
class ShownTemplate:
    """A row seen through a template, or why it cannot be."""

    number: int
    title: str
    prompt: str = ""
    target: str = ""
    fault: FlanlabError | None = None


def search(tasks: Iterable[Task], text: str = "", cluster: str = "") -> list[Task]:
    """Tasks of a cluster (of all, where it is empty) whose name, description or cluster holds every word of a text."""
    words = text.lower().replace("-", " ").replace("_", " ").split()
    found = []
    for task in tasks:
        about = " ".join([task.name, task.description, *(one.label for one in task.clusters)]).lower().replace("_", " ")
        if (not cluster or cluster in {one.value for one in task.clusters}) and all(word in about for word in words):
            found.append(task)
    return sorted(found, key=lambda task: (task.clusters[0], task.name))


def through_all_templates(task: Task, row: PreparedRow) -> list[ShownTemplate]:
    """A row through each template, and the baseline prompt; OPTIONS stand in the task's own order."""
    numbered = [(number, f"Template {number}, {one.direction}") for number, one in enumerate(task.templates, start=1)]
    if task.baseline is not None:
        numbered.append((BASELINE, "Baseline, for untuned models"))
    shown = []
    for number, title in numbered:
        try:
            example = render(task, number, row, range(len(row.options)))
            shown.append(ShownTemplate(number, title, example.prompt, example.target))
        except FlanlabError as error:
            shown.append(ShownTemplate(number, title, fault=error))
    return shown


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
        "derived from": "\n".join(lineage_in_words(task, workplace.ancestors)) or "nothing: declared",
        "metrics": ", ".join(task.metrics),
        "file": str(task.path),
    }
    number = number_in(fields, "row")
    split, length, columns, shown, fault = fields.get("split", ""), 0, {}, [], None
    try:
        split, rows = workplace.rows(task, split)
        length = len(rows)
        row = chosen_row(task, rows, number)
        columns = {name: row.columns[name] for name in row.columns}
        shown = through_all_templates(task, row)
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
