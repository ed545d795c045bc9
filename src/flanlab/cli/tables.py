"""Results as tables on a terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from flanlab.report.wording import MEAN_OVER_CLUSTERS, probability, unknown_models

_NO_LIMIT = 100_000
"""Characters of a line that are invisible on a screen."""


def present_results(results: Mapping[str, Any], folder: Path, as_json: bool) -> None:
    """Write the report to `folder` and print the results as a table or as JSON."""
    from flanlab.report.html import write_report

    page = write_report(folder)
    if as_json:
        typer.echo(json.dumps(results))
    else:
        print_results(results)
        typer.echo(f"Report: {page}")


def result_console() -> Console:
    """Output for a command's result: as wide as the terminal, or, in a pipe or file, as wide as the content."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _NO_LIMIT
    return console


def compact_table(title: str) -> Table:
    """A table without lines between its columns, for terminals of 80 columns."""
    return Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")


def print_results(results: Mapping[str, Any]) -> None:
    """Tasks and averages by metric: each variant, and the difference with its interval."""
    compared = "comparison" in results["average"]
    table = compact_table(f"{results['name']}: {_spaced(results['hold_out'])}")
    table.add_column("", no_wrap=True)
    for title in results["variants"].values():
        table.add_column(title.removesuffix(" prompt").replace(", ", ",\n"), justify="right", no_wrap=True)
    if compared:
        table.add_column("difference\n[95 % interval]", justify="right", no_wrap=True)
    titles: dict[str, str] = {}
    for name, entry in results["tasks"].items():
        titles |= entry["metrics"]
        table.add_row(f"[bold]{name}[/bold]" + ("  (seen)" if "seen" in entry else ""))
        _add_metrics(table, entry, titles, results["variants"], compared)
        if "best_dev_template" in entry:
            for cells in _best_templates(entry, results["variants"]):
                table.add_row(*cells)
        table.add_section()
    if results["average"]["scores"]:
        some_seen = "  (with seen tasks)" if any("seen" in entry for entry in results["tasks"].values()) else ""
        table.add_row(f"[bold]average[/bold]{some_seen}")
        _add_metrics(table, results["average"], titles, results["variants"], compared)
    if sum(part["tasks"] for part in results["clusters"].values()) > 1:
        table.add_section()
        table.add_row("[bold]main metric, by cluster[/bold]")
        for name, part in _cluster_parts(results):
            main = {"scores": {name: part["scores"]["main_metric"]}}
            if compared:
                main["comparison"] = {name: part["comparison"]["main_metric"]}
            tasks = [task for task in results["tasks"].values() if name in (task["clusters"][0], MEAN_OVER_CLUSTERS)]
            seen = any("seen" in task for task in tasks)
            _add_metrics(table, main, {name: _spaced([name]) + (" (seen)" if seen else "")}, results["variants"], compared)
    console = result_console()
    console.print(table)
    if compared:
        console.print("  * the interval excludes zero. The difference is to the untuned model's best prompt.")
    if any(entry.get("best_dev_template") for entry in results["tasks"].values()):
        console.print("  Best on dev: the template with the best main metric on dev rows, and its score on the test rows.")
    if unknown := unknown_models(results["stamped"]):
        console.print(f"  {unknown}")


def print_comparison(comparison: Mapping[str, Any]) -> None:
    """Two sides task by task: scores, the difference with its interval, p-values, and a summary."""
    from flanlab.report.comparison import seen_by, verdict

    console = result_console()
    for side in ("a", "b"):
        facts = comparison[side]
        console.print(f"{side.upper()}: {facts['folder']} ({facts['title']}), {facts['model']}", markup=False, soft_wrap=True)
    table = compact_table("B minus A")
    table.add_column("", no_wrap=True)
    for title in ("A", "B", "difference\n[95 % interval]", "p", "p by\nHolm"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, entry in comparison["tasks"].items():
        seen = " and ".join(side.upper() for side in ("a", "b") if entry["seen"][side])
        table.add_row(f"[bold]{name}[/bold]" + (f"  (seen by {seen})" if seen else ""))
        for metric, scores in entry["scores"].items():
            _add_pair(table, entry["metrics"][metric], scores, entry["comparison"][metric])
        table.add_section()
    table.add_row("[bold]main metric, by cluster[/bold]")
    for name, part in _cluster_parts(comparison):
        seen = seen_by(comparison, None if name == MEAN_OVER_CLUSTERS else name)
        title = _spaced([name]) + (f" (seen by {seen})" if seen else "")
        _add_pair(table, title, part["scores"]["main_metric"], part["comparison"]["main_metric"])
    console.print(table)
    family = len(comparison["family"])
    console.print(f"  * the interval excludes zero. Holm's correction is over {family} tests: the main metric of each task.")
    for name in ("a", "b"):
        if comparison["only"][name]:
            console.print(f"  Only {name.upper()} has: {', '.join(comparison['only'][name])}.", markup=False)
    for sentence in verdict(comparison):
        console.print(sentence, markup=False)


def _add_pair(table: Table, title: str, scores: Mapping[str, Any], compared: Mapping[str, Any]) -> None:
    means = [f"{scores[side]['mean']:.3f}" for side in ("a", "b")]
    corrected = probability(compared["p_holm"]) if "p_holm" in compared else ""
    table.add_row(f"  {title}", *means, _difference(compared), probability(compared["p_value"]), corrected)


def _add_metrics(
    table: Table, part: Mapping[str, Any], titles: Mapping[str, str], variants: Iterable[str], compared: bool
) -> None:
    for metric, scores in part["scores"].items():
        cells = [f"{scores[variant]['mean']:.3f}" if variant in scores else "" for variant in variants]
        if compared:
            cells.append(_difference(part["comparison"][metric]))
        table.add_row(f"  {titles[metric]}", *cells)


def _best_templates(entry: Mapping[str, Any], variants: Iterable[str]) -> Iterable[list[str]]:
    best = entry["best_dev_template"]
    if best is None:
        yield ["  best on dev", "no dev split"]
        return
    chosen = [best.get(variant) for variant in variants]
    yield ["  best on dev (template)", *(f"{one['score']:.3f} ({one['template']})" if one else "" for one in chosen)]
    yield ["  [95 % interval]", *("[{:.3f}, {:.3f}]".format(*one["interval"]) if one else "" for one in chosen)]


def _cluster_parts(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Each cluster's averages, and the average over clusters if there are several."""
    parts = list(results["clusters"].items())
    return [*parts, (MEAN_OVER_CLUSTERS, results["cluster_average"])] if len(parts) > 1 else parts


def _difference(comparison: Mapping[str, Any]) -> str:
    low, high = comparison["interval"]
    mark = "*" if comparison["excludes_zero"] else " "
    return f"{comparison['difference']:+.3f} [{low:+.3f}, {high:+.3f}]{mark}"


def _spaced(names: list[str]) -> str:
    return ", ".join(names).replace("_", " ")
