"""Results as tables on a terminal."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from flanlab.report.wording import MEAN_OVER_CLUSTERS, probability, unknown_models
from flanlab.results.files import as_text
from flanlab.results.schema import BEST_ON_DEV, MAIN_METRIC, Difference, Level, Results

if TYPE_CHECKING:
    from flanlab.report.run import Run

_NO_LIMIT = 100_000
"""Characters of a line that are invisible on a screen."""

_DETECTABLE = "Detectable: where no difference is clear, so large a one would have been seen with 80 % power."


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


def compact_table(title: str) -> Table:
    """A table without lines between its columns, for terminals of 80 columns."""
    return Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")


def print_results(results: Results) -> None:
    """Tasks and averages by metric: each variant, and the difference with its interval."""
    compared = bool(results.differences)
    table = compact_table(f"{results.name}: {_spaced(results.hold_out)}")
    table.add_column("", no_wrap=True)
    for variant in results.variants.values():
        table.add_column(variant.title.removesuffix(" prompt").replace(", ", ",\n"), justify="right", no_wrap=True)
    if compared:
        table.add_column("difference\n[95 % interval]", justify="right", no_wrap=True)
    titles: dict[str, str] = {}

    def add(level: Level, name: str | None, metric: str, title: str) -> None:
        scores, difference = results.scored(level, name, metric), results.difference(level, name, metric)
        cells = [f"{scores[variant].mean:.3f}" for variant in results.variants]
        table.add_row(f"  {title}", *cells, *([shown_difference(difference)] if difference else []))

    for name, task in results.tasks.items():
        table.add_row(f"[bold]{name}[/bold]" + ("  (seen)" if task.seen else "  (in-domain)" if task.in_domain else ""))
        for metric, facts in task.metrics.items():
            titles[metric] = facts.title
            add("task", name, metric, facts.title)
        if over := results.over_wordings(name):
            quantiles = {variant: " ".join(f"{one.mean:.3f}" for one in found) for variant, found in over.items()}
            table.add_row("  over wordings: 5 %, median, 95 %", *(quantiles.get(variant, "") for variant in results.variants))
        for cells in _best_templates(results, name):
            table.add_row(*cells)
        table.add_section()
    some_seen = any(task.seen for task in results.tasks.values())
    if averaged := results.metrics("tasks"):
        kind = "" if not results.in_domain else " in-domain" if len(results.in_domain) == len(results.tasks) else " zero-shot"
        table.add_row(f"[bold]average{kind}[/bold]" + ("  (with seen tasks)" if some_seen else ""))
        for metric in averaged:
            add("tasks", None, metric, titles[metric])
    if results.metrics("in_domain"):
        table.add_row("[bold]average in-domain[/bold]")
        for metric in results.metrics("in_domain"):
            add("in_domain", None, metric, titles.get(metric, "main metric"))
    clusters = results.clusters
    if sum(results.members("cluster", cluster) for cluster in clusters) > 1:
        table.add_section()
        table.add_row("[bold]main metric, by cluster[/bold]")
        for cluster, names in clusters.items():
            seen = any(results.tasks[name].seen for name in names)
            add("cluster", cluster, MAIN_METRIC, _spaced([cluster]) + (" (seen)" if seen else ""))
        if len(clusters) > 1:
            add("clusters", None, MAIN_METRIC, MEAN_OVER_CLUSTERS + (" (seen)" if some_seen else ""))
    console = result_console()
    console.print(table)
    if compared:
        console.print("  * the interval excludes zero. The difference is to the untuned model's best prompt.")
        console.print(f"  {_DETECTABLE}")
    if any(task.best_on_dev for task in results.tasks.values()):
        console.print("  Best on dev: the template with the best main metric on dev rows, and its score on the test rows.")
    if any(results.over_wordings(name) for name in results.tasks):
        console.print("  Over wordings: quantiles of all templates' scores, estimated from a few answers to each row.")
    if unknown := unknown_models(results.variants):
        console.print(f"  {unknown}")


def print_comparison(results: Results) -> None:
    """Two sides task by task: scores, the difference with its interval, p-values, and a summary."""
    from flanlab.report.comparison import seen_by, verdict

    console = result_console()
    for letter, side in results.variants.items():
        console.print(f"{letter.upper()}: {side.folder} ({side.title}), {side.model}", markup=False, soft_wrap=True)
    table = compact_table("B minus A")
    table.add_column("", no_wrap=True)
    for title in ("A", "B", "difference\n[95 % interval]", "p", "p by\nHolm"):
        table.add_column(title, justify="right", no_wrap=True)

    def add(level: Level, name: str | None, metric: str, title: str) -> None:
        scores, difference = results.scored(level, name, metric), results.difference(level, name, metric)
        assert difference is not None
        corrected = "" if difference.p_holm is None else probability(difference.p_holm)
        means = [f"{scores[side].mean:.3f}" for side in results.variants]
        table.add_row(f"  {title}", *means, shown_difference(difference), probability(difference.p_value), corrected)

    for name, task in results.tasks.items():
        seen = seen_by(results, [name])
        table.add_row(f"[bold]{name}[/bold]" + (f"  (seen by {seen})" if seen else ""))
        for metric, facts in task.metrics.items():
            add("task", name, metric, facts.title)
        table.add_section()
    table.add_row("[bold]main metric, by cluster[/bold]")
    for cluster, names in results.clusters.items():
        seen = seen_by(results, names)
        add("cluster", cluster, MAIN_METRIC, _spaced([cluster]) + (f" (seen by {seen})" if seen else ""))
    if len(results.clusters) > 1:
        seen = seen_by(results)
        add("clusters", None, MAIN_METRIC, MEAN_OVER_CLUSTERS + (f" (seen by {seen})" if seen else ""))
    console.print(table)
    family = len(results.tasks)
    console.print(f"  * the interval excludes zero. Holm's correction is over {family} tests: the main metric of each task.")
    console.print(f"  {_DETECTABLE}")
    for letter, only in results.only.items():
        if only:
            console.print(f"  Only {letter.upper()} has: {', '.join(only)}.", markup=False)
    for sentence in verdict(results):
        console.print(sentence, markup=False)


def _best_templates(results: Results, name: str) -> Iterable[list[str]]:
    task = results.tasks[name]
    if task.best_on_dev is None:
        return
    if not task.best_on_dev:
        yield ["  best on dev", "no dev split"]
        return
    scores = results.scored("task", name, task.main_metric, BEST_ON_DEV)
    chosen = [(scores.get(variant), task.best_on_dev.get(variant)) for variant in results.variants]
    yield [
        "  best on dev (template)",
        *(f"{score.mean:.3f} ({best.template})" if score and best else "" for score, best in chosen),
    ]
    yield ["  [95 % interval]", *("[{:.3f}, {:.3f}]".format(*score.interval) if score else "" for score, _ in chosen)]


def shown_difference(row: Difference) -> str:
    """A difference with its interval, marked where that excludes zero."""
    mark = "*" if row.is_clear else " "
    told = f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]{mark}"
    seen = "" if row.is_clear or row.detectable is None else f"\n{row.detectable:.3f} detectable "
    return told + seen


def _spaced(names: list[str]) -> str:
    return ", ".join(names).replace("_", " ")
