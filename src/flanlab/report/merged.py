"""Several folders side by side, from their results files alone: a column for each variant, a row for each task.

Folders are those of runs and evaluations, and of sweeps, which give each finished cell.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from flanlab.errors import FlanlabError
from flanlab.evaluation.comparison import asked_differently
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.evaluation.sides import Side, folder_and_variant, one_side, open_sides
from flanlab.experiments.folders import CellFacts, SweepFacts, read_sweep_facts
from flanlab.report.sweep import is_sweep
from flanlab.report.wording import cluster_title, column_letters, counted, listed, seen_told, some
from flanlab.results.schema import BEST_ON_DEV, MAIN_METRIC, TUNED, Level, Score, TaskFacts
from flanlab.settings import PROMPT, QUESTIONS, fields_affecting

_EQUAL = " = "
"""Between names of what is the same."""


class Column(BaseModel):
    """A variant of a run, of an evaluation or of a sweep's cell."""

    letter: str
    label: str
    """Tells it apart: the end of its folder's path or the cells' names, and the variant where there are several."""
    folder: str
    name: str
    """As the results have it; of a cell, the sweep's title and its own."""
    model: str
    variant: str
    title: str
    stamped: bool
    trained_on: dict[str, str] | None
    """Task to cluster; None where nothing tells."""
    held_out: list[str] | None
    """Clusters; None where nothing tells."""
    seed: int
    settings: dict[str, Any]
    asked_otherwise: dict[str, str]
    """Seed and settings that differ from the first column's, with what they are there and here."""


class Entry(BaseModel):
    """A score in its column."""

    column: str
    score: Score
    best_on_dev: Score | None = None
    """Of the template that is best on dev, where the evaluation chose one."""
    chance: float | None = None
    """The score of guessing; None where the metric is none that guessing has a level of, and for means."""
    seen: str | None
    """Why it is no zero-shot result."""
    mark: str = ""
    """How it is marked then: in-domain, or seen in training; of a mean, that some of its tasks are."""
    differs: list[str]
    """In what it was not asked as the first score of its row; the two are then not comparable."""


class Merged(BaseModel):
    """One table of scores, which the page, the terminal's table and the CSV file show."""

    format: Literal[3] = 3
    columns: list[Column]
    clusters: dict[str, list[str]]
    """Cluster to its tasks."""
    metrics: dict[str, str]
    """Task to the title of its main metric in the first column that has the task."""
    scores: list[Entry]
    """Each task by its main metric; the means over clusters' tasks and over clusters, where all columns have one."""
    no_average: dict[str, str]
    """Cluster to why it has no mean; the mean over clusters under the empty name."""
    left_out: list[str]
    """Sweeps with cells that are not done, in words."""

    def row(self, level: Level, name: str | None) -> dict[str, Entry]:
        """Scores by the letter of the column; a column that was not asked is missing."""
        return self._rows.get((level, name), {})

    @cached_property
    def _rows(self) -> dict[tuple[str, str | None], dict[str, Entry]]:
        found: dict[tuple[str, str | None], dict[str, Entry]] = {}
        for entry in self.scores:
            found.setdefault((entry.score.level, entry.score.name), {})[entry.column] = entry
        return found


@dataclass
class Source:
    """A side with the places it comes from, each the parts of a path that a cell's name ends.

    Cells share equal work, within a sweep and between sweeps: such a side has several places, and is one column.
    """

    side: Side
    folder: str
    names: list[str] = field(default_factory=list)
    places: list[tuple[str, ...]] = field(default_factory=list)

    def label(self, sources: Iterable[Source]) -> str:
        """The end of each of its places, as long as it takes to tell it from the others."""
        others = [place for other in sources for place in other.places if place not in self.places]
        ends = []
        for place in self.places:
            length = 1
            while length < len(place) and any(other[-length:] == place[-length:] for other in others):
                length += 1
            ends.append("/".join(place[-length:]))
        return _EQUAL.join(dict.fromkeys(ends))


