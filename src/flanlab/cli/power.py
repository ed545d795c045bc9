"""`flan power`: what an evaluation will detect, before it is paid for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

import flanlab as fl
from flanlab.cli.options import AcceptGemmaTerms, AsJson, Mirror, RecipeFile, say_loading


def power(
    recipe: RecipeFile,
    pilot: Annotated[
        list[str] | None,
        typer.Option(
            help="An earlier run with the same tasks. Or repeat it: FOLDER or FOLDER:VARIANT of a model before tuning, then of"
            " one or more after (with other seeds). Default: figures measured with two small models.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of trainings in the mean. 1 says nothing about other seeds.")] = 1,
    detect: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=99, metavar="POINTS", help="Find the cheapest designs that detect a difference of this size."
        ),
    ] = None,
    mirror: Mirror = None,
    accept_gemma_terms: AcceptGemmaTerms = False,
    as_json: AsJson = False,
) -> None:
    """Print the smallest difference that a recipe's evaluation will detect with 80 % power. Nothing is run.

    Example: flan power recipes/holdout-nli.yaml --pilot runs/holdout-nli --detect 3
    """
    if detect is not None and seeds != 1:
        raise typer.BadParameter("belongs to a single design; --detect tries several numbers of seeds.", param_hint="--seeds")
    say_loading()
    table = fl.power(recipe, pilot=pilot or (), seeds=seeds, detect=None if detect is None else detect / 100, mirror=mirror)
    if as_json:
        typer.echo(json.dumps(table.rows()))
        return
    if detect is None:
        _print_detectable(table)
    else:
        _print_designs(table, detect)
    if not pilot:
        typer.echo("By figures measured with two small models on a few tasks; an earlier run of your own (--pilot) is better.")


def _print_detectable(table: fl.Table) -> None:
    from flanlab.cli.tables import compact_table, result_console
    from flanlab.report.wording import MEAN_OVER_CLUSTERS

    columns = ("", "rows", "templates", "a row", "seeds", "points")
    shown = compact_table("Smallest difference detected with 80 % power, points", *columns)
    for row in table:
        name = row["task"] or MEAN_OVER_CLUSTERS
        design = [str(row[column] or "") for column in ("rows", "templates", "templates_per_row", "seeds")]
        shown.add_row(name, *design, _points(row))
    result_console().print(shown)
    for note in dict.fromkeys(row["note"] for row in table if row["note"]):
        names = ", ".join(row["task"] or "the average" for row in table if row["note"] == note)
        typer.echo(f"{names}: {note}.")


def _print_designs(table: fl.Table, wanted: float) -> None:
    from flanlab.cli.tables import compact_table, result_console
    from flanlab.progress import clock

    columns = ("", "seeds", "rows\na task", "templates\na row", "time", "points")
    shown = compact_table(f"Cheapest designs that detect {wanted:g} points with 80 % power", *columns)
    for row in table:
        design = [str(row[column]) for column in ("seeds", "rows", "templates_per_row")]
        mark = "" if row["reached"] else "not reached: "
        shown.add_row(row["aim"], *design, clock(row["seconds"]), mark + _points(row))
    result_console().print(shown)
    for note in dict.fromkeys(row["note"] for row in table if "cannot" in row["note"]):
        typer.echo(f"{note}.")
    typer.echo("Time is of training and both evaluations on this machine. One seed says nothing of another training.")


def _points(row: Mapping[str, Any]) -> str:
    if row["detectable"] is not None:
        return f"{100 * row['detectable']:.1f}"
    return "can't be estimated" if "cannot" in row["note"] else "none"
