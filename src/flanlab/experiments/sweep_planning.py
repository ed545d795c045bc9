"""Planning a sweep: each cell's work keyed by its content, so that equal work is done once, and told before it costs."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flanlab import __version__
from flanlab.data.encoding import PromptStyle
from flanlab.data.reader import RowReader
from flanlab.errors import FlanlabError
from flanlab.evaluation.planning import EvaluationSettings, EvaluationUnit, plan_task
from flanlab.evaluation.predict import refuse_seen
from flanlab.evaluation.questions import ask
from flanlab.evaluation.setup import Setup
from flanlab.experiments.ablations import make_ablation
from flanlab.experiments.cells import SEED_MARK, Cell, Training, changed, with_seeds, with_tasks
from flanlab.experiments.cost import ANSWERING_COST, TRAINING_COST, scoring_speed
from flanlab.experiments.recipe import ALLOW_OVERLAP, Plan, Recipe, make_plan
from flanlab.experiments.run import make_mixture, prompt_styles
from flanlab.experiments.sweep import PlannedCell, Sweep, read_told, sweep_folder
from flanlab.experiments.sweep_jobs import JOBS, Job, is_done
from flanlab.files import read_json
from flanlab.models.loading import LoadedModel, load_model
from flanlab.progress import meter, say
from flanlab.settings import PREDICTIONS, RESULTS, ROUNDING, TRAINING, affecting
from flanlab.tasks.loading import BUILT_IN_COLLECTIONS, load_collections
from flanlab.tasks.schema import Task

_PROTOCOL = "1"
"""Raise it when code here changes what a key stands for."""
_MEASURED_QUESTIONS = 8
_MEASURED_EXAMPLES = 200


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
    """Plan an ablation: its cells, what of them is done already, and what the rest will cost. Nothing is written.

    Args:
        name: of the ablation.
        recipe: the base recipe, which the ablation varies.
        root: folder of all sweeps that may share trained models and evaluations.
        rows: where rows come from.
        points: other places of the grid than the usual ones.
        only: patterns of the names of the cells to do now, such as `tuned-*`; of the others those that earlier sweeps of the
            same folder have done are kept, and the rest is left out.
        processes: how many carry out each training and each evaluation together.
        seeds: how many times each training is repeated, with a seed of its own each.

    Raises:
        FlanlabError: as `make_plan`, for any of the cells; no such ablation or point; a pattern that fits no cell.
    """
    planner = _Planner(root.absolute(), rows or RowReader(), processes)
    folder = sweep_folder(root, name, recipe, points)
    told = read_told(folder).get("cells", [])
    plain = make_ablation(name, planner.plan(recipe), points)
    # Cells of more seeds that earlier commands have done stay.
    most = max((int(cell["name"].partition(SEED_MARK)[2] or 0) + 1 for cell in told), default=1)
    ablation = with_seeds(plain, max(seeds, most))
    names = [cell.name for cell in with_seeds(plain, seeds).cells]
    for pattern in only:
        if not fnmatch.filter(names, pattern):
            raise FlanlabError(f"--only: no cell is called {pattern!r}.", hint=f"There are: {', '.join(names)}.")
    chosen = {one for one in names if not only or any(fnmatch.fnmatch(one, pattern) for pattern in only)}
    earlier = {cell["name"] for cell in told} - chosen
    considered = [cell for cell in ablation.cells if cell.name in chosen | earlier]
    cells = []
    with meter("Planning", len(considered)) as bar:
        for cell in considered:
            planned = planner.cell(cell) if cell.name in chosen else planner.cell_if_done(cell)
            if planned is not None:
                cells.append(planned)
            bar.advance()
    told_done = frozenset(cell["folder"] for cell in told if cell["state"] == "done")
    return Sweep(name, recipe, ablation, root, folder, cells, told_done, planner.jobs, planner.speed_from())


class _Planner:
    """What planning learns on the way: jobs by key, tasks and rows, plans of recipes, base models, lengths and speeds."""

    def __init__(self, root: Path, rows: RowReader, processes: int) -> None:
        self.jobs: dict[str, Job] = {}
        self._root = root
        self._rows = rows
        self._processes = processes
        self._tasks: dict[tuple[str, ...], list[Task]] = {}
        self._plans: dict[str, Plan] = {}
        self._models: dict[str, LoadedModel] = {}
        self._lengths: dict[str, float] = {}
        self._earlier: dict[tuple[str, str], list[float]] = {}
        self._measured: dict[str, float] = {}
        self._remembered = False
        for path in sorted((root / JOBS).glob("*.json")):
            record = read_json(path)
            if "tokens_per_second" in record and record.get("processes", 1) == processes:
                self._earlier.setdefault((record["kind"], record["model"]), []).append(record["tokens_per_second"])

    def plan(self, recipe: Recipe) -> Plan:
        """The recipe's tasks and rows, found once."""
        text = recipe.model_dump_json(exclude={"name", "description", "model", "training", "mixture"})
        if text not in self._plans:
            self._plans[text] = make_plan(recipe, self._rows, read_tasks=self._read_tasks)
        return self._plans[text].model_copy(update={"recipe": recipe})

    def cell(self, cell: Cell) -> PlannedCell:
        """The jobs of a cell; those that another cell has already are shared."""
        training = None if cell.training is None else self._train(cell.training)
        evaluation = self._evaluate(cell, training)
        chain = [evaluation]
        while (needed := chain[0].needs) is not None:
            chain.insert(0, self.jobs[needed])
        return PlannedCell(cell, tuple(job.key for job in chain))

    def cell_if_done(self, cell: Cell) -> PlannedCell | None:
        """A cell that nobody asks for now: its jobs if it is done, by the content that it would have today."""
        try:
            planned = self.cell(cell)
        except FlanlabError:  # its rows or its model, which were there once, are out of reach now
            return None
        return planned if is_done(self.jobs[planned.chain[-1]]) else None

    def speed_from(self) -> str:
        """Where the expected seconds come from."""
        sources = ["earlier cells"] if self._remembered else []
        sources += ["a measurement on this machine"] if self._measured else []
        return " and ".join(sources)

    def _read_tasks(self, collections: Sequence[str]) -> list[Task]:
        names = tuple(collections)
        if names not in self._tasks:
            self._tasks[names] = load_collections(names)
        return self._tasks[names]

    def _train(self, training: Training) -> Job:
        start = None if training.start is None else self._train(training.start)
        recipe, plan = training.recipe, self.plan(training.recipe)
        base = recipe.model
        model = _place(base) if start is None else str(start.folder / "model")
        told = _told_alike(recipe, plan, model)
        # The split decides which tasks are tested, and so what is held out.
        shaping = [affecting(told, TRAINING), told.evaluation.split]
        rows = {task.name: [task.hash, plan.train_rows[task.name].source_hash] for task in plan.split.train}
        key = _key("train", self._model(base).identity if start is None else start.key, shaping, rows)
        if key not in self.jobs:
            alone = plan.split.train[0].name
            title = f"train on {f'{len(plan.split.train)} tasks' if len(plan.split.train) > 1 else alone}"
            content = told.model_dump(mode="json")
            job = Job(
                "train",
                key,
                title,
                str(self._root),
                content,
                self._mirror_text,
                None if start is None else start.key,
                base,
                processes=self._processes,
            )
            self.jobs[key] = self._priced(job, self._training_cost(job, plan, base))
        return self.jobs[key]

    def _evaluate(self, cell: Cell, training: Job | None) -> Job:
        recipe, plan = cell.recipe, self.plan(cell.recipe)
        loaded = self._model(recipe.model)
        units = self._units(cell, plan)
        tasks = [unit.task for unit in units]
        # What the first model has seen; what a cell itself trains on is for its own results to say.
        refuse_seen(tasks, loaded, cell.scope == "held_in" or recipe.hold_out.overlap == "allow", way=ALLOW_OVERLAP)
        styles: tuple[PromptStyle, ...] = ("instruction",) if training else tuple(prompt_styles(loaded, tasks))
        seen = cell.scope == "held_in" or bool(recipe.hold_out.supervised) or recipe.hold_out.overlap == "allow"
        asked = {unit.task.name: self._asked(unit, recipe.evaluation) for unit in units}
        settings = affecting(recipe.evaluation, *PREDICTIONS, RESULTS, ROUNDING)
        key = _key("evaluate", training.key if training else loaded.identity, settings, asked, styles, recipe.seed, seen)
        if key not in self.jobs:
            model = _place(recipe.model) if training is None else str(training.folder / "model")
            told = Recipe.model_validate(training.recipe) if training else changed(recipe, tasks=_places(recipe))
            # Questions are the cell's, whichever seed its model was trained with.
            told = told.model_copy(update={"seed": recipe.seed})
            job = Job(
                "evaluate",
                key,
                f"evaluate {cell.title}",
                str(self._root),
                changed(told, name=cell.name, evaluation=recipe.evaluation.model_dump(mode="json")).model_dump(mode="json"),
                self._mirror_text,
                training.key if training else None,
                recipe.model,
                model,
                tuple(asked),
                styles,
                seen,
                processes=self._processes,
            )
            self.jobs[key] = self._priced(job, self._evaluation_cost(job, units, recipe, loaded))
        return self.jobs[key]

    def _units(self, cell: Cell, plan: Plan) -> list[EvaluationUnit]:
        settings, seed = cell.recipe.evaluation, cell.recipe.seed
        tasks: Sequence[Task] = plan.split.test
        rows, exemplars = plan.test_rows, plan.exemplar_rows
        if cell.scope == "held_in":
            whole = [task for task in plan.split.train if task.has_split(settings.split)]
            tasks = [subtask for task in whole for subtask in task.evaluated_subtasks(settings.split)]
            rows = {task.name: self._rows.read(task, settings.split) for task in tasks}
            wholes = {task.whole.name: task.whole for task in tasks} if any(settings.shot_counts) else {}
            exemplars = {name: self._rows.read(task, "train") for name, task in wholes.items()}
        return [plan_task(task, rows[task.name], settings, seed, exemplars.get(task.whole.name)) for task in tasks]

    def _asked(self, unit: EvaluationUnit, settings: EvaluationSettings) -> list[str | None]:
        """Identity of all that is read of a task for its evaluation."""
        read = [unit.task.hash, unit.rows.source_hash, unit.exemplars.source_hash if unit.exemplars else None]
        if settings.choose_template and unit.task.has_split("dev"):
            read.append(self._rows.read(unit.task, "dev").source_hash)
        return read

    def _training_cost(self, job: Job, plan: Plan, base: str) -> dict[str, float]:
        settings = plan.recipe.training
        tokens = settings.steps * settings.tokens_per_step
        if is_done(job):
            return {"tokens": tokens}
        encoder = self._model(base).encoder
        # A step is as many examples as make up its tokens on average.
        return {"tokens": tokens, "examples": round(tokens / make_mixture(plan).mean_length(encoder, _MEASURED_EXAMPLES))}

    def _evaluation_cost(
        self, job: Job, units: Sequence[EvaluationUnit], recipe: Recipe, loaded: LoadedModel
    ) -> dict[str, float]:
        arms = {style: len(recipe.evaluation.arms(style)) for style in job.styles}
        questions = {unit.task.name: sum(len(unit.asked(style)) * count for style, count in arms.items()) for unit in units}
        if is_done(job):
            return {"questions": sum(questions.values())}
        tokens = sum(questions[unit.task.name] * self._length(unit, recipe, loaded) for unit in units)
        return {"tokens": round(tokens), "questions": sum(questions.values())}

    def _length(self, unit: EvaluationUnit, recipe: Recipe, loaded: LoadedModel) -> float:
        """Mean tokens of a question, its options among them."""
        settings = recipe.evaluation
        asked = (unit.task.hash, unit.rows.source_hash, settings.model_dump_json(), recipe.seed, loaded.encoder.hash)
        about = repr(asked)
        if about not in self._lengths:
            setup = Setup(loaded, settings, recipe.seed)
            some = (ask(setup, unit, *pair).question.length for pair in unit.pairs[:_MEASURED_QUESTIONS])
            self._lengths[about] = statistics.fmean(some)
        return self._lengths[about]

    def _priced(self, job: Job, cost: dict[str, float]) -> Job:
        """The job with the seconds it is expected to take: none where it is done."""
        if is_done(job):
            return job.with_cost({**cost, "seconds": 0.0})
        model = job.base
        if known := self._earlier.get((job.kind, model)):
            self._remembered = True
            speed = statistics.fmean(known)
        else:
            if model not in self._measured:
                loaded = self._model(model)
                # Each process has a GPU of its own, but cores are shared among them.
                together = self._processes if loaded.model.device.type == "cuda" else 1
                self._measured[model] = scoring_speed(loaded) * together
            speed = self._measured[model] / (TRAINING_COST if job.kind == "train" else ANSWERING_COST)
        return job.with_cost({**cost, "seconds": round(cost["tokens"] / speed, 3)})

    def _model(self, name: str) -> LoadedModel:
        if name not in self._models:
            self._models[name] = load_model(name, say=say)
        return self._models[name]

    @property
    def _mirror_text(self) -> str | None:
        return None if self._rows.mirror is None else str(self._rows.mirror.absolute())


def _told_alike(recipe: Recipe, plan: Plan, model: str) -> Recipe:
    """A recipe that trains the same, in the same words whichever cell it comes from: its tasks one by one, and no more of its
    evaluation than decides which tasks are tested.
    """
    names = {task.name for task in plan.split.train} | {task.name for task in plan.split.held_out}
    alike = changed(with_tasks(recipe, names), name="trained", description="", model=model, tasks=_places(recipe))
    return alike.model_copy(update={"evaluation": EvaluationSettings(split=recipe.evaluation.split)})


def _places(recipe: Recipe) -> dict[str, Any]:
    """The recipe's collections as another process, in another folder, finds them."""
    names = recipe.tasks.collections
    return {"collections": [name if name in BUILT_IN_COLLECTIONS else _place(name) for name in names]}


def _place(name: str) -> str:
    """A folder of this machine by its full path; any other name as it is."""
    return str(Path(name).absolute()) if Path(name).exists() else name


def _key(*facts: Any) -> str:
    """A folder's name for content that follows from `facts`."""
    text = json.dumps([_PROTOCOL, __version__, *facts], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
