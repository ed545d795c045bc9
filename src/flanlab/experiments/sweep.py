"""A sweep: the cells of an ablation as steps in folders named by their content, and a loop over the steps not done yet."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from flanlab import __version__
from flanlab.data.encoding import PromptStyle
from flanlab.data.reader import RowReader
from flanlab.errors import FlanlabError
from flanlab.evaluation.planning import EvaluationSettings, PlannedTask, Setup
from flanlab.evaluation.predict import refuse_seen
from flanlab.experiments.ablations import make_ablation
from flanlab.experiments.cells import Cell, Training, changed, with_seeds, with_tasks
from flanlab.experiments.cost import TokenCosts, count_questions
from flanlab.experiments.folders import SWEEP_FILE, CellFacts, SweepFacts, is_done, state_of
from flanlab.experiments.recipe import ALLOW_OVERLAP, Plan, Recipe, make_mixture, make_plan
from flanlab.experiments.run import prompt_styles
from flanlab.experiments.steps import Step, in_this_process
from flanlab.files import alone_in, read_json, write_json
from flanlab.models.loading import LoadedModel, load_model, scoring_model
from flanlab.progress import clock, meter, say
from flanlab.settings import PREDICTIONS, RESULTS, ROUNDING, TRAINING, affecting
from flanlab.tasks.loading import BUILT_IN_COLLECTIONS

Engine = Callable[[Sequence[Step]], Iterator[tuple[Step, str]]]
"""Does steps, each after the one that it needs. Yields each with its outcome, as `carry_out` returns it."""

_PROTOCOL = "1"
"""Raise it if a change of the code changes what a key stands for."""
_LONGEST_POINTS = 40
"""Longest part of a folder's name that names points, in characters."""
_MEASURED_EXAMPLES = 200


@dataclass(frozen=True)
class Sweep:
    """An ablation planned in a folder."""

    folder: Path
    facts: SweepFacts
    """What goes into sweep.json."""
    cells: Mapping[str, Sequence[Step]]
    """By name, the steps of each cell that was asked for: trainings, and its evaluation last."""

    def to_do(self) -> list[Step]:
        """The steps that are not done yet, each once and after the one that it needs."""
        open_cells = [steps for steps in self.cells.values() if not is_done(steps[-1].folder)]
        return list({step.folder: step for steps in open_cells for step in steps if not is_done(step.folder)}.values())

    def plan(self) -> list[dict[str, Any]]:
        """What each cell adds to the work: examples, questions, and about how many seconds. Shared work counts once."""
        left = {step.folder for step in self.to_do()}
        rows = []
        for name, steps in self.cells.items():
            new = [step for step in steps if step.folder in left]
            left -= {step.folder for step in new}
            state: str = state_of([step.folder for step in steps])
            examples = sum(step.count for step in new if step.kind == "train")
            facts = {"cell": name, "examples": examples, "questions": steps[-1].count}
            seconds = sum(step.seconds for step in new)
            rows.append({**facts, "seconds": seconds, "state": state if new or state == "done" else "shared"})
        return rows

    def write(self) -> None:
        """Write sweep.json. Cells of the same sweep that other commands have planned stay in it."""
        path = self.folder / SWEEP_FILE
        with alone_in(self.folder):
            before = read_json(path) if path.exists() else {}
            known = {cell["name"]: cell for cell in before["cells"]} if before.get("content") == self.facts.content else {}
            after = self.facts.model_dump(mode="json", exclude={"cells": {"__all__": {"state", "error"}}})
            cells = [cell if cell["folders"] else known.get(cell["name"], cell) for cell in after["cells"]]
            names = {cell["name"] for cell in cells}
            more = [cell for cell in known.values() if cell["name"] not in names and cell["folders"]]
            write_json(path, {**after, "cells": cells + more})


def run_sweep(sweep: Sweep, engine: Engine = in_this_process) -> None:
    """Do what is not done yet of a sweep. A step that fails stops only the steps that need it."""
    sweep.write()
    steps = sweep.to_do()
    left = sum(step.seconds for step in steps)
    for number, (step, error) in enumerate(engine(steps), start=1):
        left -= step.seconds
        # An unexpected error has its traceback in the step's folder.
        outcome = f"failed: {error.partition(chr(10) * 2)[0]}" if error else "done"
        say(f"[{number}/{len(steps)}] {step.title}: {outcome}{f', about {clock(left)} left' if number < len(steps) else ''}")


