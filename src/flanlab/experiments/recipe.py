"""The recipe: the YAML that describes an experiment, checked whole before anything costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from flanlab.data.mixture import MixtureSettings
from flanlab.data.reader import RowReader
from flanlab.data.sources import MissingDataError, Rows
from flanlab.errors import FlanlabError
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.settings import NOTHING, PLACE, QUESTIONS, SAMPLE, TRAINING, Settings
from flanlab.tasks.clusters import Cluster
from flanlab.tasks.holdout import HoldOut, HoldOutSplit, OverlapPolicy
from flanlab.tasks.loading import BUILT_IN_COLLECTIONS, leave_out, load_collections, resolve_name, select_tasks
from flanlab.tasks.schema import Split, Task
from flanlab.training.settings import TrainingSettings
from flanlab.yaml_files import read_yaml_model

TasksReader = Callable[[Sequence[str]], list[Task]]

QUICKSTART = "quickstart"
"""Name under which `flan run` finds the packaged recipe."""
ALLOW_OVERLAP = "set `hold_out.overlap: allow` in the recipe (overlapping tasks then train, too)"
"""How a recipe insists on results of what a model has seen."""


class TaskSelection(Settings):
    """Which tasks take part."""

    collections: Annotated[list[str], PLACE] = Field(
        default=["library"],
        min_length=1,
        description="library, extra, sampler, or folders of your own (relative to the recipe).",
    )
    include: Annotated[Literal["all"] | list[str], TRAINING] = Field(
        "all", description="Names of tasks and clusters, or all; one part of a task as task.part."
    )
    exclude: Annotated[list[str], TRAINING] = Field(
        default_factory=list, description="Names of tasks, parts and clusters to leave out."
    )


class HoldOutSettings(Settings):
    """What is kept out of training and evaluated."""

    clusters: Annotated[list[Cluster], TRAINING] = Field(
        default_factory=list, description="Clusters kept out of training; none, if not given: every task is trained on."
    )
    overlap: Annotated[OverlapPolicy, TRAINING] = Field(
        "error", description="What to do with training tasks that share sources with held-out ones."
    )
    supervised: Annotated[list[str], TRAINING] = Field(
        default_factory=list,
        description="Held-out tasks that train after all, and nothing beside them: supervised learning, to compare with.",
    )


class Recipe(Settings):
    """An experiment: a model, tasks, a hold-out, and how to mix, train and evaluate."""

    name: Annotated[str, NOTHING]
    description: Annotated[str, NOTHING] = ""
    seed: Annotated[int, TRAINING, SAMPLE, QUESTIONS] = 0
    model: Annotated[str, PLACE]
    tasks: TaskSelection = TaskSelection()
    hold_out: HoldOutSettings = HoldOutSettings()
    in_domain: Annotated[Literal["all"] | list[str] | None, SAMPLE] = Field(
        None,
        description="Trained tasks whose test rows are scored too: all, or names of tasks and clusters. Not given: all, if"
        " nothing is held out; none otherwise.",
    )
    mixture: MixtureSettings = MixtureSettings()
    training: TrainingSettings
    evaluation: EvaluationSettings = EvaluationSettings()

    @property
    def training_seed(self) -> int:
        """The seed of the mixture and of initial weights."""
        return self.seed if self.training.seed is None else self.training.seed

    def reseeded(self, by: int) -> Recipe:
        """The same with another training seed. The questions of the evaluation stay the same."""
        training = self.training.model_copy(update={"seed": self.training_seed + by})
        return self.model_copy(update={"training": training})


class Plan(BaseModel):
    """A recipe with its tasks found, divided and within reach."""

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    recipe: Recipe
    split: HoldOutSplit
    train_rows: dict[str, Rows]
    test_rows: dict[str, Rows]
    exemplar_rows: dict[str, Rows]
    """Train rows of the tasks tested, where the recipe asks for exemplars."""


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; `quickstart` is the packaged one. Folders of tasks are taken relative to the recipe.

    Raises:
        FlanlabError: names file, line and field of each fault.
    """
    if str(path) == QUICKSTART and not path.exists():
        path = Path(str(resources.files("flanlab.experiments"))) / "quickstart.yaml"
    recipe = read_yaml_model(path, Recipe, "recipe")
    collections = [str(path.parent / name) if (path.parent / name).is_dir() else name for name in recipe.tasks.collections]
    return recipe.model_copy(update={"tasks": recipe.tasks.model_copy(update={"collections": collections})})