def merge(texts: Sequence[str]) -> Merged:
    """Lay folders side by side.

    Args:
        texts: `folder`, for all its variants, or `folder:variant`; of a run, an evaluation or a sweep, whose finished cells
            are then taken one by one.

    Raises:
        FlanlabError: results are missing, damaged or too old, there is no such variant, or no cell of a sweep is done.
    """
    sources, left_out = open_sources(texts)
    sides = {letter: source.side for letter, source in zip(column_letters(), sources, strict=False)}
    first: dict[str, Side] = {}
    for side in sides.values():
        for name in side.results.tasks:
            first.setdefault(name, side)
    facts = {name: side.results.tasks[name] for name, side in first.items()}
    clusters: dict[str, list[str]] = {}
    for name, task in facts.items():
        clusters.setdefault(task.clusters[0], []).append(name)
    tasks = {name: _task(name, sides, first[name]) for name in facts}
    scores, no_average = [], {}
    for cluster, names in clusters.items():
        scores += [entry for name in names for entry in tasks[name]]
        if reason := _no_average(cluster, names, sides):
            no_average[cluster] = reason
        else:
            scores += _means(sides, [tasks[name] for name in names], "cluster", cluster)
    if no_average:
        without = [cluster_title(name) for name in no_average]
        no_average[""] = f"no average, since {listed(without)} {'has' if len(without) == 1 else 'have'} none"
    else:
        scores += _means(sides, tasks.values(), "clusters", None)
    return Merged(
        columns=list(_columns(sources, sides)),
        clusters=clusters,
        metrics={name: task.metrics[task.main_metric].title for name, task in facts.items()},
        scores=scores,
        no_average=no_average,
        left_out=left_out,
    )


def verdict(merged: Merged) -> Iterable[str]:
    """What a reader must know before comparing columns, in sentences that claim no more than the numbers."""
    tasks = len(merged.metrics)
    common = sum(len(merged.row("task", name)) == len(merged.columns) for name in merged.metrics)
    folders = len({column.folder for column in merged.columns})
    everywhere = "" if common == tasks else f", {common or 'none'} of them in all columns"
    yield (
        f"{counted(len(merged.columns), 'column')} from {counted(folders, 'folder')}:"
        f" {counted(tasks, 'task')} in {counted(len(merged.clusters), 'cluster')}{everywhere}."
    )
    differs: dict[str, list[str]] = {column.letter: [] for column in merged.columns}
    for entry in merged.scores:
        differs[entry.column] += entry.differs
    if letters := [letter for letter, names in differs.items() if names]:
        names = list(dict.fromkeys(name for letter in letters for name in differs[letter]))
        yield (
            f"Not everything was asked the same way: in {'column' if len(letters) == 1 else 'columns'} {listed(letters)}"
            f" scores marked \N{NOT EQUAL TO} differ in {listed(names)} from the first score of their row, and cannot be"
            " compared with it."
        )
    elif len(merged.columns) > 1:
        yield (
            "What stands in one row of a table was asked of the same rows, through the same templates, with the same seed and"
            " settings; but for the kind of prompt, where columns are named by it."
        )
    rows = {name: merged.row("task", name) for name in merged.metrics}
    marks = {letter: {name: row[letter].mark for name, row in rows.items() if letter in row} for letter in differs}
    yield from seen_told(marks, [column.letter for column in merged.columns if not column.stamped])
    yield from merged.left_out


def _columns(sources: Sequence[Source], sides: Mapping[str, Side]) -> Iterable[Column]:
    first = sources[0].side
    for (letter, side), source in zip(sides.items(), sources, strict=True):
        label, variant = source.label(sources), side.variant
        yield Column(
            letter=letter,
            label=f"{label}, {variant.title}" if len(side.results.variants) > 1 else label,
            folder=source.folder,
            name=_EQUAL.join(dict.fromkeys(source.names)),
            variant=side.name,
            # Only a run says what was held out: an evaluation names there what it asked.
            held_out=side.results.hold_out if side.name.startswith(TUNED) else None,
            asked_otherwise=_asked_otherwise(side, first),
            **{name: getattr(variant, name) for name in ("model", "title", "stamped", "trained_on", "seed", "settings")},
        )


def _asked_otherwise(side: Side, first: Side) -> dict[str, str]:
    """Seed and settings that differ, by name, with both values."""
    # Which rows and templates were asked is compared task by task: a task may have no more.
    settings = fields_affecting(EvaluationSettings, QUESTIONS, PROMPT)
    found = asked_differently(side.variant, first.variant, settings)
    return {name.replace("_", " "): f"{here}, in A {there}" for name, (here, there) in found.items()}


def _differs(name: str, side: Side, first: Side) -> list[str]:
    """In what a task was asked otherwise than in the column that its row begins with."""
    ours, theirs = side.results.tasks[name], first.results.tasks[name]
    same: Mapping[str, Callable[[TaskFacts], Any]] = {
        "task file": lambda task: task.hashes and task.hashes.task,
        "rows": lambda task: (task.hashes and task.hashes.rows, task.rows),
        "templates": lambda task: task.templates,
        "metric": lambda task: task.main_metric,
    }
    found = [title for title, of in same.items() if of(ours) != of(theirs)]
    if side.variant.scoring != first.variant.scoring:
        found.append("scoring")
    return [*found, *_asked_otherwise(side, first)]


