"""`flan ablate`: the paper's ablations, as sweeps over cells."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flanlab.cli.options import AcceptGemmaTerms, AsJson, Mirror, RecipeFile, comma_separated, folder_to_write, say_loading
from flanlab.errors import FlanlabError

if TYPE_CHECKING:
    from flanlab.experiments.sweep import Sweep


def ablate(
    name: Annotated[str, typer.Argument(help="clusters, few-shot, scale, settings, ... An unknown name lists all.")],
    recipe: RecipeFile,
    out: Annotated[
        Path, typer.Option(callback=folder_to_write, help="Folder of all sweeps. They reuse each other's work.")
    ] = Path("runs/ablations"),
    points: Annotated[
        str | None,
        typer.Option(help="What to vary over instead of the default, separated by commas: 1,3,6 clusters."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Run only the cells with such names, for example 'tuned-*'. May be repeated. Finished cells stay."),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", "--dry-run", help="Print the cells and their cost. Nothing is run.")] = False,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="One cell after another, or on a Ray cluster.")] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="With ray: the cluster's address, host:port or auto. Without it, Ray is started on this machine."),
    ] = None,
    cpus: Annotated[
        float | None,
        typer.Option(min=0, help="With ray: CPU cores for each cell. Default: one for each of its processes."),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(min=0, help="With ray: GPUs for each cell. Default: none."),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(min=1, help="Processes that torchrun starts for each training and evaluation; on GPUs, one on each."),
    ] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="Train each cell this many times, each time with another seed.")] = 1,
    mirror: Mirror = None,
    accept_gemma_terms: AcceptGemmaTerms = False,
    as_json: AsJson = False,
) -> None:
    """Run one of the paper's ablations, or compare settings, with RECIPE as the base, and write one page with the figure.

    Example: flan ablate clusters recipes/ablation-base.yaml --points 1,3,6 --plan

    After a stop, the same command resumes. Exit status 1: some cells failed; the others are done.
    """
    if engine != "ray" and any(option is not None for option in (address, cpus, gpus)):
        raise typer.BadParameter("is needed with --address, --cpus and --gpus.", param_hint="--engine ray")
    if gpus and gpus < processes and processes > 1:
        raise typer.BadParameter(f"is for a whole cell: its {processes} processes take one each.", param_hint="--gpus")

    from flanlab.processes import world_size

    if world_size() > 1:
        raise FlanlabError(
            "`flan ablate` runs as one process.",
            hint="Start it without torchrun: --processes N starts it for each cell; --engine ray does several cells at once.",
        )

    say_loading()
    from flanlab.data.reader import RowReader
    from flanlab.experiments.folders import with_states
    from flanlab.experiments.on_ray import on_ray
    from flanlab.experiments.recipe import read_recipe
    from flanlab.experiments.steps import in_this_process
    from flanlab.experiments.sweep import plan_sweep, run_sweep
    from flanlab.progress import say
    from flanlab.report.html import REPORT_FILE
    from flanlab.report.sweep_page import write_pages

    chosen = list(filter(None, comma_separated([points or ""])))
    reader = RowReader(mirror)
    sweep = plan_sweep(name, read_recipe(recipe), out, reader, points=chosen, only=only or [], processes=processes, seeds=seeds)
    if plan and as_json:
        typer.echo(json.dumps({**with_states(sweep.facts, sweep.folder).model_dump(mode="json"), "plan": sweep.plan()}))
    elif plan or not as_json:
        _print_plan(sweep)
    if plan:
        return
    ray = partial(on_ray, address=address, cpus=processes if cpus is None else cpus, gpus=gpus or 0)
    try:
        run_sweep(sweep, ray if engine == "ray" else in_this_process)
    except KeyboardInterrupt:
        say(f"Stopped. What is done is kept in {out}: the same command resumes it.")
        raise
    finally:
        found = write_pages(sweep.folder)
    failed = [cell for cell in found.facts.cells if cell.state == "failed" and cell.name in sweep.cells]
    if as_json:
        typer.echo(found.facts.model_dump_json())
    else:
        typer.echo("\n".join(found.verdict))
        for cell in failed:
            # An unexpected error has its traceback in the folder.
            typer.echo(f"Failed: {cell.name}: {cell.error.partition(chr(10) * 2)[0]}", err=True)
        if failed:
            typer.echo("The same command tries the failed cells again, and nothing else.", err=True)
        typer.echo(f"Page: {sweep.folder / REPORT_FILE}")
    if failed:
        raise typer.Exit(1)


def _print_plan(sweep: Sweep) -> None:
    from flanlab.cli.tables import compact_table, result_console
    from flanlab.progress import clock
    from flanlab.report.wording import counted

    columns = ("cell", "trains on\n(examples)", "evaluated on\n(questions)", "takes\nabout", "state")
    table = compact_table(f"{sweep.facts.title}: {counted(len(sweep.cells), 'cell')}", *columns)
    for row in sweep.plan():
        examples, seconds = f"{row['examples']:,}" if row["examples"] else "", clock(row["seconds"]) if row["seconds"] else ""
        table.add_row(row["cell"], examples, f"{row['questions']:,}", seconds, row["state"])
    result_console().print(table)
    steps = sweep.to_do()
    trainings = sum(step.kind == "train" for step in steps)
    work = f"{counted(trainings, 'training')} and {counted(len(steps) - trainings, 'evaluation')}"
    seconds = clock(sum(step.seconds for step in steps))
    told = f"To do: {work}, about {seconds} one after another, by a measurement on this machine."
    typer.echo(told if steps else "Everything is done already.")
