"""`flan claims`: the paper's claims, each with its verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flanlab.cli.options import AsJson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flanlab.experiments.claims import Verdict


def claims(
    folder: Annotated[Path, typer.Argument(help="Folder of the sweeps, as `flan ablate --out` was given.")] = Path(
        "runs/ablations"
    ),
    recipe: Annotated[str | None, typer.Option(help="Name of the base recipe, where there are sweeps of several.")] = None,
    as_json: AsJson = False,
) -> None:
    """Test the paper's nine claims on the ablations in FOLDER: a table, and a page with a figure for each.

    Example: flan claims runs/ablations
    """
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
