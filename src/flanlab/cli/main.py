"""`flan`: the commands, and how errors reach a person."""

from __future__ import annotations

import gc
import io
import sys
from typing import Annotated

import typer

from flanlab import __version__
from flanlab.cli import (
    ablate,
    ask,
    claims,
    compare,
    contamination,
    evaluate,
    export,
    mix,
    models,
    power,
    recipe,
    report,
    run,
    tasks,
    ui,
)
from flanlab.errors import FlanlabError
from flanlab.files import is_full
from flanlab.processes import may_tell

app = typer.Typer(
    help="Instruction-tune language models on task clusters, and measure them zero-shot on clusters they never saw.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
)
app.add_typer(tasks.app, name="tasks")
app.add_typer(recipe.app, name="recipe")
app.add_typer(export.app, name="export")
app.command("models")(models.models)
app.command("quickstart")(run.quickstart)
app.command("run")(run.run)
app.command("mix")(mix.mix)
app.command("train")(run.train)
app.command("eval")(evaluate.evaluate)
app.command("ask")(ask.ask)
app.command("predict")(ask.predict)
app.command("ablate")(ablate.ablate)
app.command("claims")(claims.claims)
app.command("power")(power.power)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("ui")(ui.ui)
app.command("contamination")(contamination.contamination)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flanlab {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line: exit 0 fine, 1 failed (with what to do about it), 2 wrong use."""
    for stream in (sys.stdout, sys.stderr):
        # Texts may hold signs that the terminal's encoding lacks: better an escape such as \\u4eca than a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Importing torch and transformers makes a million lasting objects. Collecting garbage among them took a tenth of the start.
    gc.set_threshold(100_000, 50, 50)
    try:
        app()
    except FlanlabError as error:
        if may_tell():
            typer.echo(f"flan: {error}", err=True)
        sys.exit(1)
    except Exception as error:
        # A disk that is full, a folder that may not be written: the machine's fault, and no bug to be traced.
        place = error.filename2 or error.filename if isinstance(error, OSError) else None
        if place is None and not is_full(error):
            raise
        if may_tell():
            told = f"{place}: {error.strerror}" if isinstance(error, OSError) and place else "A disk is full"
            typer.echo(f"flan: {told}. What was done before is kept.", err=True)
        sys.exit(1)
