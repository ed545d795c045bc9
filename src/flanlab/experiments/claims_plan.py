"""What a test of the paper's claims would cost on this machine, and which effects it could detect, before anything is run."""

from __future__ import annotations

import fnmatch
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from flanlab.data.reader import RowReader
from flanlab.errors import FlanlabError
from flanlab.evaluation.planning import EvaluationUnit
from flanlab.experiments.ablations import make_ablation
from flanlab.experiments.cells import SEED_MARK, Ablation, Cell, Training, with_seeds
from flanlab.experiments.claims_power import ClaimDesign
from flanlab.experiments.cost import ANSWERING_COST, TRAINING_COST, mean_question_length, scoring_speed
from flanlab.experiments.paper_claims import CLAIMS, Claim, Part
from flanlab.experiments.power import Asked, asked_of, components_for
from flanlab.experiments.recipe import Plan, Recipe, make_plan
from flanlab.experiments.run import plan_test_units, prompt_styles
from flanlab.models.loading import load_model
from flanlab.progress import say
from flanlab.results.intervals import POWER
from flanlab.results.table import Table
from flanlab.settings import TRAINING, affecting
from flanlab.tasks.loading import load_collections


@dataclass(frozen=True)
class PlannedAblation:
    """The cells of an ablation that claims need. Work that an ablation before it brings along is not counted again."""

    name: str
    command: str
    cells: int
    trainings: int
    questions: int
    seconds: float


@dataclass(frozen=True)
class PlannedClaim:
    """A claim, where its cells come from, and what its design could detect. Effects are 0 to 1."""

    claim: Claim
    ablation: PlannedAblation | None = None
    rows: int | None = None
    """Most rows of a task."""
    detectable: float | None = None
    """The smallest effect, or margin, that the design shows at the wanted power; None where it cannot be estimated."""
    rows_needed: int | None = None
    """Rows of each task that detect the smallest effect worth calling one; None where all rows there are do not."""
    note: str = ""


def plan_claims(
    recipe: Recipe,
    rows: RowReader | None = None,
    *,
    models: Sequence[str] = (),
    seeds: int = 1,
    power: float = POWER,
    pilot: Sequence[str] = (),
    named: str = "RECIPE",
    out: str = "runs/ablations",
) -> Table:
    """What a test of the paper's nine claims would cost on this machine, and which effects it could detect. Nothing is run.

    Args:
        recipe: the base recipe of the ablations.
        rows: where rows come from.
        models: further ones, each larger than the one before, for the claim on scale. The first of all is the recipe's.
        seeds: trainings of each cell. With 1, nothing is said of other seeds.
        power: chance, between 0 and 1, of detecting an effect of the size that is told.
        pilot: as for `flanlab.power`; the variance of its difference stands for that of any two cells.
        named: the recipe's file in the commands.
        out: folder of the sweeps in the commands.

    Returns:
        A row for each claim: `claim`, `smallest_effect` (worth calling one), `detectable` (0 to 1; None where it cannot be
        estimated), `rows` (most of a task), `rows_needed` (that detect the smallest effect; None where all rows do not),
        `seeds`, `ablation` and its `command`; `cells`, `trainings`, `questions` and `seconds`, which are 0 where a claim above
        needs the same ablation, and leave out work that an ablation above does; and `note`.

    Raises:
        FlanlabError: rows, a model or the pilot are not available, the recipe is invalid, or a number is out of range.

    Examples:
        >>> import flanlab as fl
        >>> table = fl.plan_claims(fl.Recipe.model_validate(example_recipe))
        >>> len(table.rows()), table.where(claim="few-shot adds").column("ablation")
        (9, ['few-shot'])
    """
    if seeds < 1 or not 0.5 <= power < 1:
        raise FlanlabError("`seeds` is at least 1, and `power` lies between 0.5 and 1.", hint="80 % are 0.8 (--power 80).")
    planner = _Planner(rows or RowReader())
    base, scale = planner.plan(recipe), [recipe.model, *models]
    grids, reasons = _grids(base, scale)
    chosen = _chosen(grids)
    work: set[str] = set()
    ablations = {}
    for name in dict.fromkeys(chosen.values()):
        cells = _needed(grids[name], [claim for claim in CLAIMS if chosen.get(claim.name) == name], seeds)
        command = _command(name, grids[name], cells, scale, seeds, named, out)
        ablations[name] = planner.priced(name, command, cells, work)
    plan = []
    for claim in CLAIMS:
        if claim.name not in chosen:
            plan.append(PlannedClaim(claim, note=" ".join(reasons[name] for name in claim.ablations if name in reasons)))
            continue
        grid = grids[chosen[claim.name]]
        parts = planner.asked(claim.parts([cell.name for cell in grid.cells]), grid)
        known = components_for([one.task for _, sums in parts for tasks in sums for one in tasks], pilot)
        plan.append(_planned_claim(claim, ablations[chosen[claim.name]], ClaimDesign(claim, parts, known, seeds, power)))
    return _table(plan, seeds)


def _table(plan: Sequence[PlannedClaim], seeds: int) -> Table:
    rows: list[dict[str, Any]] = []
    counted: set[str] = set()
    for one in plan:
        ablation = one.ablation
        row: dict[str, Any] = {
            "claim": one.claim.name,
            "smallest_effect": one.claim.smallest,
            "detectable": one.detectable,
            "rows": one.rows,
            "rows_needed": one.rows_needed,
            "seeds": seeds,
            "ablation": ablation.name if ablation else None,
            "command": ablation.command if ablation else None,
        }
        for name in ("cells", "trainings", "questions", "seconds"):
            # Only once, so that a column can be added up.
            row[name] = getattr(ablation, name) if ablation and ablation.name not in counted else 0
        counted.add(ablation.name if ablation else "")
        rows.append({**row, "note": one.note})
    return Table.from_rows(rows)


