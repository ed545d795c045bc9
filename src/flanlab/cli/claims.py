"""`flan claims`: the paper's claims, each with its verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import flanlab as fl
from flanlab.cli.options import AcceptGemmaTerms, AsJson, Mirror, say_loading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flanlab.experiments.claims import Verdict


def claims(
    folder: Annotated[Path, typer.Argument(help="Folder of the sweeps: --out of `flan ablate`.")] = Path("runs/ablations"),
    recipe: Annotated[str | None, typer.Option(help="Name of the base recipe, if there are sweeps of several.")] = None,
    plan: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RECIPE|MODEL",
            help="Run nothing: print what a test of all claims would cost, and which effects it could detect. May be"
            " repeated with larger models, for the claim on scale.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="With --plan: number of trainings of each cell.")] = 1,
    power: Annotated[
        float,
        typer.Option(min=50, max=99, metavar="PERCENT", help="With --plan: chance of detecting an effect of the printed size."),
    ] = 80,
    pilot: Annotated[list[str] | None, typer.Option(help="With --plan: an earlier run, as for `flan power`.")] = None,
    mirror: Mirror = None,
    accept_gemma_terms: AcceptGemmaTerms = False,
    as_json: AsJson = False,
) -> None:
    """Test the paper's nine claims on the ablations in FOLDER: a table, and a page with a figure for each.

    Example: flan claims runs/ablations

    Example: flan claims --plan recipes/ablation-base.yaml --seeds 3
    """
    if plan:
        say_loading()
        from flanlab.experiments.claims_plan import write_base_recipe
        from flanlab.experiments.recipe import names_a_recipe

        base = plan[0] if names_a_recipe(plan[0]) else write_base_recipe(plan[0], folder)
        settings: dict[str, Any] = {"seeds": seeds, "power": power / 100, "pilot": pilot or []}
        table = fl.plan_claims(base, models=plan[1:], out=folder, mirror=mirror, **settings)
        if as_json:
            typer.echo(json.dumps(table.rows()))
        else:
            _print_plan(table, power, bool(pilot))
        return
    if seeds != 1 or power != 80 or pilot:
        raise typer.BadParameter("is needed with --seeds, --power and --pilot.", param_hint="--plan")

    from flanlab.experiments.claims import claims as test_claims
    from flanlab.report.claims import JSON_FILE, read_cells, summary, write_claims

    cells = read_cells(folder, recipe)
    found = test_claims(cells)
    page = write_claims(cells, found, folder)
    if as_json:
        typer.echo((folder / JSON_FILE).read_text(encoding="utf-8"), nl=False)
        return
    _print(found, folder)
    typer.echo(summary(found))
    typer.echo(f"Page: {page}")


def _print(found: Sequence[Verdict], folder: Path) -> None:
    from flanlab.cli.tables import print_table
    from flanlab.report.claims import command_for, verdict_table

    print_table(verdict_table(found))
    for one in found:
        if one.reason:
            typer.echo(f"{one.claim.name}: {one.reason}")
        if command := command_for(one, folder):
            typer.echo(f"  Run: {command}")


def _print_plan(table: fl.Table, power: float, has_pilot: bool) -> None:
    from flanlab.cli.tables import compact_table, print_lines, result_console
    from flanlab.progress import clock
    from flanlab.report.wording import counted, number

    columns = ("smallest\neffect", "detect-\nable", "rows", "rows\nneeded", "train-\nings", "questions", "takes\nabout")
    shown = compact_table(f"The paper's claims, with {power:g} % power", "claim", *columns)
    for row in table:
        work = [str(row["trainings"]), f"{row['questions']:,}", clock(row["seconds"])] if row["seconds"] else ["", "", ""]
        detectable = "" if row["detectable"] is None else number(row["detectable"])
        shown.add_row(
            row["claim"],
            number(row["smallest_effect"]),
            detectable,
            str(row["rows"] or ""),
            str(row["rows_needed"] or ("not reached" if detectable else "")),
            *work,
        )
    result_console().print(shown)
    notes = [f"{row['claim']}: {row['note'].rstrip('.')}." for row in table if row["note"]]
    print_lines(*notes, *dict.fromkeys(f"  {row['command']}" for row in table if row["command"]))
    if any(row["detectable"] is not None and row["rows_needed"] is None for row in table):
        typer.echo("Not reached: all rows there are do not detect it. Hold out more tasks, or use more templates or seeds.")
    trainings, seconds = (sum(table.column(name)) for name in ("trainings", "seconds"))
    typer.echo(f"In all {counted(trainings, 'training')}, about {clock(seconds)} on this machine, one step after another.")
    if not has_pilot:
        typer.echo("Detectable by figures of two small models on a few tasks; a pilot of your own (--pilot) is better.")