def plan_sweep(
    name: str,
    recipe: Recipe,
    root: Path,
    rows: RowReader | None = None,
    *,
    points: Sequence[str] = (),
    only: Sequence[str] = (),
    processes: int = 1,
    seeds: int = 1,
) -> Sweep:
    """Plan an ablation: its cells, and about how long their steps take. Nothing is written.

    Args:
        name: of the ablation.
        recipe: the base recipe, which the ablation varies.
        root: folder of all sweeps that may share trained models and evaluations.
        rows: where rows come from.
        points: values of what the ablation varies. Default: the ablation's own.
        only: patterns of the names of the cells to do now, such as `tuned-*`. Default: all cells.
        processes: how many processes carry out each training and each evaluation together.
        seeds: how many times each cell is trained, each time with another seed.

    Raises:
        FlanlabError: as `make_plan`, for any of the cells; no such ablation or point; a pattern that fits no cell.
    """
    planner = Planner(root.absolute(), rows or RowReader(), processes)
    plan = planner.plan(recipe)
    ablation = with_seeds(make_ablation(name, plan, points), seeds)
    names = [cell.name for cell in ablation.cells]
    for pattern in only:
        if not fnmatch.filter(names, pattern):
            raise FlanlabError(f"--only: no cell is called {pattern!r}.", hint=f"There are: {', '.join(names)}.")
    chosen = [cell for cell in ablation.cells if not only or any(fnmatch.fnmatch(cell.name, one) for one in only)]
    cells = {}
    with meter("Planning", len(chosen)) as bar:
        for cell in chosen:
            cells[cell.name] = planner.steps(cell)
            bar.advance()
    rows_read = {**plan.train_rows, **{one.task.name: one.rows for one in plan.planned}}
    read = {task: found.source_hash for task, found in rows_read.items()}
    hashes = {task.name: task.hash for task in plan.split.tasks}
    shaping = affecting(recipe, TRAINING, *PREDICTIONS, RESULTS, ROUNDING)
    content = _key("sweep", recipe.model, shaping, hashes, read)
    folders = {name: [f"../{step.folder.parent.name}/{step.folder.name}" for step in steps] for name, steps in cells.items()}
    facts = SweepFacts(
        flanlab=__version__,
        name=name,
        title=ablation.title,
        question=ablation.question,
        notes=list(ablation.notes),
        recipe=recipe.model_dump(mode="json"),
        content=content,
        cells=[CellFacts(name=one.name, title=one.title, folders=folders.get(one.name, [])) for one in ablation.cells],
        panels=list(ablation.panels),
        comparisons=list(ablation.comparisons),
    )
    return Sweep(sweep_folder(root, name, recipe, points), facts, cells)


def sweep_folder(root: Path, name: str, recipe: Recipe, points: Sequence[str]) -> Path:
    """The folder of a sweep under `root`. The name has the points unless they are the ablation's own."""
    folder = f"{name}-{_cleaned(recipe.name)}"
    if not points:
        return root / folder
    joined = "-".join(dict.fromkeys(points))
    cleaned = _cleaned(joined).strip("-.")
    if cleaned != joined or len(cleaned) > _LONGEST_POINTS:
        # Other points might have the same name.
        digest = hashlib.blake2b(joined.encode(), digest_size=3).hexdigest()
        cleaned = f"{cleaned[:_LONGEST_POINTS].strip('-.')}-{digest}"
    return root / f"{folder}-{cleaned}"


