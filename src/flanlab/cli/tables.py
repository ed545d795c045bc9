"""Results as tables on a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table


def present_results(results: Mapping[str, Any], folder: Path, as_json: bool) -> None:
    """Write the report into `folder`, and print the results as a table or as JSON."""
    from flanlab.report.html import write_report

    page = write_report(folder)
    if as_json:
        typer.echo(json.dumps(results))
    else:
        print_results(results)
        typer.echo(f"Report: {page}")


def compact_table(title: str) -> Table:
    """A table without lines between its columns, for terminals of 80 columns."""
    return Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")


def print_results(results: Mapping[str, Any]) -> None:
    """Each task and the average, metric by metric: every variant, and the difference with its interval."""
    compared = "comparison" in results["average"]
    table = compact_table(f"{results['name']}: {_spaced(results['hold_out'])}")
    table.add_column("", no_wrap=True)
    for title in results["variants"].values():
        table.add_column(title.removesuffix(" prompt").replace(", ", ",\n"), justify="right", no_wrap=True)
    if compared:
        table.add_column("difference\n[95 % interval]", justify="right", no_wrap=True)
    titles: dict[str, str] = {}
    for name, entry in [*results["tasks"].items(), ("average", results["average"])]:
        titles |= entry.get("metrics", {})
        table.add_row(f"[bold]{name}[/bold]" + ("  (seen)" if "seen" in entry else ""))
        for metric, scores in entry["scores"].items():
            cells = [f"{scores[variant]['mean']:.3f}" if variant in scores else "" for variant in results["variants"]]
            if compared:
                cells.append(_difference(entry["comparison"][metric]))
            table.add_row(f"  {titles[metric]}", *cells)
        table.add_section()
    console = Console()
    console.print(table)
    if compared:
        console.print("  * the interval excludes zero. The difference is to the better of the untuned model's prompts.")


def _difference(comparison: Mapping[str, Any]) -> str:
    low, high = comparison["interval"]
    mark = "*" if comparison["excludes_zero"] else " "
    return f"{comparison['difference']:+.3f} [{low:+.3f}, {high:+.3f}]{mark}"


def _spaced(names: list[str]) -> str:
    return ", ".join(names).replace("_", " ")
