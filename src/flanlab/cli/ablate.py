"""`flan ablate`: the paper's ablations, as sweeps over cells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.live import Live
from rich.table import Table

from flanlab.cli.options import AcceptGemmaTerms, AsJson, Mirror, RecipeFile, folder_to_write, say_loading
from flanlab.errors import FlanlabError

if TYPE_CHECKING:
    from flanlab.experiments.sweep import Engine, PlannedCell, Report, Sweep
    from flanlab.experiments.sweep_jobs import Job, State


def ablate(
    name: Annotated[str, typer.Argument(help="clusters, instructions, few-shot, holdouts, ...; an unknown name lists all.")],
    recipe: RecipeFile,
    out: Annotated[
        Path, typer.Option(callback=folder_to_write, help="Folder of all sweeps: what one of them has done, the others reuse.")
    ] = Path("runs/ablations"),
    points: Annotated[
        str | None,
        typer.Option(help="Other places of the grid than the usual ones, separated by commas: 1,3,6 clusters, say."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Do only cells with such names now, for example 'tuned-*'. Repeatable. What is done already stays."),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", "--dry-run", help="Print the cells and their cost, and do nothing.")] = False,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="One cell after another, or on a Ray cluster.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="With ray: of the cluster, host:port or auto; else Ray is started on this machine.")
    ] = None,
    cpus: Annotated[
        float | None,
        typer.Option(min=0, help="With ray: CPU cores for each cell, all its processes together; one a process if not given."),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(min=0, help="With ray: GPUs for each cell, all its processes together; none if not given."),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(min=1, help="Processes that torchrun starts for each training and evaluation, one on each GPU if any."),
    ] = 1,
    seeds: Annotated[
        int, typer.Option(min=1, help="Train each cell this many times, with a seed of its own each; `flan claims` uses them.")
    ] = 1,
    mirror: Mirror = None,
    accept_gemma_terms: AcceptGemmaTerms = False,
    as_json: AsJson = False,
) -> None:
    """Carry out one of the paper's ablations with RECIPE as its base: plan, cells, one page with the figure.

    Example: flan ablate clusters recipes/ablation-base.yaml --points 1,3,6 --plan

    The same command goes on after a stop. Exit status 1: some cells failed; the others are done.
    """
    if engine != "ray" and any(option is not None for option in (address, cpus, gpus)):
        raise typer.BadParameter("is needed beside --address, --cpus and --gpus.", param_hint="--engine ray")
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
    from flanlab.experiments.recipe import read_recipe
    from flanlab.experiments.sweep import run_sweep
    from flanlab.experiments.sweep_planning import plan_sweep
    from flanlab.progress import say

    chosen = [point.strip() for point in points.split(",") if point.strip()] if points else []
    base = read_recipe(recipe)
    sweep = plan_sweep(name, base, out, RowReader(mirror), points=chosen, only=only or [], processes=processes, seeds=seeds)
    if plan and as_json:
        typer.echo(json.dumps(sweep.as_dict()))
    elif plan or not as_json:
        _print_plan(sweep)
    if plan:
        return
    carry_out = _engine(engine, address, processes if cpus is None else cpus, gpus)
    sweep.write()
    try:
        with _follow(sweep) as report:
            run_sweep(sweep, carry_out, report)
    except KeyboardInterrupt:
        say(f"Stopped. What is done is kept in {out}: the same command goes on with it.")
        raise
    finally:
        page, sentences = _write_pages(sweep)
    if as_json:
        typer.echo(json.dumps(sweep.as_dict()))
    else:
        _print_outcome(sweep, page, sentences)
    if sweep.failed():
        raise typer.Exit(1)


def _engine(engine: str, address: str | None, cpus: float, gpus: float | None) -> Engine:
    from flanlab.experiments.sweep import run_locally

    if engine == "local":
        return run_locally
    from flanlab.experiments.sweep_ray import ray_engine

    return ray_engine(address, cpus, gpus)


def _print_plan(sweep: Sweep) -> None:
    """The grid before anything costs: each cell with the work that it alone adds."""
    from flanlab.cli.tables import compact_table, result_console
    from flanlab.progress import clock
    from flanlab.report.wording import counted

    table = compact_table(f"{sweep.ablation.title}: {len(sweep.cells)} cells")
    table.add_column("cell", no_wrap=True)
    for title in ("trains on\n(examples)", "evaluated on\n(questions)", "tokens", "takes\nabout", "state"):
        table.add_column(title, justify="right", no_wrap=True)
    known: set[str] = set()
    for planned in sweep.cells:
        jobs = [sweep.jobs[key] for key in planned.chain]
        new = [job for job in jobs if job.key not in known and sweep.states[job.key] != "done"]
        known |= {job.key for job in new}
        examples = sum(job.cost.get("examples", 0) for job in new)
        tokens = sum(job.cost["tokens"] for job in new)
        # Work that is done, or that a cell above brings along, costs nothing here.
        trains = f"{examples:,.0f}" if examples else "shared" if len(jobs) > 1 and jobs[-1] in new else ""
        seconds = sum(job.cost["seconds"] for job in new)
        state = sweep.state_of(planned) if new or sweep.state_of(planned) == "done" else "shared"
        table.add_row(
            planned.cell.name,
            trains,
            f"{jobs[-1].cost['questions']:,.0f}",
            f"{tokens:,.0f}" if new else "",
            clock(seconds) if new else "",
            state,
        )
    console = result_console()
    console.print(table)
    todo = sweep.waiting()
    if not todo:
        console.print("Everything is done already.")
        return
    trainings = sum(job.kind == "train" for job in todo)
    told = f"To do: {counted(trainings, 'training')} and {counted(len(todo) - trainings, 'evaluation')}"
    console.print(f"{told}, about {clock(sweep.expected_seconds())} one after another, by {sweep.speed}.", soft_wrap=True)


@contextmanager
def _follow(sweep: Sweep) -> Iterator[Report]:
    """Shows how far the cells are: a table that lives on a terminal, plain lines elsewhere."""
    from flanlab.progress import clock, console, say

    done = 0
    total = len(sweep.waiting())
    live = Live(_states(sweep), console=console, auto_refresh=False) if console.is_terminal else None

    def report(job: Job, state: State, error: str) -> None:
        nonlocal done
        done += state in ("done", "failed", "skipped")
        if live is not None:
            live.update(_states(sweep), refresh=True)
            return
        seconds = f", {clock(sum(one.cost['seconds'] for one in sweep.waiting()))} left" if state == "done" else ""
        say(f"[{done}/{total}] {job.title}: {state}{seconds}")
        if error:
            say(f"  {error}")

    if live is None:
        yield report
    else:
        with live:
            yield report


def _states(sweep: Sweep) -> Table:
    from flanlab.cli.tables import compact_table
    from flanlab.progress import clock

    table = compact_table(sweep.ablation.title)
    for title in ("cell", "state", "now"):
        table.add_column(title, no_wrap=True)
    for planned in sweep.cells:
        style = {"failed": "red", "running": "bold", "done": "dim"}.get(sweep.state_of(planned), "")
        table.add_row(planned.cell.name, sweep.state_of(planned), _doing(sweep, planned), style=style)
    table.caption = f"about {clock(sweep.expected_seconds())} of work left"
    table.caption_justify = "left"
    return table


def _doing(sweep: Sweep, planned: PlannedCell) -> str:
    doing = [sweep.jobs[key] for key in planned.chain if sweep.states[key] == "running"]
    return {"train": "training", "evaluate": "evaluation"}[doing[0].kind] if doing else ""


def _write_pages(sweep: Sweep) -> tuple[Path, list[str]]:
    """The reports of the cells that are done, and the sweep's page; where that is, and what it says first."""
    from flanlab.report.html import REPORT_FILE, write_report
    from flanlab.report.sweep import read_sweep, verdict
    from flanlab.report.sweep_page import write_sweep_page

    for planned in sweep.cells:
        folder = sweep.jobs[planned.chain[-1]].folder
        if sweep.state_of(planned) == "done" and not (folder / REPORT_FILE).exists():
            write_report(folder)
    found = read_sweep(sweep.folder)
    return write_sweep_page(found), verdict(found)


def _print_outcome(sweep: Sweep, page: Path, sentences: list[str]) -> None:
    for sentence in sentences:
        typer.echo(sentence)
    for planned in sweep.failed():
        typer.echo(f"Failed: {planned.cell.name}: {sweep.error_of(planned)}", err=True)
    if sweep.failed():
        typer.echo("The same command tries the failed cells again, and nothing else.", err=True)
    typer.echo(f"Page: {page}")
