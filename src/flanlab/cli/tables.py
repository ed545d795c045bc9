"""Results as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_results(results: Mapping[str, Any]) -> None:
    """One table: each task and the average, each metric before and after, with the interval of the difference."""
    compared = "comparison" in results["average"]
    table = Table(title=f"{results['name']}: {', '.join(results['hold_out']).replace('_', ' ')}", title_justify="left")
    table.add_column("task")
    table.add_column("metric")
    for title in results["variants"].values():
        table.add_column(title, justify="right")
    if compared:
        table.add_column("difference [95 %]", justify="right")
    for name, entry in [*results["tasks"].items(), ("average", results["average"])]:
        titles = next(iter(results["tasks"].values()))["metrics"] | entry.get("metrics", {})
        for number, (metric, scores) in enumerate(entry["scores"].items()):
            cells = [f"{scores[variant]['mean']:.3f}" if variant in scores else "" for variant in results["variants"]]
            if compared:
                comparison = entry["comparison"][metric]
                low, high = comparison["interval"]
                mark = "*" if comparison["excludes_zero"] else " "
                cells.append(f"{comparison['difference']:+.3f} [{low:+.3f}, {high:+.3f}]{mark}")
            table.add_row(name if number == 0 else "", titles.get(metric, metric), *cells)
        table.add_section()
    if compared:
        table.caption = "* the interval excludes zero; the difference is to the better of the untuned model's prompts"
    Console().print(table)