class Planner:
    """Plans cells one after another, and remembers what several of them need: tasks, rows, models, and steps."""

    def __init__(self, root: Path, rows: RowReader, processes: int) -> None:
        self._root = root
        self._rows = rows
        mirror = None if rows.mirror is None else Path(rows.mirror).absolute()
        self._where: dict[str, Any] = {"mirror": mirror, "processes": processes}
        self._steps: dict[Path, Step] = {}
        self._plans: dict[str, Plan] = {}
        self._costs = TokenCosts()
        self._model = cache(load_model)
        self._scored = cache(lambda name, dtype: scoring_model(self._model(name), dtype))

    def plan(self, recipe: Recipe) -> Plan:
        """The recipe's tasks and rows, found once."""
        text = recipe.model_dump_json(exclude={"name", "description", "model", "training", "mixture"})
        if text not in self._plans:
            self._plans[text] = make_plan(recipe, self._rows)
        return replace(self._plans[text], recipe=recipe)

    def steps(self, cell: Cell) -> list[Step]:
        """The steps of a cell. Equal steps of different cells are one."""
        trainings = [] if cell.training is None else self._trainings(cell.training)
        return [*trainings, self._evaluation(cell, trainings[-1] if trainings else None)]

    def _trainings(self, training: Training) -> list[Step]:
        earlier = [] if training.start is None else self._trainings(training.start)
        start = earlier[-1] if earlier else None
        recipe, plan = training.recipe, self.plan(training.recipe)
        model = _place(recipe.model) if start is None else str(start.folder / "model")
        alike = _trained_alike(recipe, plan, model)
        # The split decides which tasks are tested, and so what is held out.
        shaping = [affecting(alike, TRAINING), alike.evaluation.split]
        rows = {task.name: [task.hash, plan.train_rows[task.name].source_hash] for task in plan.split.train}
        folder = self._root / "trained" / _key("train", self._identity(recipe.model, start), shaping, rows)
        if folder not in self._steps:
            names = [task.name for task in plan.split.train]
            title = f"train on {f'{len(names)} tasks' if len(names) > 1 else names[0]}"
            examples, seconds = 0, 0.0
            if not is_done(folder):
                loaded = self._model(recipe.model)
                length = make_mixture(plan).mean_length(loaded.encoder, _MEASURED_EXAMPLES)
                examples = recipe.training.steps * max(1, round(recipe.training.tokens_per_step / length))
                seconds = self._costs.training(loaded, recipe.training) / self._at_once(loaded)
            self._steps[folder] = Step(
                kind="train",
                title=title,
                folder=folder,
                recipe=alike,
                base=recipe.model,
                needs=start and start.folder,
                count=examples,
                seconds=seconds,
                **self._where,
            )
        return [*earlier, self._steps[folder]]

    def _evaluation(self, cell: Cell, training: Step | None) -> Step:
        recipe, plan = cell.recipe, self.plan(cell.recipe)
        loaded = self._model(recipe.model)
        tasks = plan.split.in_domain if cell.scope == "held_in" else plan.split.test
        planned = [one for one in plan.planned if one.task.name in {task.name for task in tasks}]
        seen = cell.scope == "held_in" or recipe.hold_out.overlap == "allow"
        # What the first model has seen. What a cell itself trains on is marked in its results.
        refuse_seen(tasks, loaded.name, loaded.stamp, seen, way=ALLOW_OVERLAP)
        seen = seen or bool(recipe.hold_out.supervised)
        styles: tuple[PromptStyle, ...] = ("instruction",) if training else tuple(prompt_styles(loaded, tasks))
        asked = {one.task.name: self._asked(one, recipe.evaluation) for one in planned}
        settings = affecting(recipe.evaluation, *PREDICTIONS, RESULTS, ROUNDING)
        key = _key("evaluate", self._identity(recipe.model, training), settings, asked, styles, recipe.seed, seen)
        folder = self._root / "cells" / key
        if folder not in self._steps:
            questions = count_questions(planned, recipe.evaluation, styles)
            seconds = 0.0
            if not is_done(folder):
                setup = Setup(self._scored(recipe.model, recipe.evaluation.dtype), recipe.evaluation, recipe.seed)
                seconds = questions * self._costs.question(setup, planned) / self._at_once(loaded)
            told = changed(recipe, tasks=_places(recipe), model=_place(recipe.model)) if training is None else training.recipe
            told = changed(told, name=cell.name, seed=recipe.seed, evaluation=recipe.evaluation.model_dump(mode="json"))
            self._steps[folder] = Step(
                kind="evaluate",
                title=f"evaluate {cell.title}",
                folder=folder,
                recipe=told,
                base=recipe.model,
                needs=training and training.folder,
                tasks=tuple(asked),
                styles=styles,
                seen=seen,
                count=questions,
                seconds=seconds,
                **self._where,
            )
        return self._steps[folder]

    def _identity(self, base: str, training: Step | None) -> str:
        """Hash of a model's weights, or of the training that makes them."""
        return self._model(base).identity if training is None else training.folder.name

    def _asked(self, own: PlannedTask, settings: EvaluationSettings) -> list[str | None]:
        """Hashes of everything that is read of a task to evaluate it."""
        read = [own.task.hash, own.rows.source_hash, own.exemplars.source_hash if own.exemplars else None]
        if settings.choose_template and own.task.has_split("dev"):
            read.append(self._rows.read(own.task, "dev").source_hash)
        return read

    def _at_once(self, loaded: LoadedModel) -> int:
        # Each process has a GPU of its own, but processes without a GPU share the cores.
        return int(self._where["processes"]) if loaded.model.device.type == "cuda" else 1


def _trained_alike(recipe: Recipe, plan: Plan, model: str) -> Recipe:
    """A recipe for the same training that is the same for all cells: it names each task, and of the evaluation only the split,
    which decides which tasks are tested.
    """
    names = {task.name for task in plan.split.train} | {task.name for task in plan.split.held_out}
    most = max((len(task.forward_templates()) for task in plan.split.train), default=0)
    unlimited = {"templates_per_task": None} if (recipe.mixture.templates_per_task or 0) >= most else {}
    alike = changed(
        with_tasks(recipe, names),
        name="trained",
        description="",
        model=model,
        tasks=_places(recipe),
        in_domain=None,
        mixture=unlimited,
    )
    return alike.model_copy(update={"evaluation": EvaluationSettings(split=recipe.evaluation.split)})


def _places(recipe: Recipe) -> dict[str, Any]:
    """The recipe's collections as a process in another folder finds them."""
    names = recipe.tasks.collections
    return {"collections": [name if name in BUILT_IN_COLLECTIONS else _place(name) for name in names]}


def _place(name: str) -> str:
    """A local folder by its full path; any other name unchanged."""
    return str(Path(name).absolute()) if Path(name).exists() else name


def _cleaned(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", name)


def _key(*facts: Any) -> str:
    """Name of a folder, from everything that shapes its content."""
    text = json.dumps([_PROTOCOL, __version__, *facts], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
