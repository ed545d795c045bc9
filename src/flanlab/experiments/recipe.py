"""The recipe: the YAML that describes an experiment, checked whole before anything costs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from flanlab.data.mirror import MissingDataError
from flanlab.data.mixture import Mixture, MixtureSettings
from flanlab.data.reader import RowReader
from flanlab.data.sources import NoRowsError, Rows
from flanlab.errors import FlanlabError
from flanlab.evaluation.evaluate import plan_dev_tasks, plan_tasks
from flanlab.evaluation.planning import EvaluationSettings, PlannedTask
from flanlab.models.built_in import BUILT_IN_MODELS
from flanlab.settings import NOTHING, PLACE, QUESTIONS, SAMPLE, TRAINING, Settings
from flanlab.tasks.clusters import plain_name
from flanlab.tasks.holdout import HoldOut, HoldOutSplit
from flanlab.tasks.loading import BUILT_IN_COLLECTIONS, leave_out, load_collections, resolve_name, select_tasks
from flanlab.tasks.schema import Split, Task
from flanlab.training.settings import TrainingSettings
from flanlab.yaml_files import faults_in_words, read_yaml_model

QUICKSTART = "quickstart"
"""Name under which `flan run` finds the packaged recipe."""
ALLOW_OVERLAP = "set `hold_out.overlap: allow` in the recipe (overlapping tasks then train, too)"
"""How a recipe insists on results of what a model has seen."""
HABITS = {
    **dict.fromkeys(("lr", "max_lr", "peak_lr"), "training.learning_rate"),
    **dict.fromkeys(("batch_size", "per_device_train_batch_size"), "training.tokens_per_step"),
    **dict.fromkeys(("epochs", "num_epochs", "num_train_epochs", "max_steps", "iterations"), "training.steps"),
    **dict.fromkeys(("grad_clip", "max_grad_norm", "clip_grad"), "training.gradient_clip"),
    **dict.fromkeys(("scheduler", "lr_scheduler", "lr_scheduler_type"), "training.schedule"),
    **dict.fromkeys(("rank", "r", "lora_r"), "training.lora_rank"),
    **dict.fromkeys(("training.dtype", "precision", "bf16", "fp16"), "training.compute_dtype"),
    **dict.fromkeys(("save_steps", "save_every"), "training.checkpoint_minutes"),
    **dict.fromkeys(("wd", "l2"), "training.weight_decay"),
    **dict.fromkeys(("max_length", "max_seq_length", "seq_len", "context_length"), "mixture.prompt_tokens"),
    **dict.fromkeys(("few_shot", "num_fewshot", "num_shots"), "evaluation.shots"),
    **dict.fromkeys(("limit", "num_rows", "max_samples"), "evaluation.rows"),
    **dict.fromkeys(("hold_out.tasks", "hold_out.include", "hold_out.datasets", "held_out"), "hold_out.clusters"),
    **dict.fromkeys(("tasks.names", "datasets", "dataset", "data"), "tasks.include"),
    **dict.fromkeys(("model_name", "model_name_or_path", "base_model"), "model"),
}
"""Names that people type by habit, from other trainers, and the field that they mean."""


class TaskSelection(Settings):
    """Which tasks take part."""

    collections: Annotated[list[str], PLACE] = Field(
        default=["library"],
        min_length=1,
        description="library, extra, sampler, or folders of your own (relative to the recipe).",
    )
    include: Annotated[Literal["all"] | list[str], TRAINING] = Field(
        default="all", description="Names of tasks, subtasks (`anli.r1`) and clusters, or all."
    )
    exclude: Annotated[list[str], TRAINING] = Field(
        default_factory=list, description="Names of tasks, subtasks and clusters to leave out."
    )


class Recipe(Settings):
    """An experiment: a model, tasks, a hold-out, and how to mix, train and evaluate.

    `docs/reference/recipe.md` lists the fields. What takes a Recipe also takes its content as a dict,
    which is easier to change. It is checked in the same way.

    Raises:
        pydantic.ValidationError: a field is missing, unknown or wrong. The message lists all errors.

    Examples:
        >>> import flanlab as fl
        >>> fl.Recipe.model_validate(example_recipe).training
        TrainingSettings(steps=1, tokens_per_step=200, learning_rate=0.001)
    """

    name: Annotated[str, NOTHING] = Field(description="What reports call the run.")
    description: Annotated[str, NOTHING] = Field(default="", description="What the experiment asks, for readers of its report.")
    seed: Annotated[int, TRAINING, SAMPLE, QUESTIONS] = Field(
        default=0, description="Determines every random choice: rows, templates, order of options and examples."
    )
    model: Annotated[str, PLACE] = Field(
        description="The model to tune: a built-in name (`flan models`), a folder or GGUF file (relative to the recipe), or a"
        " Hub id."
    )
    tasks: TaskSelection = TaskSelection()
    hold_out: HoldOut = HoldOut()
    in_domain: Annotated[Literal["all"] | list[str] | None, SAMPLE] = Field(
        default=None,
        description="Trained tasks whose test rows are scored too: all, or names of tasks and clusters. Default: all if"
        " nothing is held out, else none.",
    )
    mixture: MixtureSettings = MixtureSettings()
    training: TrainingSettings
    evaluation: EvaluationSettings = EvaluationSettings()

    @property
    def allows_seen(self) -> bool:
        """Whether it asks for results of what a model has seen, which are then marked."""
        return self.hold_out.overlap == "allow" or bool(self.hold_out.supervised)

    @property
    def training_seed(self) -> int:
        """The seed of the mixture and of initial weights."""
        return self.seed if self.training.seed is None else self.training.seed

    def with_training(self, **changes: Any) -> Recipe:
        """The same with other training settings, which are not checked."""
        return self.model_copy(update={"training": self.training.model_copy(update=changes)})

    def reseeded(self, by: int) -> Recipe:
        """The same with another training seed. The questions of the evaluation stay the same."""
        return self.with_training(seed=self.training_seed + by)


AnyRecipe = str | Path | Mapping[str, Any] | Recipe
"""A recipe's file, or `quickstart` for the packaged one; its content; or the recipe itself."""


