"""`flan ablate`: the paper's ablations, as sweeps over cells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flanlab.cli.options import AsJson, Mirror, RecipeFile

if TYPE_CHECKING:
    from flanlab.experiments.sweep import Engine, Report, Sweep
    from flanlab.experiments.sweep_jobs import Job, State


def ablate(
    name: Annotated[str, typer.Argument(help="clusters, instructions, few-shot, holdouts, ...; an unknown name lists all.")],
    recipe: RecipeFile,
    out: Annotated[Path, typer.Option(help="Folder of all sweeps: what one of them has done, the others reuse.")] = Path(
        "runs/ablations"
    ),
    points: Annotated[
        str | None,
        typer.Option(help="Other places of the grid than the usual ones, separated by commas: 1,3,6 clusters, say."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only cells with such names, for example 'tuned-*'. Repeatable.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", "--dry-run", help="Print the cells and their cost, and do nothing.")] = False,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="One cell after another, or on a Ray cluster.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="With ray: of the cluster, host:port or auto; else Ray is started on this machine.")
    ] = None,
    cpus: Annotated[float | None, typer.Option(min=0, help="With ray: CPU cores for each cell; 1 if not given.")] = None,
    gpus: Annotated[float | None, typer.Option(min=0, help="With ray: GPUs for each cell; none if not given.")] = None,
    mirror: Mirror = None,
    as_json: AsJson = False,
) -> None:
    """Carry out one of the paper's ablations with RECIPE as its base: plan, cells, one page with the figure.

    Example: flan ablate clusters recipes/ablation-base.yaml --points 1,3,6 --plan

    The same command goes on after a stop. Exit status 1: some cells failed; the others are done.
    """
    if engine != "ray" and not (address is cpus is gpus is None):
        raise typer.BadParameter("is needed beside --address, --cpus and --gpus.", param_hint="--engine ray")

    from flanlab.experiments.recipe import read_recipe
    from flanlab.experiments.sweep import run_sweep
    from flanlab.experiments.sweep_planning import plan_sweep
    from flanlab.progress import say

    chosen = [point.strip() for point in points.split(",") if point.strip()] if points else []
    sweep = plan_sweep(name, read_recipe(recipe), out, mirror, points=chosen, only=only or [])
    if plan:
        typer.echo(json.dumps(sweep.as_dict())) if as_json else _print_plan(sweep)
        return
    _print_plan(sweep, to_stderr=True)
    carry_out = _engine(engine, address, cpus, gpus)
    try:
        with _follow(sweep) as report:
            run_sweep(sweep, carry_out, report)
    except KeyboardInterrupt:
        say(f"Stopped. What is done is kept in {out}: the same command goes on with it.")
        raise
    finally:
        page = _write_pages(sweep)
    _present(sweep, page, as_json)
