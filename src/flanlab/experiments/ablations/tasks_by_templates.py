"""Appendix B.1 as it was: tasks of each training cluster crossed with templates of each task."""

from __future__ import annotations

from collections.abc import Sequence

from flanlab.errors import FlanlabError
from flanlab.experiments.cells import (
    UNTUNED,
    Ablation,
    Cell,
    Comparison,
    Panel,
    Series,
    changed,
    some_of_each,
    trained,
    training_clusters,
    training_on,
    untuned,
)
from flanlab.experiments.recipe import Plan

_TASKS, _TEMPLATES = (1, 2, 4), (1, 4, 10)


def cell_name(tasks: int, templates: int) -> str:
    """Name of the cell with so many tasks of each cluster and so many templates of each task."""
    return f"tasks-{tasks}-templates-{templates}"


def ablation(plan: Plan, points: Sequence[str]) -> Ablation:
    """Points: tasks of a cluster x templates of a task, such as 1x1 or 4x10; 1, 2 and 4 crossed with 1, 4 and 10."""
    clusters = training_clusters(plan)
    grid = _grid(points) or [(tasks, templates) for tasks in _TASKS for templates in _TEMPLATES]
    cells: list[Cell] = [untuned(plan.recipe)]
    for tasks, templates in grid:
        chosen = some_of_each(clusters, tasks, plan.recipe.seed)
        recipe = changed(training_on(plan, chosen), mixture={"inverted": False, "templates_per_task": templates})
        told = f"{tasks} task{'s' if tasks > 1 else ''} of each cluster, {templates} template{'s' if templates > 1 else ''}"
        cells.append(trained(cell_name(tasks, templates), f"{told} of each task", recipe))
    rows, columns = sorted({tasks for tasks, _ in grid}), sorted({templates for _, templates in grid})
    lines = [
        Series(
            f"{templates} template{'s' if templates > 1 else ''}",
            [(tasks, cell_name(tasks, templates)) for tasks in rows if (tasks, templates) in grid],
        )
        for templates in columns
    ]
    pairs = [((rows[0], templates), (rows[-1], templates)) for templates in columns]
    pairs += [((tasks, columns[0]), (tasks, columns[-1])) for tasks in rows]
    return Ablation(
        "Tasks per cluster and templates per task",
        "Do more tasks of each kind bring more than more templates of each task (appendix B.1)?",
        cells,
        [Panel("Mean over clusters by tasks of each training cluster", "line", lines, "tasks of each cluster", UNTUNED, False)],
        [
            Comparison(cell_name(*before), cell_name(*after))
            for before, after in pairs
            if before != after and before in grid and after in grid
        ],
        [
            "A cluster with fewer tasks trains on all it has, and so does a task with fewer templates. Templates are forward"
            " ones; no cell trains on inverted ones.",
            "Whether templates bring more where there are more tasks (the interaction) is among the results of `flan claims`.",
            "The paper (137B): from 1 to 4 data sets of each cluster, almost 10 points more on average; 1, 4 and 10 templates"
            " hardly differ, least with 4 data sets.",
        ],
    )


def _grid(points: Sequence[str]) -> list[tuple[int, int]]:
    found = []
    for point in points:
        tasks, _, templates = point.partition("x")
        if not all(number.isdecimal() and int(number) for number in (tasks, templates)):
            raise FlanlabError(
                f"--points: {point!r} is no place of the grid.",
                hint="Write tasks of each cluster x templates of each task: --points 1x1,1x10,4x1,4x10.",
            )
        found.append((int(tasks), int(templates)))
    return sorted(set(found))