def base_recipe_text(model: str) -> str:
    """The YAML of a base recipe for a model that has none."""
    template = resources.files("flanlab.experiments") / "claims-base.yaml"
    return template.read_text(encoding="utf-8").replace("MODEL", json.dumps(model))


def _grids(base: Plan, models: Sequence[str]) -> tuple[dict[str, Ablation], dict[str, str]]:
    """The ablations of the claims that the base recipe allows, and why it does not allow the others."""
    grids, reasons = {}, {}
    for name in dict.fromkeys(name for claim in CLAIMS for name in claim.ablations):
        try:
            grids[name] = make_ablation(name, base, list(models) if name == "scale" else ())
        except FlanlabError as error:
            reasons[name] = f"{name}: {error.message}"
    for claim in CLAIMS:
        for name in claim.ablations:
            if name in grids and not claim.parts([cell.name for cell in grids[name].cells]):
                reasons.setdefault(name, f"{name}: the recipe has too few clusters or tasks for it.")
    return grids, reasons


def _chosen(grids: Mapping[str, Ablation]) -> dict[str, str]:
    """Each claim's ablation: one that another claim needs anyway, else the first that the recipe allows."""
    usable = {
        claim.name: [
            name for name in claim.ablations if name in grids and claim.parts([cell.name for cell in grids[name].cells])
        ]
        for claim in CLAIMS
    }
    needed = {names[0] for claim in CLAIMS if len(claim.ablations) == 1 and (names := usable[claim.name])}
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


class _Planner:
    """Remembers what several cells need: tasks, rows, models, and how long their questions are."""

    def __init__(self, rows: RowReader) -> None:
        self._rows = rows
        self._plans: dict[str, Plan] = {}
        self._lengths: dict[str, float] = {}
        self._tasks = cache(load_collections)
        self._model = cache(lambda name: load_model(name, say=say))
        self._speed = cache(lambda name: scoring_speed(self._model(name)))

    def plan(self, recipe: Recipe) -> Plan:
        """The recipe's tasks and rows, found once."""
        text = recipe.model_dump_json(exclude={"name", "description", "model", "training", "mixture"})
        if text not in self._plans:
            self._plans[text] = make_plan(recipe, self._rows, read_tasks=lambda names: self._tasks(tuple(names)))
        return self._plans[text].model_copy(update={"recipe": recipe})

    def units(self, recipe: Recipe) -> list[EvaluationUnit]:
        """What is asked of the held-out tasks."""
        plan = self.plan(recipe)
        held_out = {task.name for task in plan.split.test}
        return [unit for unit in plan_test_units(plan) if unit.task.name in held_out]

    def priced(self, name: str, command: str, cells: Sequence[Cell], work: set[str]) -> PlannedAblation:
        """An ablation's cost, without what is in `work` already; its own is added there."""
        trainings, questions, seconds = 0, 0, 0.0
        for cell in cells:
            for key, recipe in self._trainings(cell.training):
                if key not in work:
                    trainings += 1
                    tokens = recipe.training.steps * recipe.training.tokens_per_step
                    seconds += tokens / self._speed(recipe.model) * TRAINING_COST
                    work.add(key)
            count, length, key = self._questions(cell)
            if key not in work:
                questions += count
                seconds += count * length / self._speed(cell.recipe.model) * ANSWERING_COST
                work.add(key)
        return PlannedAblation(name, command, len(cells), trainings, questions, seconds)

    def asked(self, parts: Sequence[Part], ablation: Ablation) -> list[tuple[Part, list[list[Asked]]]]:
        """Parts of a claim, with how the tasks of each of their weighted sums are asked."""
        recipes = {cell.name: cell.recipe for cell in ablation.cells}
        return [(part, [list(map(asked_of, self.units(recipes[next(iter(one))]))) for one in part.sums]) for part in parts]

    def _trainings(self, training: Training | None) -> list[tuple[str, Recipe]]:
        """The trainings of a cell in their order, each with a key of all that shapes its model."""
        if training is None:
            return []
        earlier = self._trainings(training.start)
        shaping: dict[str, Any] = affecting(training.recipe, TRAINING)
        # Recipes that name other tasks may train on the same ones.
        shaping |= {"tasks": sorted(task.name for task in self.plan(training.recipe).split.train), "hold_out": None}
        key = json.dumps([earlier[-1][0] if earlier else training.recipe.model, shaping], sort_keys=True)
        return [*earlier, (key, training.recipe)]

    def _questions(self, cell: Cell) -> tuple[int, float, str]:
        """How many questions a cell asks, the tokens of one on average, and a key of both and of the model."""
        recipe, units, loaded = cell.recipe, self.units(cell.recipe), self._model(cell.recipe.model)
        styles = ["instruction"] if cell.training else prompt_styles(loaded, [unit.task for unit in units])
        count = sum(len(unit.asked(style)) * len(recipe.evaluation.arms(style)) for unit in units for style in styles)
        asked = [recipe.model, recipe.seed, recipe.evaluation.model_dump_json(), [unit.task.name for unit in units]]
        key = json.dumps(asked)
        if key not in self._lengths:
            self._lengths[key] = mean_question_length(units, recipe, loaded)
        model = self._trainings(cell.training)[-1][0] if cell.training else "untuned"
        return count, self._lengths[key], json.dumps([model, key])


def _planned_claim(claim: Claim, ablation: PlannedAblation, design: ClaimDesign) -> PlannedClaim:
    value, note = design.detectable()
    known = None if np.isnan(value) else value
    return PlannedClaim(claim, ablation, max(one.rows for one in design.tasks()), known, design.rows_needed(), note)
