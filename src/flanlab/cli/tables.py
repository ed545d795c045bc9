"""Results as tables on a terminal: a table is the data that pages show too."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import typer
from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from flanlab.results.files import as_text

if TYPE_CHECKING:
    from flanlab.report.merged import Merged
    from flanlab.report.page import Cell, Row, Table
    from flanlab.report.run import Run
    from flanlab.results.schema import Results

_NO_LIMIT = 100_000
"""Characters of a line that are invisible on a screen."""

_DETECTABLE = "Detectable: where no difference is clear, so large a one would have been seen with 80 % power."
_NAME_WIDTH = 21
_CELL_WIDTH = 15


def present_results(run: Run, as_json: bool) -> None:
    """Print the results as a table, or as JSON."""
    if as_json:
        typer.echo(as_text(run.results), nl=False)
    else:
        print_results(run.results)
        typer.echo(f"Report: {run.folder / 'report.html'}")


def result_console() -> Console:
    """Output for a command's result: as wide as the terminal, or, in a pipe or file, as wide as the content."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _NO_LIMIT
    return console


def compact_table(title: str, *columns: str) -> RichTable:
    """A table without lines between its columns, for terminals of 80 columns: names on the left, numbers on the right."""
    table = RichTable(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=True)
    return table


def print_table(table: Table) -> None:
    """Print a table of a report; the marks of a cell stand under its interval, details are left out."""
    shown = compact_table(escape(table.title))
    shown.padding = 0
    shown.add_column(table.corner, max_width=_NAME_WIDTH)
    for title in table.columns:
        shown.add_column(escape(title), justify="left" if table.kind == "plain" else "right", no_wrap=True)
    for place, row in enumerate(table.rows):
        if place and row.kind == "cluster":
            shown.add_section()
        shown.add_row(_name(row), *map(_cell, row.cells))
    result_console().print(shown)


def print_lines(*lines: str) -> None:
    """Print the sentences that are not empty."""
    for line in filter(None, lines):
        typer.echo(line)


def _name(row: Row) -> str:
    title = escape(Markup(row.name).striptags() if isinstance(row.name, Markup) else row.name)
    name = f"[bold]{title}[/bold]" if row.kind in ("cluster", "total") else f" {title}" if row.kind == "member" else title
    return "\n".join([name, *(f" {escape(str(mark))}" for mark in row.marks if mark)])


def _cell(cell: Cell) -> str:
    clear = "*" if cell.kind == "score clear" else ""
    return "\n".join(escape(line) for line in (f"{cell.number}{cell.text}", cell.ends + clear, *cell.marks) if line)


def print_results(results: Results) -> None:
    """Tasks and means by metric: each variant, and the difference, with intervals, rows and the level of guessing."""
    from flanlab.report.summary import verdict
    from flanlab.report.views import overview
    from flanlab.report.wording import cannot, interval_notes, unknown_models

    print_table(overview(results))
    notes = ["  Scores times 100, with 95 % intervals."]
    if results.differences:
        notes += ["  * the interval excludes zero. The difference is to the untuned model's best prompt.", f"  {_DETECTABLE}"]
    if any(task.best_on_dev for task in results.tasks.values()):
        notes.append("  Best on dev: the template with the best main metric on dev rows, and its score on the test rows.")
    if any(results.over_wordings(name) for name in results.tasks):
        notes.append("  Wordings: quantiles of all templates' scores, estimated from a few answers to each row.")
    notes += [f"  {one}" for one in filter(cannot, interval_notes(results))]
    print_lines(*notes, f"  {unknown_models(results.variants)}".rstrip(), verdict(results))


def print_comparison(results: Results) -> None:
    """Two sides task by task: scores, the difference with its interval, p-values, and a summary."""
    from flanlab.report.comparison import counts_told, verdict
    from flanlab.report.views import overview
    from flanlab.report.wording import counted

    tests = counted(len(results.tasks), "test")
    print_sides(results)
    print_table(overview(results))
    print_lines(
        f"  * the interval excludes zero. Holm's correction is over {tests}: the main metric of each task.",
        f"  {_DETECTABLE}",
        *(f"  Only {letter.upper()} has: {', '.join(only)}." for letter, only in results.only.items() if only),
        counts_told(results),
        *verdict(results),
    )


def print_sides(results: Results) -> None:
    """What the letters of a comparison stand for."""
    print_lines(*(f"{name.upper()}: {side.folder} ({side.title}), {side.model}" for name, side in results.variants.items()))


def print_merged(merged: Merged) -> None:
    """What the columns are; then tasks and averages cluster by cluster, as many columns at a time as there is room for."""
    from flanlab.report.merged import verdict
    from flanlab.report.merged_page import score_table
    from flanlab.report.wording import cluster_title, counted, listed

    for column in merged.columns:
        trained = ""
        if column.trained_on is not None:
            held_out = listed([cluster_title(name) for name in column.held_out or []])
            trained = f"; trained on {counted(len(column.trained_on), 'task')}{f', held out {held_out}' if held_out else ''}"
        print_lines(f"{column.letter}: {column.label}; {column.folder} ({column.title}), {column.model}{trained}")
    at_once = max(1, (result_console().width - _NAME_WIDTH) // _CELL_WIDTH)
    for start in range(0, len(merged.columns), at_once):
        shown = score_table(merged, merged.columns[start : start + at_once])
        print_table(replace(shown, columns=[title.partition("\n")[0] for title in shown.columns]))
    print_lines("  Scores times 100, with 95 % intervals.", *verdict(merged))