def _task(name: str, sides: Mapping[str, Side], first: Side) -> list[Entry]:
    task = first.results.tasks[name]
    # Where nothing could be ranked, exact match is held against the same level.
    with_chance = task.main_metric.startswith("accuracy") or task.main_metric == "exact_match"
    return [
        Entry(
            column=letter,
            score=side.results.main_scores(name)[side.name],
            best_on_dev=side.results.main_scores(name, BEST_ON_DEV).get(side.name),
            chance=task.chance if with_chance else None,
            seen=side.seen(name),
            mark=side.mark(name),
            differs=_differs(name, side, first),
        )
        for letter, side in sides.items()
        if name in side.results.tasks
    ]


def _no_average(cluster: str, names: Sequence[str], sides: Mapping[str, Side]) -> str:
    """Why the columns have no means over the same tasks; empty where they have: results tell the interval of no other mean."""
    told: dict[tuple[str, str, str], list[str]] = {}
    for letter, side in sides.items():
        own = set(side.results.clusters.get(cluster, ()))
        missing = [name for name in names if name not in own]
        if apart := [name for name in missing if name in side.results.in_domain]:
            told.setdefault(("has", "have", f"{some(apart)} in-domain"), []).append(letter)
        elif missing:
            told.setdefault(("lacks", "lack", some(missing)), []).append(letter)
        elif own != set(names):
            told.setdefault(("counts", "count", "further tasks to this cluster"), []).append(letter)
    reasons = [
        f"{listed(letters)} {verb if len(letters) == 1 else verbs} {what}" for (verb, verbs, what), letters in told.items()
    ]
    return f"no average, since not all columns have the same tasks: {'; '.join(reasons)}" if told else ""


def _means(sides: Mapping[str, Side], tasks: Iterable[Sequence[Entry]], level: Level, name: str | None) -> list[Entry]:
    """The mean of each column, marked with all that the tasks are marked with."""
    tasks = list(tasks)
    found = []
    for letter, side in sides.items():
        members = [entry for task in tasks for entry in task if entry.column == letter]
        mark = listed([f"some tasks {mark}" for mark in dict.fromkeys(member.mark for member in members) if mark])
        found.append(
            Entry(
                column=letter,
                score=side.results.scored(level, name, MAIN_METRIC)[side.name],
                seen=mark or None,
                mark=mark,
                differs=list(dict.fromkeys(name for member in members for name in member.differs)),
            )
        )
    return found


def open_sources(texts: Sequence[str]) -> tuple[list[Source], list[str]]:
    """Read folders: each variant of a run or an evaluation, and of every finished cell of a sweep.

    Args:
        texts: `folder`, for all its variants, or `folder:variant`.

    Returns:
        The sources, each side once; and a sentence for each sweep that has cells which are not done.

    Raises:
        FlanlabError: results are missing, damaged or too old, there is no such variant, or no cell of a sweep is done.
    """
    found: dict[tuple[Path, str], Source] = {}
    left_out: list[str] = []
    for folder, variant in map(folder_and_variant, texts):
        sweep = read_sweep_facts(folder) if is_sweep(folder) else None
        cells: list[CellFacts | None] = [None]
        if sweep is not None:
            cells = list(_done(folder, variant, sweep))
            if missing := len(sweep.cells) - len(cells):
                verb = "is" if missing == 1 else "are"
                left_out.append(f"{counted(missing, 'cell')} of {len(sweep.cells)} in {folder} {verb} not done and left out.")
        for cell in cells:
            opened = open_sides(folder / cell.folder if cell else folder)
            for side in [one_side(opened, variant)] if variant else opened.values():
                shown = os.path.normpath(folder / cell.folder) if cell else str(folder)
                source = found.setdefault((side.folder.resolve(), side.name), Source(side, shown))
                source.names.append(f"{sweep.title}: {cell.title}" if sweep and cell else side.results.name)
                source.places.append((*folder.resolve().parts[1:], *([cell.name] if cell else [])))
    return list(found.values()), left_out


def _done(folder: Path, variant: str, sweep: SweepFacts) -> list[CellFacts]:
    """The finished cells of a sweep."""
    if variant:
        raise FlanlabError(
            f"{folder}: is the folder of a sweep, whose cells have variants of their own.",
            hint=f"Name it without :{variant}, or name a folder of one cell's results with it.",
        )
    done = [cell for cell in sweep.cells if cell.state == "done"]
    if not done:
        raise FlanlabError(f"{folder}: no cell of the sweep is done yet.", hint="Go on with `flan ablate`, or leave it out.")
    return done
