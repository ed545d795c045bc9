"""The main table: every cluster held out in turn, one tuned model each, beside the untuned model and supervised learning."""

from __future__ import annotations

from collections.abc import Sequence

from flanlab.errors import FlanlabError
from flanlab.experiments.cells import Ablation, Cell, Comparison, Panel, Series, Training, changed, hyphenated, with_tasks
from flanlab.experiments.recipe import Plan
from flanlab.tasks.clusters import Cluster
from flanlab.tasks.schema import Task

_SHOTS = 4
"""Exemplars of the few-shot column, as many as fit."""


def ablation(plan: Plan, points: Sequence[str]) -> Ablation:
    """Points: clusters to hold out; every one that has tasks."""
    members = {cluster: [task for task in plan.split.tasks if task.clusters[0] == cluster] for cluster in Cluster}
    known = [cluster.value for cluster in Cluster if members[cluster]]
    if unknown := [point for point in points if point not in known]:
        raise FlanlabError(f"--points: {unknown[0]!r} is no cluster of this recipe.", hint=f"There are: {', '.join(known)}.")
    cells: list[Cell] = []
    columns: dict[str, list[str]] = {title: [] for title in ("untuned", "untuned, few-shot", "tuned", "supervised")}
    comparisons: list[Comparison] = []
    # A task that the base recipe names may be too close to what is held out in turn. It does not train then.
    overlap = "allow" if plan.recipe.hold_out.overlap == "allow" else "remove"
    for value in dict.fromkeys(points or known):
        cluster = Cluster(value)
        recipe = changed(plan.recipe, hold_out={"clusters": [value], "overlap": overlap})
        shots = changed(recipe, evaluation={"shots": _SHOTS})
        few_shot_tasks = all(task.has_split("train") for task in members[cluster])
        name = hyphenated(value)
        made = {"untuned": Cell(f"untuned-{name}", f"untuned, {cluster.label}", recipe)}
        if few_shot_tasks:
            made["untuned, few-shot"] = Cell(f"untuned-few-shot-{name}", f"untuned, few-shot, {cluster.label}", shots)
        made["tuned"] = Cell(f"tuned-{name}", f"tuned without {cluster.label}", recipe, Training(recipe))
        comparisons.append(Comparison(made["untuned"].name, made["tuned"].name))
        cells += made.values()
        for title, cell in made.items():
            columns[title].append(cell.name)
        for task in members[cluster]:
            if task.has_split("train"):
                cells.append(_supervised(plan, cluster, task))
                columns["supervised"].append(cells[-1].name)
    return Ablation(
        "Every cluster held out in turn",
        "How well does a model tuned on all other kinds of task do each kind, zero-shot (the paper's main table)?",
        cells,
        [
            Panel(
                "Held-out clusters",
                "dots",
                [Series(title, list(enumerate(names))) for title, names in columns.items() if names],
            )
        ],
        comparisons,
        [
            "Each cluster has a tuned model of its own, which saw no task of it, nor of what is close to it.",
            f"Few-shot: up to {_SHOTS} exemplars. Supervised: a model for each task, tuned on that task alone for as many"
            " steps: no zero-shot result, but what it could be held against.",
        ],
    )


def _supervised(plan: Plan, cluster: Cluster, task: Task) -> Cell:
    hold_out = {"clusters": [cluster.value], "supervised": [task.name]}
    recipe = with_tasks(changed(plan.recipe, hold_out=hold_out), [task.name])
    return Cell(f"supervised-{hyphenated(task.name)}", f"supervised, {task.name}", recipe, Training(recipe))
