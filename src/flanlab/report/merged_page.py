"""Merged folders as tables: on one HTML page that opens offline, on a terminal, and as a CSV file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flanlab.files import write_text
from flanlab.report.merged import Column, Entry, Merged, verdict
from flanlab.report.page import (
    Cell,
    Download,
    Drawing,
    Facts,
    Figure,
    Group,
    Headline,
    Key,
    Page,
    Row,
    Table,
    csv_text,
    text,
    write_page,
)
from flanlab.report.plots import score_panel
from flanlab.report.views import AVERAGE, best_told, score_facts
from flanlab.report.wording import MEAN_OVER_CLUSTERS, capital, cluster_title, counted, is_percent, listed, number
from flanlab.results.schema import MAIN_METRIC


def write_merged(merged: Merged, path: Path) -> Path:
    """Write the page to `path`, and the scores beside it as a CSV file, each whole or not at all.

    Returns:
        The CSV file.
    """
    scores = to_csv(merged)
    beside = path.with_suffix(".csv")
    first, *sentences = verdict(merged)
    seen, differs = any(entry.seen for entry in merged.scores), any(entry.differs for entry in merged.scores)
    notes = [text("merged"), text("merged_differs") if differs else "", text("seen") if seen else ""]
    captions = [text("merged_picture"), text("merged_hollow") if seen or differs else ""]
    picture, *figures = _drawings(merged)
    keys = [Key(f"{column.letter}: {column.label}") for column in merged.columns]
    download = Download("All scores as CSV", beside.name, "text/csv", scores)
    mean = merged.row("clusters", None)
    page = Page(
        "merged results",
        f"{counted(len(merged.columns), 'column')} side by side",
        first,
        [
            Group("Scores", [score_table(merged, merged.columns), " ".join(filter(None, notes)), download]),
            *([Group("Cluster by cluster", [Figure(figures, legend=keys)])] if figures else []),
            Group("Columns", [_column_table(merged.columns), *_trainings(merged.columns)]),
        ],
        numbers=[
            Headline(f"{column.letter}: {column.label}, {MEAN_OVER_CLUSTERS}", _cell(mean[column.letter]))
            for column in merged.columns[:3]
            if mean
        ],
        picture=Figure([picture], " ".join(captions), keys, "single"),
        sentences=sentences,
        footer="Made by flanlab from the results files of the folders alone.",
    )
    write_text(beside, scores)
    write_page(page, path)
    return beside


def score_table(merged: Merged, columns: Sequence[Column]) -> Table:
    """Tasks and means cluster by cluster, in some of the columns."""

    def row(name: str, entries: Mapping[str, Entry], marks: Sequence[str], kind: str, reason: str = "") -> Row:
        cells = [_cell(entries.get(column.letter)) for column in columns]
        return Row(name, [Cell(text=reason)] if reason else cells, marks, kind)

    rows = []
    for cluster, names in merged.clusters.items():
        rows.append(Row(cluster_title(cluster), kind="cluster"))
        for name in names:
            entries = merged.row("task", name)
            chance = next(iter(entries.values())).chance
            marks = [merged.metrics[name] + (f", guessing {number(chance)}" if chance is not None else "")]
            rows.append(row(name, entries, marks, "member"))
        if len(names) > 1:
            rows.append(row(AVERAGE, merged.row("cluster", cluster), [], "total", merged.no_average.get(cluster, "")))
    if len(merged.clusters) > 1:
        rows.append(row(MEAN_OVER_CLUSTERS, merged.row("clusters", None), [], "total", merged.no_average.get("", "")))
    return Table("Main metric of each task", [f"{column.letter}\n{column.label}" for column in columns], rows)


def _cell(entry: Entry | None) -> Cell:
    if entry is None:
        return Cell(text="not asked")
    marks = ["" if not entry.seen else "seen" if entry.score.level == "task" else entry.seen]
    marks.append(f"≠ {', '.join(entry.differs)}" if entry.differs else "")
    below = best_told(entry.best_on_dev.mean if entry.best_on_dev else None)
    marks = [mark for mark in marks if mark]
    return Cell(entry.score.mean, interval=entry.score.interval, marks=marks, below=below, kind="score")


def to_csv(merged: Merged) -> str:
    """Every score, one in each line, with what its column is."""
    columns = {column.letter: column for column in merged.columns}
    ordered = sorted(merged.scores, key=lambda entry: list(columns).index(entry.column))
    return csv_text([_csv_row(columns[entry.column], entry) for entry in ordered])


def _csv_row(column: Column, entry: Entry) -> dict[str, Any]:
    score = entry.score
    return {
        "column": column.letter,
        **{name: getattr(column, name) for name in ("label", "folder", "name", "model", "variant", "title")},
        "stamped": "yes" if column.stamped else "no",
        "trained_on": _joined(column.trained_on),
        "held_out": _joined(column.held_out),
        "seed": column.seed,
        **score_facts(score),
        "best_on_dev": entry.best_on_dev and entry.best_on_dev.mean,
        "chance": entry.chance,
        "seen": entry.seen or "",
        "differs": "; ".join(entry.differs),
    }


def _joined(names: Iterable[str] | None) -> str:
    return "unknown" if names is None else "; ".join(names)


def _column_table(columns: Sequence[Column]) -> Table:
    rows = []
    for column in columns:
        trained = column.trained_on
        told = "not told here" if column.stamped else "unknown, no stamp"
        if trained is not None:
            kinds = counted(len(set(trained.values())), "cluster")
            told = f"{counted(len(trained), 'task')} of {kinds}" if trained else "nothing"
        held_out = listed([cluster_title(name) for name in column.held_out or []]) or "not told here"
        otherwise = "; ".join(f"{name}: {values}" for name, values in column.asked_otherwise.items()) or "no"
        name = column.label if column.name in column.label else f"{column.label} ({column.name})"
        texts = [name, column.model, column.title, told, held_out, otherwise, column.folder]
        rows.append(Row(column.letter, [Cell(text=one) for one in texts]))
    titles = ["name", "model", "asked as", "trained on", "held out", "asked otherwise than A", "folder"]
    return Table("What the columns are", titles, rows, kind="plain")


def _trainings(columns: Iterable[Column]) -> Iterable[Group]:
    """Columns by what they were trained on, with the tasks of each cluster; those of which nothing is known are left out."""
    letters: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for column in columns:
        if column.trained_on:
            letters.setdefault(tuple(sorted(column.trained_on.items())), []).append(column.letter)
    for tasks, known in letters.items():
        clusters: dict[str, list[str]] = {}
        for task, cluster in sorted(tasks, key=lambda pair: pair[1]):
            clusters.setdefault(cluster_title(cluster), []).append(task)
        verb = "was" if len(known) == 1 else "were"
        title = f"What {listed(known)} {verb} trained on: {counted(len(tasks), 'task')}"
        yield Group(title, [Facts({name: listed(members) for name, members in clusters.items()})], "fold")


def _drawings(merged: Merged) -> list[Drawing]:
    """Figures of dots and intervals, a line for each column: the means over clusters, where there are several; each cluster."""
    drawings = []
    means = {cluster_title(name): merged.row("cluster", name) for name in merged.clusters}
    if len(means) > 1:
        means[MEAN_OVER_CLUSTERS] = merged.row("clusters", None)
        drawings.append(_drawing(merged, "averages", "Averages by cluster", means))
    for cluster, names in merged.clusters.items():
        rows = {name: merged.row("task", name) for name in names}
        if len(names) > 1:
            rows[AVERAGE] = merged.row("cluster", cluster)
        drawings.append(_drawing(merged, f"cluster-{cluster}", capital(cluster_title(cluster)), rows))
    return [drawing for drawing in drawings if drawing is not None]


def _drawing(merged: Merged, name: str, title: str, rows: Mapping[str, Mapping[str, Entry]]) -> Drawing | None:
    """None where no row has scores."""
    rows = {row: entries for row, entries in rows.items() if entries}
    if not rows:
        return None
    entries = [entry for own in rows.values() for entry in own.values()]
    metrics = {entry.score.metric for entry in entries if entry.score.metric != MAIN_METRIC} or {
        entry.score.metric for entry in merged.scores if entry.score.level == "task"
    }
    drawn = score_panel(
        title,
        {row: {letter: entry.score for letter, entry in own.items()} for row, own in rows.items()},
        {column.letter: column.letter for column in merged.columns},
        f"{title}, main metric",
        percent=all(map(is_percent, metrics)),
        strong=(AVERAGE, MEAN_OVER_CLUSTERS),
        hollow={row: [letter for letter, one in own.items() if one.differs or one.seen] for row, own in rows.items()},
        chance={row: next(iter(own.values())).chance for row, own in rows.items()},
        named=True,
    )
    return Drawing(drawn, name)
