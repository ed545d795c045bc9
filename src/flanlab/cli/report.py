"""`flan report`: the page of a run, made again from its files, and of several side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from flanlab.cli.options import AsJson, say_reading


def report(
    runs: Annotated[
        list[str],
        typer.Argument(help="Folders of `flan run`, `flan eval` or a sweep of `flan ablate`."),
    ],
    examples: Annotated[
        bool, typer.Option(help="Show example predictions. Leave them out if the data must not be passed on.")
    ] = True,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge",
            help="Put all folders side by side, a column for each variant or cell; FOLDER:VARIANT takes one variant.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="With --merge: an HTML page to write, with a CSV file of the same name."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write report.html into each folder of a run or of an ablation, from its results alone; or put all folders side by side.

    `flan compare` compares two of them question by question.

    Example: flan report runs/quickstart

    Example: flan report --merge runs/first:tuned runs/second runs/ablations/clusters-base --out all.html
    """
    say_reading(", ".join(runs))
    if merge:
        _merge(runs, out, as_json)
        return
    if out is not None or as_json:
        raise typer.BadParameter("is needed with --out and --json.", param_hint="--merge")

    from flanlab.report.html import write_report
    from flanlab.report.sweep import is_sweep, read_sweep
    from flanlab.report.sweep_page import write_sweep_page

    for folder in map(Path, runs):
        typer.echo(str(write_sweep_page(read_sweep(folder)) if is_sweep(folder) else write_report(folder, examples=examples)))


def _merge(runs: list[str], out: Path | None, as_json: bool) -> None:
    from flanlab.cli.tables import print_merged
    from flanlab.report.merged import merge
    from flanlab.report.merged_page import write_merged

    if out is not None and out.suffix.lower() == ".csv":
        raise typer.BadParameter("names the page, such as all.html; the CSV file is written next to it.", param_hint="--out")
    merged = merge(runs)
    scores = write_merged(merged, out) if out is not None else None
    if as_json:
        typer.echo(json.dumps(merged.model_dump(mode="json")))
        return
    print_merged(merged)
    if scores is not None:
        typer.echo(f"Page: {out}\nScores: {scores}")
