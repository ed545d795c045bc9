"""What a test of the paper's claims would cost on this machine, and which effects it could detect, before anything is run.

A claim is a weighted sum of cells, each task of which is taken as it will be asked.
"""

from __future__ import annotations

import fnmatch
import json
import shlex
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from flanlab.data.reader import RowReader
from flanlab.errors import FlanlabError
from flanlab.experiments.ablations import make_ablation
from flanlab.experiments.cells import SEED_MARK, Ablation, Cell, with_seeds
from flanlab.experiments.claims import detectable_effect, over_clusters
from flanlab.experiments.folders import is_done
from flanlab.experiments.paper_claims import CLAIMS, Claim, Part
from flanlab.experiments.power import Asked, asked_of, components_for
from flanlab.experiments.recipe import AnyRecipe, Plan, as_recipe, read_recipe
from flanlab.experiments.sweep import Planner
from flanlab.files import write_text
from flanlab.progress import say
from flanlab.results.intervals import POWER, Floats
from flanlab.results.layout import UNKNOWN, Variance
from flanlab.results.power import Components, planned, shown_in_turns
from flanlab.results.statistics import FEWEST_TEMPLATES, Difference, difference_of
from flanlab.results.table import Table

BASE_RECIPE = "claims-base.yaml"
_COLUMNS = (
    *("claim", "smallest_effect", "detectable", "rows", "rows_needed", "seeds"),
    *("ablation", "command", "cells", "trainings", "questions", "seconds", "note"),
)


def plan_claims(
    recipe: AnyRecipe,
    *,
    models: Sequence[str] = (),
    seeds: int = 1,
    power: float = POWER,
    pilot: Sequence[str] = (),
    out: str | Path = "runs/ablations",
    mirror: str | Path | None = None,
) -> Table:
    """What a test of the paper's nine claims would cost on this machine, and which effects it could detect. Nothing is run.

    Args:
        recipe: the base recipe of the ablations, as for `run`. The commands name its file.
        models: further ones, each larger than the one before, for the claim on scale. The first of all is the recipe's.
        seeds: trainings of each cell. With 1, the result does not cover other seeds.
        power: chance, between 0 and 1, of detecting an effect of the returned size.
        pilot: as for `flanlab.power`; the variance of its difference stands for that of any two cells.
        out: folder of the sweeps. What is done there costs nothing.
        mirror: as for `run`.

    Returns:
        A row for each claim: `claim`, `smallest_effect` (that counts), `detectable` (0 to 1; None where it cannot be
        estimated), `rows` (most of a task), `rows_needed` (that detect the smallest effect; None where all rows do not),
        `seeds`, `ablation` and its `command`; `cells`, `trainings`, `questions` and `seconds`, which are 0 where a claim above
        needs the same ablation, and leave out work that an ablation above does; and `note`.

    Raises:
        FlanlabError: rows, a model or the pilot are not available, the recipe is invalid, or a number is out of range.

    Examples:
        >>> import flanlab as fl
        >>> tasks = {"collections": ["sampler"], "include": ["sentiment", "natural_language_inference", "coreference"]}
        >>> table = fl.plan_claims({**example_recipe, "tasks": tasks})
        >>> len(table.rows()), table.where(claim="few-shot adds").column("ablation")
        (9, ['few-shot'])
    """
    if seeds < 1 or not 0.5 <= power < 1:
        raise FlanlabError("`seeds` is at least 1, and `power` lies between 0.5 and 1.", hint="80 % are 0.8 (--power 80).")
    planner = Planner(Path(out).absolute(), RowReader(mirror), processes=1)
    named = str(recipe) if isinstance(recipe, str | Path) else "RECIPE"
    base = planner.plan(as_recipe(recipe))
    scale = [base.recipe.model, *models]
    grids, reasons = _grids(base, scale)
    chosen = _chosen(grids)
    counted: set[Path] = set()
    table: list[dict[str, Any]] = []
    for claim in CLAIMS:
        row = {"claim": claim.name, "smallest_effect": claim.smallest, "seeds": seeds}
        name = chosen.get(claim.name)
        if name is None:
            note = " ".join(reasons[name] for name in claim.ablations if name in reasons)
            table.append({**row, "cells": 0, "trainings": 0, "questions": 0, "seconds": 0.0, "note": note})
            continue
        needing = [one for one in CLAIMS if chosen.get(one.name) == name]
        cells = _needed(grids[name], needing, seeds)
        design = _design(claim, grids[name], planner, pilot, seeds, power)
        value, note = design.detectable()
        row |= {"detectable": None if np.isnan(value) else value, "rows": max(one.rows for one in design.tasks())}
        row |= {"rows_needed": design.rows_needed(), "ablation": name}
        row |= {"command": _command(name, grids[name], cells, scale, seeds, named, str(out))}
        table.append({**row, **_work(cells if claim is needing[0] else [], planner, counted), "note": note})
    return Table.from_rows([{**dict.fromkeys(_COLUMNS), **row} for row in table])


