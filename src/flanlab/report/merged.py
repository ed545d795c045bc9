"""Several folders side by side, from their results files alone: a column for each variant, a row for each task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import count, product
from string import ascii_uppercase
from typing import Any, Literal

from pydantic import BaseModel

from flanlab.evaluation.planning import EvaluationSettings
from flanlab.evaluation.sides import Side
from flanlab.report.merged_sources import Source, open_sources
from flanlab.report.wording import cluster_title, counted, listed, seen_told, some
from flanlab.results.schema import BEST_ON_DEV, MAIN_METRIC, TUNED, Level, Score, TaskFacts
from flanlab.settings import PROMPT, QUESTIONS, fields_affecting


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


def merge(texts: Sequence[str]) -> Merged:
    """Lay folders side by side.

    Args:
        texts: `folder`, for all its variants, or `folder:variant`; of a run, an evaluation or a sweep, whose finished cells
            are then taken one by one.

    Raises:
        FlanlabError: results are missing, damaged or too old, there is no such variant, or no cell of a sweep is done.
    """
    sources, left_out = open_sources(texts)
    letters = ("".join(of) for length in count(1) for of in product(ascii_uppercase, repeat=length))  # A to Z, AA, AB, ...
    sides = {letter: source.side for letter, source in zip(letters, sources, strict=False)}
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
            name=source.name,
            variant=side.name,
            # Only a run says what was held out: an evaluation names there what it asked.
            held_out=side.results.hold_out if side.name.startswith(TUNED) else None,
            asked_otherwise=_asked_otherwise(side, first),
            **{name: getattr(variant, name) for name in ("model", "title", "stamped", "trained_on", "seed", "settings")},
        )


def _asked_otherwise(side: Side, first: Side) -> dict[str, str]:
    """Seed and settings that differ, by name, with both values."""
    ours, theirs = side.variant, first.variant
    found = {} if ours.seed == theirs.seed else {"seed": f"{ours.seed}, in A {theirs.seed}"}
    # Which rows and templates were asked is compared task by task: a task may have no more.
    for name in fields_affecting(EvaluationSettings, QUESTIONS, PROMPT):
        here, there = ours.settings.get(name), theirs.settings.get(name)
        if here != there:
            said = ["not given" if value is None else value for value in (here, there)]
            found[name.replace("_", " ")] = f"{said[0]}, in A {said[1]}"
    return found


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
    others: list[str] = []
    lacking: dict[str, list[str]] = {}
    in_domain: dict[str, list[str]] = {}
    for letter, side in sides.items():
        own = set(side.results.clusters.get(cluster, ()))
        if apart := [name for name in names if name in side.results.in_domain and name not in own]:
            in_domain.setdefault(some(apart), []).append(letter)
        elif missing := [name for name in names if name not in own]:
            lacking.setdefault(some(missing), []).append(letter)
        elif own != set(names):
            others.append(letter)
    told = [f"{listed(letters)} {'lacks' if len(letters) == 1 else 'lack'} {missing}" for missing, letters in lacking.items()]
    told += [
        f"{listed(letters)} {'has' if len(letters) == 1 else 'have'} {tasks} in-domain" for tasks, letters in in_domain.items()
    ]
    if others:
        told.append(f"{listed(others)} {'counts' if len(others) == 1 else 'count'} further tasks to this cluster")
    return f"no average, since not all columns have the same tasks: {'; '.join(told)}" if told else ""


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
