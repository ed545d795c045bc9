"""What an ablation is made of: cells (a trained or untuned model, and what it is evaluated on), and the figure they make.

Where training clusters are added one after another, their order is here too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import ValidationError

from flanlab.data.choices import short_permutation
from flanlab.errors import FlanlabError
from flanlab.experiments.recipe import HABITS, Plan, Recipe
from flanlab.tasks.clusters import Cluster
from flanlab.tasks.schema import Task
from flanlab.yaml_files import faults_in_words

UNTUNED = "untuned"
"""Name of the cell of the model as it is."""
SEED_MARK = "-seed-"
"""Between a cell's name and the number of a further training seed."""
PAPER_ORDER = (
    Cluster.SUMMARIZATION,
    Cluster.TRANSLATION,
    Cluster.READING_COMPREHENSION,
    Cluster.SENTIMENT,
    Cluster.STRUCT_TO_TEXT,
    Cluster.COREFERENCE,
    Cluster.MISCELLANEOUS,
)
"""Section 4.1: by decreasing number of data sets. Of the miscellaneous ones the paper took conversational QA alone."""


@dataclass(frozen=True)
class Training:
    """A model to be trained: a recipe, carried out on its own model or on what another training leaves."""

    recipe: Recipe
    start: Training | None = None


@dataclass(frozen=True)
class Cell:
    """One model evaluated in one way."""

    name: str
    """Unique in its ablation: lower case, digits and hyphens."""
    title: str
    recipe: Recipe
    """Its hold-out and its evaluation say what is evaluated, and how."""
    training: Training | None = None
    """None: the recipe's model as it is, asked in every prompt style that it knows."""
    scope: Literal["held_out", "held_in"] = "held_out"
    """Whether the held-out tasks are evaluated, or those of the recipe's `in_domain`."""


@dataclass(frozen=True)
class Series:
    """A line of a figure: (place on the axis, name of a cell)."""

    title: str
    points: Sequence[tuple[float, str]]
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One figure, of the mean main metric with its interval.

    `line`: against a number; each series a line for every cluster (`by_cluster`) or one of the mean over clusters; `reference`
    is a cell drawn as dashed lines. `dots`: every cell of the only series beside the others, cluster by cluster.
    """

    title: str
    kind: Literal["line", "dots"]
    series: Sequence[Series]
    axis: str = ""
    reference: str | None = None
    by_cluster: bool = True


@dataclass(frozen=True)
class Comparison:
    """`after` minus `before`, two cells asked the same questions; the first of an ablation are told in its first sentences."""

    before: str
    after: str


@dataclass(frozen=True)
class Ablation:
    """The grid of an ablation, and how it is told."""

    title: str
    question: str
    cells: Sequence[Cell]
    panels: Sequence[Panel]
    comparisons: Sequence[Comparison]
    notes: Sequence[str] = ()
    """How it differs from the paper's, and what the paper found."""


def changed(recipe: Recipe, **sections: Any) -> Recipe:
    """A recipe with other values: `changed(recipe, mixture={"inverted": False})` leaves the rest of the section as it is.

    Raises:
        FlanlabError: a value that a recipe cannot have.
    """
    content = recipe.model_dump(mode="json")
    for name, value in sections.items():
        content[name] = {**content[name], **value} if isinstance(value, Mapping) else value
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise FlanlabError(
            f"The recipe {recipe.name} cannot be varied so: {' '.join(faults_in_words(error, Recipe, HABITS))}",
            hint="Use another ablation, or a base recipe that suits this one.",
        ) from error


def with_tasks(recipe: Recipe, names: Iterable[str]) -> Recipe:
    """A recipe of just these tasks; of one that the recipe leaves parts out of, those parts stay out."""
    include = sorted(set(names))
    parts = [name for name in recipe.tasks.exclude if "." in name and name.partition(".")[0] in include]
    return changed(recipe, tasks={"include": include, "exclude": sorted(parts)})


def hyphenated(name: str) -> str:
    """The name of a task or cluster as a part of a cell's."""
    return re.sub(r"[^a-z0-9]+", "-", name)


def trained(name: str, title: str, recipe: Recipe) -> Cell:
    """The cell of a recipe carried out, evaluated as it says."""
    return Cell(name, title, recipe, Training(recipe))


def untuned(recipe: Recipe) -> Cell:
    """The cell of a recipe's model as it is."""
    return Cell(UNTUNED, "untuned", recipe)


def with_seeds(ablation: Ablation, seeds: int) -> Ablation:
    """The ablation with each training repeated with `seeds` seeds in all. All are asked the same questions.

    The further cells are called `<name>-seed-1` and so on. A seed decides the order of rows, templates and options in training,
    which rows are left out, and the first weights where there are new ones.
    """

    def reseeded(training: Training, by: int) -> Training:
        start = None if training.start is None else reseeded(training.start, by)
        return Training(training.recipe.reseeded(by), start)

    more = [
        replace(cell, name=f"{cell.name}{SEED_MARK}{by}", title=f"{cell.title}, seed {cell.training.recipe.training_seed + by}",
                training=reseeded(cell.training, by))
        for cell in ablation.cells
        if cell.training is not None
        for by in range(1, seeds)
    ]  # fmt: skip
    return replace(ablation, cells=[*ablation.cells, *more]) if more else ablation


def whole_numbers(points: Sequence[str], usual: Sequence[int], *, least: int = 1, most: int | None = None) -> list[int]:
    """Points as whole numbers in rising order; `usual` where none are given, up to `most`.

    Raises:
        FlanlabError: a point that is no such number.
    """
    if not points:
        return [number for number in usual if most is None or number <= most]
    upper = "" if most is None else f" to {most}"
    for point in points:
        if not point.isdecimal() or int(point) < least or (most is not None and int(point) > most):
            raise FlanlabError(
                f"--points: {point!r} is none of the numbers from {least}{upper or ' up'}.",
                hint="Separate whole numbers by commas, such as --points 1,3,6.",
            )
    return sorted({int(point) for point in points})


def training_clusters(plan: Plan) -> dict[Cluster, list[Task]]:
    """The clusters that a plan trains on with their tasks: in the paper's order, then the others, largest first."""
    members: dict[Cluster, list[Task]] = {}
    for task in plan.split.train:
        members.setdefault(task.clusters[0], []).append(task)
    others = sorted(set(members) - set(PAPER_ORDER), key=lambda cluster: (-len(members[cluster]), cluster))
    return {cluster: members[cluster] for cluster in (*PAPER_ORDER, *others) if cluster in members}


def training_on(plan: Plan, tasks: Iterable[Task]) -> Recipe:
    """The plan's recipe with no other training tasks than these; what is held out stays."""
    held_out = {task.name for task in plan.split.held_out}
    return with_tasks(plan.recipe, {task.name for task in tasks} | held_out)


def some_of_each(clusters: Mapping[Cluster, Sequence[Task]], number: int, seed: int) -> list[Task]:
    """Up to `number` tasks of each cluster, chosen by the seed: the first of one order, so that few are among the many."""
    chosen: list[Task] = []
    for cluster, members in clusters.items():
        order = short_permutation(len(members), (seed, cluster.value, "tasks per cluster"))
        chosen += [members[place] for place in order[:number]]
    return chosen