def write_base_recipe(model: str, folder: Path) -> Path:
    """Write a base recipe for a model into the folder of the sweeps; one that is there already is kept if it is for this model.

    Raises:
        FlanlabError: it is for another model.
    """
    path = folder / BASE_RECIPE
    if not path.exists():
        template = (resources.files("flanlab.experiments") / BASE_RECIPE).read_text(encoding="utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, template.replace("MODEL", json.dumps(model)))
        say(f"The base recipe is {path}: change it as you like, and plan again.")
    elif (before := read_recipe(path).model) != model:
        raise FlanlabError(f"{path} is there already, for {before}.", hint="Name another FOLDER for another model.")
    return path


def _grids(base: Plan, models: Sequence[str]) -> tuple[dict[str, Ablation], dict[str, str]]:
    """The ablations that claims can be tested on with the base recipe, and why the others cannot be used."""
    grids, reasons = {}, {}
    for claim in CLAIMS:
        for name in claim.ablations:
            try:
                grid = make_ablation(name, base, list(models) if name == "scale" else ())
            except FlanlabError as error:
                reasons[name] = f"{name}: {error.message}"
                continue
            if claim.parts([cell.name for cell in grid.cells]):
                grids[name] = grid
            else:
                reasons[name] = f"{name}: the recipe has too few clusters or tasks for it."
    return grids, reasons


def _chosen(grids: Collection[str]) -> dict[str, str]:
    """Each claim's ablation: one that another claim needs anyway, else the first that can be used."""
    usable = {claim.name: [name for name in claim.ablations if name in grids] for claim in CLAIMS}
    needed = {claim.ablations[0] for claim in CLAIMS if len(claim.ablations) == 1}
    return {claim: next((name for name in names if name in needed), names[0]) for claim, names in usable.items() if names}


def _needed(ablation: Ablation, claims: Iterable[Claim], seeds: int) -> list[Cell]:
    """The cells that claims compare, with those of further seeds."""
    names = [cell.name for cell in ablation.cells]
    wanted = {name for claim in claims for part in claim.parts(names) for weights in part.sums for name in weights}
    return [cell for cell in with_seeds(ablation, seeds).cells if cell.name.partition(SEED_MARK)[0] in wanted]


def _command(
    name: str, ablation: Ablation, cells: Sequence[Cell], models: Sequence[str], seeds: int, recipe: str, out: str
) -> str:
    words = ["flan", "ablate", name, recipe]
    if name == "scale":
        words += ["--points", ",".join(models)]
    every, wanted = [cell.name for cell in with_seeds(ablation, seeds).cells], [cell.name for cell in cells]
    for pattern in [] if len(wanted) == len(every) else _patterns(every, wanted):
        words += ["--only", pattern]
    return shlex.join([*words, *(["--seeds", str(seeds)] if seeds > 1 else []), "--out", out])


def _patterns(every: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Few patterns that fit the wanted names alone: the shortest beginnings, up to a hyphen, that no other name has."""
    patterns: list[str] = []
    for name in wanted:
        if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            words = name.split("-")
            tries = ("-".join(words[:count]) + "-*" for count in range(1, len(words)))
            fitting = (one for one in tries if set(fnmatch.filter(every, one)) <= set(wanted))
            patterns.append(next(fitting, name))
    return patterns


def _work(cells: Sequence[Cell], planner: Planner, counted: set[Path]) -> dict[str, float]:
    """What is left to do for cells, without the steps in `counted`; their own are added there."""
    steps = {step.folder: step for cell in cells for step in planner.steps(cell) if step.folder not in counted}
    counted |= set(steps)
    new = [step for step in steps.values() if not is_done(step.folder)]
    return {
        "cells": len(cells),
        "trainings": sum(step.kind == "train" for step in new),
        "questions": sum(step.count for step in new if step.kind == "evaluate"),
        "seconds": sum(step.seconds for step in new),
    }


def _design(claim: Claim, grid: Ablation, planner: Planner, pilot: Sequence[str], seeds: int, power: float) -> ClaimDesign:
    recipes = {cell.name: cell.recipe for cell in grid.cells}

    def asked(cell: str) -> list[Asked]:
        plan = planner.plan(recipes[cell])
        held_out = {task.name for task in plan.split.test}
        return [asked_of(one) for one in plan.planned if one.task.name in held_out]

    parts = [(part, [asked(next(iter(weights))) for weights in part.sums]) for part in claim.parts(list(recipes))]
    known = components_for([one.task for _, sums in parts for tasks in sums for one in tasks], pilot)
    return ClaimDesign(claim, parts, known, seeds, power)


@dataclass(frozen=True)
class ClaimDesign:
    """A claim, how the tasks of its weighted sums will be asked, and what their scores vary by."""

    claim: Claim
    parts: Sequence[tuple[Part, Sequence[Sequence[Asked]]]]
    """Each part, with the tasks of each of its weighted sums."""
    known: Mapping[str, Components]
    """Of a difference of two cells, by task; half of it is taken for what is a cell's own."""
    seeds: int
    power: float

    def tasks(self) -> Iterator[Asked]:
        """Every task of every sum."""
        return (one for _, sums in self.parts for tasks in sums for one in tasks)

    def detectable(self, rows: int | None = None) -> tuple[float, str]:
        """The effect that each part of the claim shows, and what to know of it; NaN where it cannot be estimated.

        Args:
            rows: of each task, as far as it has them; None: as planned.
        """
        means = [self._mean(part, sums, rows) for part, sums in self.parts]
        values = [detectable_effect(mean, self.claim.kind, self.power) for mean in means]
        return float(np.max(values)), next((mean.note for mean in means if mean.note), "")

    def rows_needed(self) -> int | None:
        """The fewest rows of each task that show the smallest effect that counts; None where all rows do not."""

        def detects(rows: int) -> bool:
            return self.detectable(rows)[0] <= self.claim.smallest

        most = max(one.available for one in self.tasks())
        return 1 + bisect_left(range(1, most), True, key=detects) if detects(most) else None

    def _mean(self, part: Part, sums: Sequence[Sequence[Asked]], rows: int | None) -> Difference:
        by_task: dict[str, list[Difference]] = {}
        homes: dict[str, str] = {}
        for weights, tasks in zip(part.sums, sums, strict=True):
            for asked in tasks:
                one = asked if rows is None else asked.with_design(rows, asked.per_row)
                by_task.setdefault(one.task.name, []).append(self._expected(list(weights.values()), one))
                homes[one.task.name] = one.task.clusters[0].value
        return over_clusters(part.title, by_task, homes).mean

    def _expected(self, weights: Sequence[float], asked: Asked) -> Difference:
        """What is expected of a weighted sum of cells on one task, where the truth is no effect."""
        shown, known = shown_in_turns(asked.templates, asked.units, asked.per_row), self.known[asked.task.name]
        if self.claim.statistic == "spread":
            return _expected_spread(known, shown)
        pair = planned(known, shown, self.seeds)
        factor = float(np.square(weights).sum()) / 2
        between, freedom, common, error, floor = pair.variance
        variance = Variance(between * factor, freedom, common * factor, error * factor, floor * factor)
        return difference_of(0.0, variance, pair.bounds, shown.shape[1], pair.note)


def _expected_spread(known: Components, shown: Floats) -> Difference:
    """Of a difference of two spreads over templates.

    Of normal scores of two cells with the same spread s and the correlation r over templates, the difference of the spreads
    has the variance s^2 (1 - r^2) / (templates - 1). That is at most the variance of the scores' difference, 2 s^2 (1 - r),
    divided by the same number.
    """
    templates, one = len(shown), planned(known, shown)
    if templates < FEWEST_TEMPLATES or not shown.all():
        why = "cannot be estimated: a spread over templates needs each row through all templates, four or more"
        return difference_of(0.0, UNKNOWN, one.bounds, shown.shape[1], why)
    none = np.zeros(())
    between = np.asarray(one.variance.between * templates / (templates - 1))
    return difference_of(0.0, Variance(between, none + templates - 1, none, none, none), one.bounds, shown.shape[1], one.note)
