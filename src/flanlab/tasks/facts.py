"""Facts of a task without its rows: for programs, and as the table of docs/tasks.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flanlab.tasks.loading import known_lineage
from flanlab.tasks.schema import Source, Task

_COLUMNS = ("cluster", "task", "licence", "rows", "templates", "metrics", "lineage", "from")
_COLLECTIONS = {
    "library": " FLAN's data sets.",
    "extra": " Further public data sets.",
    "sampler": " Small data sets that were written for flanlab and come with it.",
}


def facts(task: Task, ancestors: Mapping[str, frozenset[str]]) -> dict[str, Any]:
    """A task's facts as JSON values; `ancestors` is `lineage` over all tasks."""
    return {
        "name": task.name,
        "clusters": [cluster.value for cluster in task.clusters],
        "description": task.description,
        "sources": {subtask or "all": source.model_dump(exclude_none=True) for subtask, source in task.sources.items()},
        "subtasks": list(task.subtasks),
        "published_rows": task.published_rows,
        "licence": task.licence,
        "derived_from": task.derived_from,
        "lineage": sorted(ancestors[task.name] - {task.name}),
        "metrics": task.metrics,
        "templates": len(task.templates),
        "forward_templates": task.forward_templates(),
        "baseline": task.baseline is not None,
    }


def lineage_in_words(task: Task, ancestors: Mapping[str, frozenset[str]]) -> list[str]:
    """Each data set that a task derives from, with the evidence, or with the data sets in between."""
    lines = [f"{name}: {evidence}" for name, evidence in task.derived_from.items()]
    for name in sorted(ancestors[task.name] - {task.name, *task.derived_from}):
        through = [parent for parent in task.derived_from if name in ancestors.get(parent, frozenset())]
        lines.append(f"{name}: through {', '.join(through)}")
    return lines


def origin(source: Source) -> str:
    """Where the rows of a source come from."""
    place = source.hub or (f"generator {source.generator}" if source.generator else "files next to the task file")
    return place + (f" ({source.config})" if source.config else "") + (", to be obtained by hand" if source.obtain else "")


def markdown(collections: Mapping[str, Sequence[Task]]) -> str:
    """All tasks as Markdown: a table for each collection, sorted by cluster and name."""
    ancestors = known_lineage(task for tasks in collections.values() for task in tasks)
    lines = [
        "# Tasks",
        "",
        "<!-- Made by `flan tasks list --markdown > docs/tasks.md`; a test compares the two. -->",
        "",
        "This page lists all tasks of flanlab. `flan tasks show TASK` says more about one of them, and",
        "[Add a task](add-a-task.md) explains all fields.",
        "",
        "- **templates**: forward + inverted. *b* marks a baseline prompt.",
        "- **rows**: as published. Not all of them may be available to you.",
        "- **lineage**: every data set that the task's rows or texts come from. The hold-out follows it.",
    ]
    for title, tasks in collections.items():
        lines += ["", f"## {title}", "", f"{len(tasks)} tasks.{_COLLECTIONS.get(title, '')}", ""]
        rows = [_cells(task, facts(task, ancestors)) for task in sorted(tasks, key=lambda task: (task.clusters[0], task.name))]
        filled = [place for place in range(len(_COLUMNS)) if any(row[place] for row in rows)]
        for row in [_COLUMNS, ["---"] * len(_COLUMNS), *rows]:
            lines.append(f"| {' | '.join(row[place] for place in filled)} |")
    return "\n".join(lines) + "\n"


def _cells(task: Task, known: Mapping[str, Any]) -> list[str]:
    """One line of the table, in the order of the columns."""
    forward = len(known["forward_templates"])
    cells = [
        ", ".join(cluster.label for cluster in task.clusters),
        f"`{task.name}`" + (f": {', '.join(known['subtasks'])}" if known["subtasks"] else ""),
        known["licence"],
        ", ".join(f"{split} {count:,}" for split, count in known["published_rows"].items()),
        f"{forward} + {known['templates'] - forward}{' *b*' if known['baseline'] else ''}",
        ", ".join(known["metrics"]),
        ", ".join(known["lineage"]),
        "; ".join(dict.fromkeys(origin(source) for source in task.sources.values() if not source.files)),
    ]
    return [" ".join(cell.split()).replace("|", "\\|") for cell in cells]
