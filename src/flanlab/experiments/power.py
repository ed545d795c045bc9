"""Power before the run: the smallest difference that a recipe will detect, and the cheapest design for a wanted one.

Everything is computed from what the cells of a pilot vary by (`flanlab.results.power`): any earlier run, or evaluations of two
models; without one, a small table measured with two small models (`benchmarks/power_pilot.py`).
"""

from __future__ import annotations

import csv
import itertools
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import numpy as np

from flanlab.data.rendering import group_of, open_row
from flanlab.errors import FlanlabError
from flanlab.evaluation.comparison import check_agreement, score_pair
from flanlab.evaluation.planning import PlannedTask
from flanlab.evaluation.sides import Side, folder_and_variant, open_side, open_sides
from flanlab.experiments.cost import Prices
from flanlab.experiments.recipe import Plan
from flanlab.results.grids import ScoreGrid
from flanlab.results.power import UNKNOWN, Components, Parts, components, planned, pooled, shown_in_turns
from flanlab.results.statistics import Difference, mean_difference, mean_over_clusters
from flanlab.results.table import Table
from flanlab.tasks.schema import Task

DEFAULTS = "power.csv"
"""Measured components by task, with its main metric."""
COLUMNS = ("template", "within", "row", "shared_template", "shared_within", "shared_row", "seed")
NOTHING = "no difference, however large, would be detected"
SHARES_OF = {"row": "within", "shared_template": "template", "shared_within": "within", "shared_row": "row", "seed": "within"}
"""What a pilot of one seed and one template a row does not tell, and what it is a share of."""
SEED_COUNTS = (1, 3, 5)
"""Numbers of training seeds that designs are sought for."""


@dataclass(frozen=True)
class Asked:
    """How an evaluation asks a task."""

    task: Task
    templates: int
    rows: int
    units: int
    """Rows, or groups of rows where the task has them."""
    per_row: int
    """Templates that each row is shown through."""
    available: int
    """Rows that there are."""

    def with_design(self, rows: int, per_row: int) -> Asked:
        """The same task asked otherwise, as far as it has rows and templates."""
        rows = min(rows, self.available)
        units = max(1, round(rows * self.units / self.rows))
        return replace(self, rows=rows, units=units, per_row=min(per_row, self.templates))


