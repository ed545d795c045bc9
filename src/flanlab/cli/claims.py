"""`flan claims`: the paper's claims, each with its verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flanlab.cli.options import AcceptGemmaTerms, AsJson, Mirror, say_loading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flanlab.experiments.claims import Verdict
    from flanlab.results.table import Table


def claims(
    folder: Annotated[Path, typer.Argument(help="Folder of the sweeps, as `flan ablate --out` was given.")] = Path(
        "runs/ablations"
    ),
    recipe: Annotated[str | None, typer.Option(help="Name of the base recipe, where there are sweeps of several.")] = None,
    plan: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RECIPE|MODEL",
            help="Run nothing: say what a test of all claims would cost, and which effects it could detect. Give it again with"
            " larger models, for the claim on scale.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="With --plan: trainings of each cell.")] = 1,
    power: Annotated[
        float,
        typer.Option(min=50, max=99, metavar="PERCENT", help="With --plan: chance of detecting an effect as large as told."),
    ] = 80,
    pilot: Annotated[list[str] | None, typer.Option(help="With --plan: what scores vary by, as for `flan power`.")] = None,
    mirror: Mirror = None,
    accept_gemma_terms: AcceptGemmaTerms = False,
    as_json: AsJson = False,
) -> None:
    """Test the paper's nine claims on the ablations in FOLDER: a table, and a page with a figure for each.

    Example: flan claims runs/ablations

    Example: flan claims --plan recipes/ablation-base.yaml --seeds 3
    """
    if plan:
        _plan(plan[0], plan[1:], folder, seeds, power, pilot or [], mirror, as_json)
        return
    if seeds != 1 or power != 80 or pilot:
        raise typer.BadParameter("is needed beside --seeds, --power and --pilot.", param_hint="--plan")

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
    from flanlab.cli.tables import print_table, result_console
    from flanlab.report.claims import command_for, verdict_table

    console = result_console()
    print_table(console, verdict_table(found))
    for one in found:
        if one.reason:
            console.print(f"{one.claim.name}: {one.reason}", markup=False, highlight=False, soft_wrap=True)
        if command := command_for(one, folder):
            console.print(f"  Run: {command}", markup=False, highlight=False, soft_wrap=True)


def _plan(
    name: str, models: list[str], folder: Path, seeds: int, power: float, pilot: list[str], mirror: Path | None, as_json: bool
) -> None:
    import json

    say_loading()
    from flanlab.data.reader import RowReader
    from flanlab.experiments.claims_plan import plan_claims, write_base_recipe
    from flanlab.experiments.recipe import QUICKSTART, read_recipe

    is_recipe = name == QUICKSTART or Path(name).suffix in (".yaml", ".yml")
    path = Path(name) if is_recipe else write_base_recipe(name, folder)
    table = plan_claims(
        read_recipe(path),
        RowReader(mirror),
        models=models,
        seeds=seeds,
        power=power / 100,
        pilot=pilot,
        named=str(path),
        out=folder,
    )
    if as_json:
        typer.echo(json.dumps(table.rows()))
    else:
        _print_plan(table, power, bool(pilot))


def _print_plan(table: Table, power: float, has_pilot: bool) -> None:
    from flanlab.cli.tables import compact_table, print_lines, result_console
    from flanlab.progress import clock
    from flanlab.report.wording import counted, number

    shown = compact_table(f"The paper's claims, with {power:g} % power")
    shown.add_column("claim", no_wrap=True)
    for title in ("smallest\neffect", "detect-\nable", "rows", "rows\nneeded", "train-\nings", "questions", "takes\nabout"):
        shown.add_column(title, justify="right", no_wrap=True)
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
    console = result_console()
    console.print(shown)
    notes = [f"{row['claim']}: {row['note'].rstrip('.')}." for row in table if row["note"]]
    print_lines(console, [*notes, *dict.fromkeys(f"  {row['command']}" for row in table if row["command"])])
    if any(row["detectable"] is not None and row["rows_needed"] is None for row in table):
        typer.echo("Not reached: all rows there are do not detect it. Hold out more tasks, or use more templates or seeds.")
    trainings, seconds = (sum(table.column(name)) for name in ("trainings", "seconds"))
    typer.echo(f"In all {counted(trainings, 'training')}, about {clock(seconds)} on this machine, one step after another.")
    if not has_pilot:
        typer.echo("Detectable by figures of two small models on a few tasks; a pilot of your own (--pilot) is better.")
