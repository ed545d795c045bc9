"""`flan tasks`: list, show, lint, and the schema of task files."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flanlab.cli import new_task
from flanlab.cli.options import AsJson, Collections, Mirror, say_reading
from flanlab.errors import FlanlabError
from flanlab.tasks.facts import facts, lineage_in_words, markdown, origin
from flanlab.tasks.loading import BUILT_IN_COLLECTIONS, find_task, find_tasks, known_lineage, load_collections
from flanlab.tasks.schema import SPLITS, Source, Split, Task, json_schema

if TYPE_CHECKING:
    from flanlab.data.encoding import TextEncoder
    from flanlab.data.lint import TaskLint

app = typer.Typer(help="Tasks: data sets written as natural-language instructions.", no_args_is_help=True)
app.command("new")(new_task.new_task)


@app.command("list")
def list_tasks(
    names: Annotated[list[str] | None, typer.Argument(help="Only these tasks or clusters. All by default.")] = None,
    tasks: Collections = None,
    as_json: AsJson = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print everything as Markdown tables.")] = False,
) -> None:
    """List tasks by cluster.

    Example: flan tasks list sentiment
    """
    if as_markdown:
        typer.echo(markdown({name: _load([name]) for name in tasks or BUILT_IN_COLLECTIONS}), nl=False)
        return
    found = _load(tasks, names)
    if as_json:
        ancestors = known_lineage(found)
        typer.echo(json.dumps([facts(task, ancestors) for task in found]))
        return
    from rich.table import Table

    from flanlab.cli.tables import result_console

    table = Table()
    table.add_column("cluster", no_wrap=True)
    table.add_column("task", no_wrap=True)
    table.add_column("templates", justify="right", no_wrap=True)
    table.add_column("metrics", no_wrap=True)
    last = ""
    for task in sorted(found, key=lambda task: (task.clusters[0], task.name)):
        title = task.clusters[0].label
        forward = len(task.forward_templates())
        table.add_row(
            title if title != last else "",
            task.name,
            f"{forward} + {len(task.templates) - forward}",
            ", ".join(task.metrics),
        )
        last = title
    table.caption = "templates: forward + inverted"
    result_console().print(table)


@app.command("show")
def show_task(
    name: Annotated[str, typer.Argument(help="Name of the task.")],
    row: Annotated[int, typer.Option(min=0, help="Number of the row, from 0.")] = 0,
    split: Annotated[Split | None, typer.Option(help="By default the first that the task has.")] = None,
    tasks: Collections = None,
    mirror: Mirror = None,
) -> None:
    """Show a task: its description, and one row through each of its templates.

    Example: flan tasks show everyday_entailment --row 3
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.panel import Panel

    from flanlab.data.rendering import BASELINE, prepare_row, render
    from flanlab.data.sources import load_rows

    task = find_task(name, tasks)
    console = Console()
    console.print(f"[bold]{task.name}[/bold]  {', '.join(cluster.label for cluster in task.clusters)}")
    # Reads all task files, so the first line is printed before.
    ancestors = known_lineage([*(_load(tasks) if tasks else ()), task])
    for label, value in (
        ("about", task.description),
        *((f"subtask {subtask}" if subtask else "from", _source(source)) for subtask, source in task.sources.items()),
        ("licence", task.licence),
        ("citation", task.citation),
        *(("derived from", line) for line in lineage_in_words(task, ancestors) or ["no other data set that it declares"]),
        ("metrics", ", ".join(task.metrics)),
        ("file", str(task.path)),
    ):
        console.print(f"  [dim]{label:12}[/dim] {escape(value)}", soft_wrap=True)
    chosen = next(filter(task.has_split, SPLITS)) if split is None else split
    rows = load_rows(task, chosen, mirror)
    if row >= len(rows):
        raise FlanlabError(
            f"{task.name}: the {chosen} split has rows 0 to {len(rows) - 1}, not {row}.", hint="Use one of these numbers."
        )
    prepared = prepare_row(task, rows[row], row)
    titles = {number: f"template {number}, {template.direction}" for number, template in enumerate(task.templates, start=1)}
    if task.baseline is not None:
        titles[BASELINE] = "baseline, for untuned models"
    for number, title in titles.items():
        example = render(task, number, prepared, range(len(prepared.options)))
        # The answer follows a baseline prompt after one space.
        gap = " " if number == BASELINE else "\n\n"
        text = f"{escape(example.prompt)}{gap}[bold green]{escape(example.target)}[/bold green]"
        console.print(Panel(text, title=title, title_align="left"))