def asked_of(own: PlannedTask) -> Asked:
    """How a task of an evaluation is asked."""
    task, rows = own.task, list(dict.fromkeys(row for row, _ in own.pairs))
    groups = len(rows)
    if task.group is not None:
        groups = len({group_of(task, open_row(task, own.rows[row], row)) for row in rows})
    return Asked(task, len(task.forward_templates()), len(rows), groups, len(own.pairs) // len(rows), len(own.rows))


def averaged(plan: Plan) -> list[Asked]:
    """The tasks that the averages of a run's results are over: those held out, or the trained ones if there are no others."""
    names = {task.name for task in plan.split.test or plan.split.in_domain}
    return [asked_of(one) for one in plan.planned if one.task.name in names]


def planned_differences(
    asked: Sequence[Asked], known: Mapping[str, Components], seeds: int = 1
) -> tuple[dict[str, Difference], Difference]:
    """What is expected of each task, and of the mean over clusters of their tasks' means (as in results)."""
    tasks = {
        one.task.name: planned(known[one.task.name], shown_in_turns(one.templates, one.units, one.per_row), seeds)
        for one in asked
    }
    clusters = mean_over_clusters(tasks, {one.task.name: one.task.clusters[0].value for one in asked})
    return tasks, mean_difference(list(clusters.values()))


def components_for(tasks: Sequence[Task], pilot: Sequence[str]) -> dict[str, Components]:
    """Variance components of each task: of the pilot, or defaults where none is named.

    Raises:
        FlanlabError: as `read_pilot`.
    """
    if not pilot:
        return {task.name: _default(task) for task in tasks}
    found, lacking = pooled(read_pilot(pilot)), Components(UNKNOWN, why="the pilot lacks the task")
    return {task.name: found.get(task.name, lacking) for task in tasks}


def read_pilot(places: Sequence[str]) -> dict[str, Components]:
    """Variance components of every task of a pilot, by its main metric; as they are, not pooled.

    Args:
        places: the folder of a run; or `folder` or `folder:variant` of a model before, then of one after (more than one, where
            the model was trained with several seeds).

    Raises:
        FlanlabError: results or predictions are missing or damaged, a single model was asked, or the models were not asked
            the same.
    """
    pairs: dict[str, list[tuple[Side, Side]]] = {}
    if len(places) == 1:
        sides = open_sides(folder_and_variant(places[0])[0])
        results = next(iter(sides.values())).results
        for name, task in results.tasks.items():
            row = results.difference("task", name, task.main_metric)
            if row is None:
                raise FlanlabError(
                    f"{places[0]}: has scores of models, but no difference between two.",
                    hint="Name a run, or give --pilot twice: the evaluation of a model before, then of one after.",
                )
            pairs[name] = [(sides[row.before], sides[row.after])]
    else:
        before, *others = (open_side(place) for place in places)
        for after in others:
            check_agreement(before, after)
            for name in before.results.tasks:
                if name in after.results.tasks:
                    pairs.setdefault(name, []).append((before, after))
    return {name: _components(name, some) for name, some in pairs.items() if len(some) >= len(places) - 1}


def _components(name: str, pairs: Sequence[tuple[Side, Side]]) -> Components:
    scored = [score_pair(name, *pair) for pair in pairs]
    before: list[ScoreGrid] = []
    after: list[ScoreGrid] = []
    for grids in (one.grids[scored[0].facts.main_metric] for one in scored):
        # A run with several seeds has several trainings after, which all stand beside the one model before.
        seeds = max(len(grids["a"]), len(grids["b"]))
        for side, found in (("a", before), ("b", after)):
            found += list(grids[side]) * (seeds // len(grids[side]))
    return components(before, after)


def _default(task: Task) -> Components:
    """The mean of the measured tasks that have its main metric.

    What was not measured of a task is taken as the share of a whole (SHARES_OF) that it is in the others.
    """
    with (resources.files("flanlab.experiments") / DEFAULTS).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    alike = [row["metric"] == task.metrics[0] for row in rows]
    if not any(alike):
        return Components(UNKNOWN, why=f"nothing is known of {task.metrics[0]} without a pilot")
    numbers = {column: np.array([float(row[column] or "nan") for row in rows]) for column in COLUMNS}
    for column, whole in SHARES_OF.items():
        known = ~np.isnan(numbers[column])
        share = numbers[column][known].sum() / numbers[whole][known].sum()
        numbers[column] = np.where(known, numbers[column], share * numbers[whole])
    means = [float(numbers[column][alike].mean()) for column in COLUMNS]
    return Components(Parts(*means[:3]), Parts(*means[3:6]), means[6])


def detectable_table(asked: Sequence[Asked], known: Mapping[str, Components], seeds: int) -> Table:
    """A row for each task, and one for their mean over clusters; see `flanlab.power`."""
    tasks, mean = planned_differences(asked, known, seeds)
    rows = [
        {
            "level": "task",
            "task": one.task.name,
            "cluster": one.task.clusters[0].value,
            "rows": one.rows,
            "templates": one.templates,
            "templates_per_row": one.per_row,
            "seeds": seeds,
            **_told(tasks[one.task.name]),
        }
        for one in asked
    ]
    nothing = dict.fromkeys(("task", "cluster", "rows", "templates", "templates_per_row"))
    return Table.from_rows([*rows, {"level": "clusters", **nothing, "seeds": seeds, **_told(mean)}])


def detects(asked: Sequence[Asked]) -> str:
    """What an evaluation will detect on average, by the defaults, in a few words."""
    _, mean = planned_differences(asked, components_for([one.task for one in asked], ()))
    if np.isnan(mean.detectable):
        return f"a difference that {mean.note} (flan power --pilot)"
    if np.isinf(mean.detectable):
        return "no difference, however large (flan power tells more)"
    clusters = len({one.task.clusters[0] for one in asked})
    over = f" on average over {clusters} clusters" if clusters > 1 else " on average" if len(asked) > 1 else ""
    return f"a difference of about {100 * mean.detectable:.1f} points{over}, with 80 % power (flan power tells more)"


def _told(found: Difference) -> dict[str, Any]:
    notes = (found.note, NOTHING if np.isinf(found.detectable) else "")
    known = np.isfinite(found.detectable)
    return {"detectable": found.detectable if known else None, "note": "; ".join(filter(None, notes))}


def _seconds(asked: Sequence[Asked], seeds: int, prices: Prices) -> float:
    """Of a whole run with so many trainings."""
    after = sum(one.rows * one.per_row for one in asked)
    baselines = sum(one.rows for one in asked)
    before = sum(count * (baselines if style == "baseline" else after) for style, count in prices.arms.items())
    return seeds * prices.training + (seeds * after * prices.arms["instruction"] + before) * prices.question


def cheapest_designs(asked: Sequence[Asked], known: Mapping[str, Components], wanted: float, prices: Prices) -> Table:
    """For each number of seeds the cheapest design that detects `wanted`, on average and on every task; see `flanlab.power`."""
    most, available = max(one.templates for one in asked), max(one.available for one in asked)

    def detects(design: Mapping[str, Any]) -> bool:
        return design["detectable"] is not None and design["detectable"] <= wanted

    def fewest_rows(aim: str, seeds: int, per_row: int) -> dict[str, Any]:
        """The design with the fewest rows that detect `wanted`; with all rows where these do not."""

        def design(rows: int) -> dict[str, Any]:
            chosen = [one.with_design(rows, per_row) for one in asked]
            tasks, mean = planned_differences(chosen, known, seeds)
            worst = max(tasks.values(), key=lambda one: np.nan_to_num(one.detectable, nan=np.inf))
            size = {"seeds": seeds, "rows": rows, "templates_per_row": per_row, "seconds": _seconds(chosen, seeds, prices)}
            return {**size, **_told(mean if aim == "average" else worst)}

        return design(1 + bisect_left(range(1, available), True, key=lambda rows: detects(design(rows))))

    found = []
    for aim, seeds in itertools.product(("average", "every task"), SEED_COUNTS):
        designs = [fewest_rows(aim, seeds, per_row) for per_row in sorted({1, 2, 4, most}) if per_row <= most]
        reached = [one for one in designs if detects(one)]
        if reached:
            best = min(reached, key=lambda one: one["seconds"])
        else:
            best = min(designs, key=lambda one: one["detectable"] or np.inf)
        found.append({"aim": aim, "reached": bool(reached), **best})
    return Table.from_rows(found)
