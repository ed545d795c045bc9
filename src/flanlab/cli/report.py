"""`flan report`: the page of a run, made again from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    examples: Annotated[
        bool, typer.Option(help="Show example predictions; leave them out where the data may not be passed on.")
    ] = True,
) -> None:
    """Write report.html into each run folder, from its results files alone.

    Example: flan report runs/quickstart
    """
    from flanlab.report.html import write_report

    for folder in runs:
        typer.echo(str(write_report(folder, examples=examples)))