@app.command("lint")
def lint_tasks(
    names: Annotated[list[str] | None, typer.Argument(help="Tasks or clusters. All by default.")] = None,
    tasks: Collections = None,
    mirror: Mirror = None,
    rows: Annotated[int, typer.Option(min=1, help="Number of rows to render from each split.")] = 200,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Check this model's tokenizer between prompt and answer. May be repeated. The first one counts lengths."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check tasks on real rows: render every template and check the result.

    Exits with status 1 if there is an error. Example: flan tasks lint --tasks my_tasks
    """
    say_reading(", ".join(names or ["all tasks"]))
    from flanlab.data.lint import TaskLint, lint_task
    from flanlab.data.lint_sample import Finding
    from flanlab.data.reader import rows_within_reach
    from flanlab.progress import say

    chosen = _load(tasks, names)
    encoders = _encoders(model or [])
    reports: list[dict[str, Any]] = []
    errors = 0
    for task in chosen:
        missing: list[str] = []
        try:
            rows_by_split, missing = rows_within_reach(task, mirror)
            if not rows_by_split and any(source.files for source in task.sources.values()):
                raise FlanlabError(missing[0], hint="A path of source.files is relative to the task file.")
        except FlanlabError as error:
            # The other tasks are still checked.
            report = TaskLint(task.name, [Finding("error", "rows", error.message, error.hint)], {})
        else:
            if not rows_by_split:
                say(f"{task.name}: not checked. {missing[0]}")
                reports.append({"task": task.name, "checked": False, "missing": missing})
                continue
            for message in missing:
                say(f"{task.name}: checked partly. {message}")
            report = lint_task(task, rows_by_split, encoders, rows_per_split=rows)
        reports.append({"task": task.name, "checked": True, "missing": missing, **dataclasses.asdict(report)})
        errors += sum(finding.level == "error" for finding in report.findings)
        if not as_json:
            _print_lint(task, report)
    if as_json:
        typer.echo(json.dumps(reports))
    else:
        checked = [report for report in reports if report["checked"]]
        warnings = sum(finding["level"] == "warning" for report in checked for finding in report["findings"])
        out_of_reach = len(reports) - len(checked)
        counted = f"{len(checked)} task{'' if len(checked) == 1 else 's'} checked"
        typer.echo(f"{counted}: {errors} errors, {warnings} warnings; {out_of_reach} without rows")
    if errors:
        raise typer.Exit(1)


def _encoders(names: list[str]) -> dict[str, TextEncoder]:
    if not names:
        return {}
    # Seconds of imports, which linting without a model does not need.
    from flanlab.models.loading import load_encoder

    return {name: load_encoder(name) for name in names}


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of a task file, for editors.

    Example: flan tasks schema > task.schema.json
    """
    typer.echo(json.dumps(json_schema(), indent=1))


def _print_lint(task: Task, report: TaskLint) -> None:
    from rich.console import Console
    from rich.markup import escape

    from flanlab.data.lint_sample import template_list

    console = Console()
    verdict = "[green]ok[/green]" if not report.findings else ""
    console.print(
        f"[bold]{task.name}[/bold]  {sum(report.rows_checked.values())} rows x {len(task.templates)} templates {verdict}"
    )
    for split, histogram in report.label_histogram.items():
        shares = ", ".join(f"{label} {count}" for label, count in histogram.items())
        console.print(f"  [dim]{split}: {escape(shares)}[/dim]")
    for part, lengths in (("prompt", report.prompt_tokens), ("target", report.target_tokens)):
        if lengths is not None:
            spread = f"median {lengths.median}, 95th percentile {lengths.percentile_95}, maximum {lengths.maximum}"
            console.print(f"  [dim]{part} tokens: {spread}[/dim]")
    for finding in report.findings:
        colour = "red" if finding.level == "error" else "yellow"
        place = "" if finding.template is None else f"{template_list([finding.template])}: "
        console.print(f"  [{colour}]{finding.level}[/{colour}] {finding.rule}: {escape(place + finding.message)}")
        console.print(f"      [dim]{escape(finding.hint)}[/dim]")


def _source(source: Source) -> str:
    return f"{origin(source)}; " + ", ".join(f"{split}: {part}" for split in SPLITS if (part := source.split_spec(split)))


def _load(collections: list[str] | None, names: list[str] | None = None) -> list[Task]:
    collections = collections or list(BUILT_IN_COLLECTIONS)
    return find_tasks(names, collections) if names else load_collections(collections)