@dataclass(frozen=True)
class Plan:
    """A recipe with its tasks found and divided, and their rows."""

    recipe: Recipe
    split: HoldOutSplit
    train_rows: Mapping[str, Rows]
    reader: RowReader

    @cached_property
    def planned(self) -> list[PlannedTask]:
        """What is evaluated of each held-out task, and of each trained one that is scored in-domain."""
        tasks = [*self.split.test, *self.split.in_domain]
        return plan_tasks(tasks, self.recipe.evaluation, self.recipe.seed, self.reader)

    @cached_property
    def dev_planned(self) -> list[PlannedTask]:
        """The dev rows that templates are chosen by, where the recipe asks for that."""
        return plan_dev_tasks(self.planned, self.recipe.evaluation, self.recipe.seed, self.reader)


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; `quickstart` is the packaged one. Folders of tasks and of the model are taken relative to the recipe.

    Raises:
        FlanlabError: names file, line and field of each fault.
    """
    if str(path) == QUICKSTART and not path.exists():
        path = Path(str(resources.files("flanlab.experiments"))) / "quickstart.yaml"
    recipe = read_yaml_model(path, Recipe, "recipe", HABITS)

    def beside(name: str) -> str:
        place = os.path.join(path.parent, name)
        return place if path.parent != Path() and os.path.exists(place) else name

    collections = [name if name in BUILT_IN_COLLECTIONS else beside(name) for name in recipe.tasks.collections]
    model = recipe.model if recipe.model in BUILT_IN_MODELS else beside(recipe.model)
    return recipe.model_copy(update={"model": model, "tasks": recipe.tasks.model_copy(update={"collections": collections})})


def names_a_recipe(name: str | Path) -> bool:
    """Whether this is the name of a recipe, and not of a model, a corpus or a task."""
    return str(name) == QUICKSTART or Path(name).suffix in (".yaml", ".yml")


def as_recipe(recipe: AnyRecipe) -> Recipe:
    """A recipe from a name, file, dict or object.

    Raises:
        FlanlabError: names each error.
    """
    if isinstance(recipe, str | Path):
        return read_recipe(Path(recipe))
    if isinstance(recipe, Recipe):
        recipe = recipe.model_dump(warnings=False)  # `model_copy(update=...)` checks nothing
    try:
        return Recipe.model_validate(recipe)
    except ValidationError as error:
        faults = " ".join(faults_in_words(error, Recipe, HABITS))
        raise FlanlabError(
            f"This is not a valid recipe: {faults}", hint="docs/reference/recipe.md lists the fields."
        ) from error


def make_plan(recipe: Recipe, rows: RowReader | None = None) -> Plan:
    """Find the tasks, divide them by the hold-out, and read every row needed.

    Raises:
        FlanlabError: unknown names, an overlap under the policy `error`, nothing to train on or to test on.
        MissingDataError: lists every task whose rows are not available.
    """
    return plan_rows(recipe, divide(recipe), rows or RowReader())


def plan_rows(recipe: Recipe, split: HoldOutSplit, rows: RowReader) -> Plan:
    """Read every row that a recipe needs; `split` has its tasks, as `divide` finds them.

    Raises:
        MissingDataError: lists every task whose rows are not available.
    """
    train_rows, _ = reach(split.train, "train", rows)
    tested = [*split.test, *split.in_domain]
    reach(tested, recipe.evaluation.split, rows)
    # Subtasks without train rows share those of their task.
    sources = {task.exemplar_source.name: task.exemplar_source for task in tested if any(recipe.evaluation.shot_counts)}
    reach(list(sources.values()), "train", rows)
    return Plan(recipe, split, train_rows, rows)


def reach(
    tasks: Sequence[Task], split: Split, reader: RowReader, skip: tuple[type[FlanlabError], ...] = ()
) -> tuple[dict[str, Rows], dict[str, str]]:
    """The rows of each task, and why those that may be skipped have none.

    Args:
        tasks: the tasks.
        split: of which rows are read.
        reader: reads them.
        skip: errors of a task's rows (`MissingDataError`, `NoRowsError`) that leave out the task instead of being raised.

    Raises:
        MissingDataError: lists every task whose rows are not available; all of them, if all are skipped.
    """
    rows: dict[str, Rows] = {}
    missing: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for task in tasks:
        try:
            rows[task.name] = reader.read(task, split)
        except (MissingDataError, NoRowsError) as error:
            (skipped if isinstance(error, skip) else missing)[task.name] = error.message
    if missing := missing or ({} if rows else skipped):
        raise MissingDataError(
            "Rows are not available:\n" + "\n".join(f"  {reason}" for reason in missing.values()),
            hint="Check the network or the --mirror, or leave these tasks out of the recipe:"
            f" tasks.exclude: [{', '.join(missing)}]",
        )
    return rows, skipped


def make_mixture(plan: Plan) -> Mixture:
    """The training stream of a plan."""
    return Mixture(plan.split.train, plan.train_rows, plan.recipe.mixture, plan.recipe.training_seed)


def divide(recipe: Recipe) -> HoldOutSplit:
    """Find a recipe's tasks and divide them by its hold-out; rows are not needed.

    Raises:
        FlanlabError: as `make_plan`.
    """
    tasks = load_collections(recipe.tasks.collections)
    known = [*load_collections(BUILT_IN_COLLECTIONS), *tasks]
    named: list[str] = []
    if recipe.tasks.include != "all":
        found = [resolve_name(tasks, name) for name in recipe.tasks.include]
        named = [task.name for task in found if isinstance(task, Task)]
        tasks = select_tasks(tasks, recipe.tasks.include)
    tasks = leave_out(tasks, recipe.tasks.exclude)
    hold_out = recipe.hold_out
    held_out_names = {task.name for task in tasks if set(task.clusters) & set(hold_out.clusters)}
    split = hold_out.split(tasks, named=set(named) - held_out_names, evaluated=recipe.evaluation.split, known=known)
    if hold_out.clusters and not split.test:
        raise FlanlabError(
            f"No task of the held-out clusters ({', '.join(hold_out.clusters)}) takes part, so nothing could be evaluated.",
            hint="Include their tasks in the recipe: they are kept out of training and evaluated.",
        )
    if not split.train:
        raise FlanlabError("The hold-out leaves no task to train on.", hint="Include more tasks, or hold out fewer clusters.")
    return replace(split, in_domain=_in_domain(recipe, split))


def _in_domain(recipe: Recipe, split: HoldOutSplit) -> tuple[Task, ...]:
    """The trained tasks that are scored on test rows of their own, each subtask separately."""
    asked = recipe.in_domain if recipe.in_domain is not None else [] if split.test else "all"
    evaluated = recipe.evaluation.split
    if asked == "all":
        chosen: Sequence[Task] = split.train
    else:
        held_out = {task.name for task in split.test}
        if named := [name for name in asked if plain_name(name) in held_out]:
            raise FlanlabError(
                f"in_domain names {named[0]}, which is held out and does not train.",
                hint="Leave it out of in_domain: its rows are scored zero-shot.",
            )
        chosen = select_tasks(split.train, asked)
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