def make_plan(recipe: Recipe, rows: RowReader | None = None, *, read_tasks: TasksReader = load_collections) -> Plan:
    """Find the tasks, divide them by the hold-out, and read every row needed.

    Args:
        recipe: what is planned.
        rows: where rows come from.
        read_tasks: for the planner of many recipes, who remembers the tasks it has read.

    Raises:
        FlanlabError: unknown names, an overlap under the policy `error`, nothing to train on or to test on.
        MissingDataError: lists every task whose rows cannot be reached.
    """
    split = divide(recipe, read_tasks)
    rows = rows or RowReader()
    tested = [*split.test, *split.in_domain]
    # Once for all subtasks of a task.
    wholes = {task.whole.name: task.whole for task in tested} if any(recipe.evaluation.shot_counts) else {}
    return Plan(
        recipe=recipe,
        split=split,
        train_rows=_reach(split.train, "train", rows),
        test_rows=_reach(tested, recipe.evaluation.split, rows),
        exemplar_rows=_reach(list(wholes.values()), "train", rows),
    )


def divide(recipe: Recipe, read_tasks: TasksReader = load_collections) -> HoldOutSplit:
    """Find a recipe's tasks and divide them by its hold-out; rows are not needed.

    Raises:
        FlanlabError: as `make_plan`.
    """
    tasks = read_tasks(recipe.tasks.collections)
    known = [*read_tasks(BUILT_IN_COLLECTIONS), *tasks]
    named: list[str] = []
    if recipe.tasks.include != "all":
        found = [resolve_name(tasks, name) for name in recipe.tasks.include]
        named = [task.name for task in found if isinstance(task, Task)]
        tasks = select_tasks(tasks, recipe.tasks.include)
    tasks = leave_out(tasks, recipe.tasks.exclude)
    hold_out = HoldOut(tuple(recipe.hold_out.clusters), recipe.hold_out.overlap, tuple(recipe.hold_out.supervised))
    held_out_names = {task.name for task in tasks if set(task.clusters) & set(hold_out.clusters)}
    split = hold_out.split(tasks, named=set(named) - held_out_names, evaluated=recipe.evaluation.split, known=known)
    if hold_out.clusters and not split.test:
        raise FlanlabError(
            f"No task of the held-out clusters ({', '.join(hold_out.clusters)}) takes part, so nothing could be evaluated.",
            hint="Include their tasks in the recipe: they are kept out of training and evaluated.",
        )
    if not split.train:
        raise FlanlabError("The hold-out leaves no task to train on.", hint="Include more tasks, or hold out fewer clusters.")
    return dataclasses.replace(split, in_domain=_in_domain(recipe, split))


def _in_domain(recipe: Recipe, split: HoldOutSplit) -> tuple[Task, ...]:
    """The trained tasks that are scored on test rows of their own, each subtask separately."""
    asked = recipe.in_domain if recipe.in_domain is not None else [] if split.test else "all"
    evaluated = recipe.evaluation.split
    chosen = split.train if asked == "all" else select_tasks(split.train, asked)
    if without := [task.name for task in chosen if not task.evaluated_subtasks(evaluated)]:
        if asked != "all":
            raise FlanlabError(
                f"{without[0]} has no {evaluated} split, so it cannot be scored in-domain.",
                hint="Leave it out of in_domain, or give the task file such a split.",
            )
        if len(without) == len(chosen) and not split.test:
            raise FlanlabError(
                f"No task has a {evaluated} split, so nothing could be evaluated.",
                hint="Give the task files such a split, or use `flan train`, which only trains.",
            )
    return tuple(subtask for task in chosen for subtask in task.evaluated_subtasks(evaluated))


def _reach(tasks: Sequence[Task], split: Split, reader: RowReader) -> dict[str, Rows]:
    rows: dict[str, Rows] = {}
    missing: list[str] = []
    for task in tasks:
        try:
            rows[task.name] = reader.read(task, split)
        except MissingDataError as error:
            missing.append(f"  {error.message}")
    if missing:
        raise MissingDataError(
            "Rows are not within reach:\n" + "\n".join(missing),
            hint="Add those tasks to tasks.exclude in the recipe, or see that the Hub or a --mirror with them can be reached.",
        )
    return rows
