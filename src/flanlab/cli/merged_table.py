"""Merged folders as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console

from flanlab.cli.tables import compact_table, result_console
from flanlab.report.merged import Column, Entry, Merged, verdict
from flanlab.report.wording import MEAN_OVER_CLUSTERS, cluster_title, counted

_CELL_WIDTH = 15
_AVERAGE = "average"


def print_merged(merged: Merged) -> None:
    """What the columns are; then tasks and averages cluster by cluster, as many columns at a time as there is room for."""
    console = result_console()
    for column in merged.columns:
        facts = f"{column.letter}: {column.label}; {column.folder} ({column.title}), {column.model}{_trained(column)}"
        console.print(facts, markup=False, highlight=False, soft_wrap=True)
    names = [name for cluster in merged.clusters.values() for name in [*cluster.tasks, _AVERAGE]]
    room = console.width - max(map(len, [*names, MEAN_OVER_CLUSTERS])) - 3
    at_once = max(1, room // _CELL_WIDTH)
    for start in range(0, len(merged.columns), at_once):
        _print_columns(console, merged, merged.columns[start : start + at_once])
    console.print("  Main metric of each task with its 95 % interval.", highlight=False)
    for name, cluster in merged.clusters.items():
        if cluster.average.reason and len(cluster.tasks) > 1:
            console.print(f"  {cluster_title(name)}: {cluster.average.reason}.", markup=False, highlight=False)
    if merged.cluster_average.reason:
        console.print(f"  {MEAN_OVER_CLUSTERS}: {merged.cluster_average.reason}.", markup=False, highlight=False)
    for sentence in verdict(merged):
        console.print(sentence, markup=False, highlight=False)


def _print_columns(console: Console, merged: Merged, columns: Sequence[Column]) -> None:
    table = compact_table("")
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column.letter, justify="right", no_wrap=True)
    for name, cluster in merged.clusters.items():
        table.add_row(f"[bold]{cluster_title(name)}[/bold]")
        for task, row in cluster.tasks.items():
            table.add_row(f"  {task}", *_cells(row.entries, columns))
        if cluster.average.entries and len(cluster.tasks) > 1:
            table.add_row(f"  {_AVERAGE}", *_cells(cluster.average.entries, columns))
        table.add_section()
    if merged.cluster_average.entries and len(merged.clusters) > 1:
        table.add_row(f"[bold]{MEAN_OVER_CLUSTERS}[/bold]", *_cells(merged.cluster_average.entries, columns))
    console.print(table)


def _cells(entries: Mapping[str, Entry], columns: Sequence[Column]) -> list[str]:
    return [_cell(entries[column.letter]) if column.letter in entries else "not asked" for column in columns]


def _cell(entry: Entry) -> str:
    low, high = entry.score.interval
    mark = "\N{NOT EQUAL TO} " if entry.differs else ""
    lines = [f"{mark}{entry.score.mean:.3f}", f"\\[{low:.3f}, {high:.3f}]"]
    return "\n".join([*lines, "seen"] if entry.seen else lines)


def _trained(column: Column) -> str:
    if column.trained_on is None:
        return ""
    held_out = f", held out {', '.join(map(cluster_title, column.held_out))}" if column.held_out else ""
    return f"; trained on {counted(len(column.trained_on), 'task')}{held_out}"
