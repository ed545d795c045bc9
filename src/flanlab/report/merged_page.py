"""Merged folders as tables: on one HTML page that opens offline, on a terminal, and as a CSV file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from flanlab.files import write_text
from flanlab.report.merged import Column, Entry, Merged, verdict
from flanlab.report.page import Block, Cell, Download, Facts, Figure, Group, Key, Page, Row, Table, csv_text, text, write_page
from flanlab.report.plots import Drawing, score_panel
from flanlab.report.views import AVERAGE, Line, score_cell, score_facts
from flanlab.report.wording import MEAN_OVER_CLUSTERS, PERCENT, capital, cluster_title, counted, listed, number
from flanlab.results.schema import MAIN_METRIC


def write_merged(merged: Merged, path: Path) -> Path:
    """Write the page to `path`, and the scores beside it as a CSV file, each whole or not at all.

    Returns:
        The CSV file.
    """
    scores, csv_file = to_csv(merged), path.with_suffix(".csv")
    seen, differs = any(entry.seen for entry in merged.scores), any(entry.differs for entry in merged.scores)
    notes = text("merged", differs and "merged_differs", seen and "seen")
    picture, *figures = _drawings(merged)
    keys = [Key(f"{column.letter}: {column.label}") for column in merged.columns]
    mean = merged.row("clusters", None)
    sections: dict[str, list[Block]] = {
        "Scores": [score_table(merged, merged.columns), notes, Download("All scores as CSV", csv_file.name, scores)],
        "Cluster by cluster": [Figure(figures, legend=keys)] if figures else [],
        "Columns": [_column_table(merged.columns), *_trainings(merged.columns)],
    }
    page = Page(
        "merged results",
        f"{counted(len(merged.columns), 'column')} side by side",
        verdict(merged),
        sections,
        "Made by flanlab from the results files of the folders alone.",
        numbers=[
            (f"{column.letter}: {column.label}, {MEAN_OVER_CLUSTERS}", _cell(mean[column.letter]))
            for column in merged.columns[:3]
            if mean
        ],
        picture=Figure([picture], text("merged_picture", (seen or differs) and "merged_hollow"), keys, "single"),
    )
    write_text(csv_file, scores)
    write_page(page, path)
    return csv_file


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
    marks = [entry.mark]
    marks.append(f"≠ {', '.join(entry.differs)}" if entry.differs else "")
    best = entry.best_on_dev.mean if entry.best_on_dev else None
    cell = score_cell(entry.score, best, spread=False)
    return replace(cell, marks=[mark for mark in marks if mark])


def to_csv(merged: Merged) -> str:
    """Every score, one in each line, with what its column is."""
    columns = {column.letter: column for column in merged.columns}
    lines = []
    for entry in sorted(merged.scores, key=lambda entry: list(columns).index(entry.column)):
        column = columns[entry.column]
        lines.append(
            {
                "column": column.letter,
                **{name: getattr(column, name) for name in ("label", "folder", "name", "model", "variant", "title")},
                "stamped": "yes" if column.stamped else "no",
                "trained_on": _joined(column.trained_on),
                "held_out": _joined(column.held_out),
                "seed": column.seed,
                **score_facts(entry.score),
                "best_on_dev": entry.best_on_dev and entry.best_on_dev.mean,
                "chance": entry.chance,
                "seen": entry.seen or "",
                "differs": "; ".join(entry.differs),
            }
        )
    return csv_text(lines)


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


def _drawings(merged: Merged) -> Iterable[Drawing]:
    """Figures of dots and intervals for each column: the means over clusters, where there are several; each cluster."""
    if len(merged.clusters) > 1:
        means = {cluster_title(name): merged.row("cluster", name) for name in merged.clusters}
        means[MEAN_OVER_CLUSTERS] = merged.row("clusters", None)
        yield from _drawing(merged, "averages", "Averages by cluster", means)
    for cluster, names in merged.clusters.items():
        rows = {name: merged.row("task", name) for name in names}
        average = {AVERAGE: merged.row("cluster", cluster)} if len(names) > 1 else {}
        yield from _drawing(merged, f"cluster-{cluster}", capital(cluster_title(cluster)), rows | average)


def _drawing(merged: Merged, name: str, title: str, rows: Mapping[str, Mapping[str, Entry]]) -> Iterable[Drawing]:
    """Nothing where no row has scores."""
    lines = []
    for row, entries in rows.items():
        if entries:
            first = next(iter(entries.values()))
            scores = {letter: one.score for letter, one in entries.items()}
            hollow = [letter for letter, one in entries.items() if one.differs or one.seen]
            lines.append(Line(row, first.score.metric, scores, None, first.chance, hollow=hollow))
    if lines:
        own = {score.metric for line in lines for score in line.scores.values()} - {MAIN_METRIC}
        metrics = own or {entry.score.metric for entry in merged.scores if entry.score.level == "task"}
        columns = {column.letter: column.letter for column in merged.columns}
        means, percent = (AVERAGE, MEAN_OVER_CLUSTERS), metrics <= PERCENT
        drawn = score_panel(title, lines, columns, f"{title}, main metric", percent=percent, strong=means, named=True)
        yield replace(drawn, name=name)
