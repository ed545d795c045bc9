"""The page of merged folders: one HTML file that opens offline, with its scores as CSV beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flanlab.files import write_text
from flanlab.report.downloads import Drawing, csv_text, data_address
from flanlab.report.merged import Column, Entry, Merged, MergedAverage, MergedCluster, MergedTask, task_rows, verdict
from flanlab.report.page import page_environment
from flanlab.report.plots import PanelRow, score_panel
from flanlab.report.wording import MEAN_OVER_CLUSTERS, cluster_title, counted, is_percent, listed, number

_CSV_HEADER = (
    *("column", "label", "folder", "name", "model", "variant", "title", "stamped", "trained_on", "held_out", "seed"),
    *("of", "cluster", "task", "metric", "score", "low", "high", "std_over_templates", "chance", "seen", "differs"),
)


@dataclass(frozen=True)
class Row:
    """A line of a table: a task, or an average, which has no metric of its own."""

    name: str
    entries: Mapping[str, Entry]
    reason: str = ""
    """Why there are no scores."""
    task: MergedTask | None = None
    strong: bool = False


def write_merged(merged: Merged, path: Path) -> Path:
    """Write the page to `path`, and the scores beside it as a CSV file, each whole or not at all.

    Returns:
        The CSV file.
    """
    scores = to_csv(merged)
    beside = path.with_suffix(".csv")
    entries = [entry for _, task in task_rows(merged) for entry in task.entries.values()]
    tables = _tables(merged)
    page = (
        page_environment()
        .get_template("merged.html.j2")
        .render(
            merged=merged,
            sentences=verdict(merged),
            trainings=_trainings(merged.columns),
            tables=tables,
            drawings=_drawings(merged, tables),
            csv=data_address("text/csv", scores),
            csv_name=beside.name,
            marks_seen=any(entry.seen for entry in entries),
            marks_differs=any(entry.differs for entry in entries),
        )
    )
    write_text(beside, scores)
    write_text(path, page)
    return beside


def to_csv(merged: Merged) -> str:
    """Every score, one in each line, with what its column is."""
    lines: list[list[Any]] = []
    for column in merged.columns:
        facts = [
            *(column.letter, column.label, column.folder, column.name, column.model, column.variant, column.title),
            *("yes" if column.stamped else "no", _joined(column.trained_on), _joined(column.held_out), column.seed),
        ]
        lines.extend([*facts, *line] for line in _csv_lines(merged, column.letter))
    return csv_text(_CSV_HEADER, lines)


def _csv_lines(merged: Merged, letter: str) -> Iterable[list[Any]]:
    for cluster, part in merged.clusters.items():
        for name, task in part.tasks.items():
            if letter in task.entries:
                yield ["task", cluster, name, task.main_metric, *_csv_numbers(task.entries[letter], task.chance)]
        if letter in part.average.entries:
            yield ["cluster", cluster, "", "main metric", *_csv_numbers(part.average.entries[letter], None)]
    if letter in merged.cluster_average.entries:
        yield [MEAN_OVER_CLUSTERS, "", "", "main metric", *_csv_numbers(merged.cluster_average.entries[letter], None)]


def _csv_numbers(entry: Entry, chance: float | None) -> list[Any]:
    return [entry.score.mean, *entry.score.interval, entry.score.std, chance, entry.seen or "", "; ".join(entry.differs)]


def _joined(names: Iterable[str] | None) -> str:
    return "unknown" if names is None else "; ".join(names)


def _trainings(columns: Iterable[Column]) -> list[dict[str, Any]]:
    """Columns by what they were trained on, with the tasks of each cluster; those of which nothing is known are left out."""
    letters: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for column in columns:
        if column.trained_on:
            letters.setdefault(tuple(sorted(column.trained_on.items())), []).append(column.letter)
    found = []
    for tasks, known in letters.items():
        clusters: dict[str, list[str]] = {}
        for task, cluster in tasks:
            clusters.setdefault(cluster, []).append(task)
        found.append(
            {
                "letters": known,
                "tasks": len(tasks),
                "clusters": {cluster_title(name): listed(clusters[name]) for name in sorted(clusters)},
            }
        )
    return found


def _tables(merged: Merged) -> list[dict[str, Any]]:
    """The averages first, where there are several clusters; then each cluster's tasks."""
    tables = []
    if len(merged.clusters) > 1:
        rows = [
            Row(f"{cluster_title(name)}, {counted(len(part.tasks), 'task')}", part.average.entries, part.average.reason)
            for name, part in merged.clusters.items()
        ]
        rows.append(_average_row(MEAN_OVER_CLUSTERS, merged.cluster_average))
        tables.append({"id": "averages", "title": "Averages by cluster", "rows": rows})
    for name, part in merged.clusters.items():
        title = cluster_title(name)
        tables.append({"id": f"cluster-{name}", "title": title[:1].upper() + title[1:], "rows": _cluster_rows(part)})
    return tables


def _cluster_rows(part: MergedCluster) -> list[Row]:
    """The tasks, and their average where that would not repeat the one task."""
    rows = [Row(name, task.entries, "", task) for name, task in part.tasks.items()]
    return [*rows, _average_row("average", part.average)] if len(rows) > 1 else rows


def _average_row(name: str, average: MergedAverage) -> Row:
    return Row(name, average.entries, average.reason, None, strong=True)


def _drawings(merged: Merged, tables: Iterable[Mapping[str, Any]]) -> list[Drawing]:
    """A figure for each table: dots and intervals, a line for each column; rows without scores are left out."""
    drawings = []
    metrics = {task.main_metric for part in merged.clusters.values() for task in part.tasks.values()}
    for table in tables:
        rows = [row for row in table["rows"] if row.entries]
        if not rows:
            continue
        own = {row.task.main_metric for row in rows if row.task} or metrics
        percent = all(is_percent(metric) for metric in own)
        drawn = score_panel(
            table["title"],
            [
                PanelRow(
                    row.name,
                    {letter: entry.score for letter, entry in row.entries.items()},
                    frozenset(letter for letter, entry in row.entries.items() if entry.differs or entry.seen),
                    row.task.chance if row.task else None,
                    row.strong,
                )
                for row in rows
            ],
            [column.letter for column in merged.columns],
            percent,
            f"{table['title']}, main metric times 100, with 95 % intervals. {_heard(rows)} All numbers stand in the tables.",
            named=True,
        )
        drawings.append(Drawing(table["id"], drawn))
    return drawings


def _heard(rows: list[Row]) -> str:
    """A figure in words; of many rows the last alone, the average."""
    told = rows if len(rows) <= 4 else rows[-1:]
    return " ".join(
        f"{row.name}: " + ", ".join(f"{letter} {number(entry.score.mean)}" for letter, entry in row.entries.items()) + "."
        for row in told
    )
