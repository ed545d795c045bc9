"""`flan report`: the page of a run, made again from its files, of two compared, and of several side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from flanlab.cli.options import AsJson


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Folders of `flan run`, `flan eval` or a sweep of `flan ablate`; with --compare two of the first kinds."
        ),
    ],
    examples: Annotated[
        bool, typer.Option(help="Show example predictions; leave them out where the data may not be passed on.")
    ] = True,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Compare two folders on the questions both were asked; FOLDER:VARIANT picks a variant."),
    ] = False,
    margin: Annotated[
        float | None,
        typer.Option(min=0.01, help="With --compare: test whether the two are the same but for less than so many points."),
    ] = None,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge",
            help="Lay all folders side by side, a column for each variant or sweep's cell; FOLDER:VARIANT takes one variant.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, help="With --compare or --merge: write an HTML page; with --merge also a CSV file beside it."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write report.html into each folder of a run or of an ablation, from results files alone; or compare two; or merge all.

    Example: flan report runs/quickstart

    Example: flan report --compare runs/first runs/second:untuned_instruction --out comparison.html

    Example: flan report --merge runs/first:tuned runs/second runs/ablations/clusters-base --out all.html
    """
    if merge:
        if compare:
            raise typer.BadParameter("cannot stand beside --compare.", param_hint="--merge")
        _merge(runs, out, as_json)
        return
    if compare:
        if len(runs) != 2:
            raise typer.BadParameter("takes two folders.", param_hint="--compare")
        _compare(runs[0], runs[1], out, as_json, margin)
        return
    if out is not None or as_json or margin is not None:
        raise typer.BadParameter("one of these is needed beside --out, --json and --margin.", param_hint="--compare, --merge")

    from flanlab.report.html import write_report
    from flanlab.report.sweep import is_sweep, read_sweep
    from flanlab.report.sweep_page import write_sweep_page

    for folder in map(Path, runs):
        typer.echo(str(write_sweep_page(read_sweep(folder)) if is_sweep(folder) else write_report(folder, examples=examples)))


def _compare(first: str, second: str, out: Path | None, as_json: bool, margin: float | None) -> None:
    from flanlab.cli.tables import print_comparison
    from flanlab.evaluation.comparison import compare_sides, open_side
    from flanlab.report.comparison import write_comparison
    from flanlab.results.files import as_text

    found = compare_sides(open_side(first), open_side(second), margin=None if margin is None else margin / 100)
    if out is not None:
        write_comparison(found, out)
    if as_json:
        typer.echo(as_text(found), nl=False)
        return
    print_comparison(found)
    if out is not None:
        typer.echo(f"Page: {out}")


def _merge(runs: list[str], out: Path | None, as_json: bool) -> None:
    from flanlab.cli.tables import print_merged
    from flanlab.report.merged import merge
    from flanlab.report.merged_page import write_merged

    if out is not None and out.suffix.lower() == ".csv":
        raise typer.BadParameter("names the page, such as all.html; the CSV file is written beside it.", param_hint="--out")
    merged = merge(runs)
    scores = write_merged(merged, out) if out is not None else None
    if as_json:
        typer.echo(json.dumps(merged.model_dump(mode="json")))
        return
    print_merged(merged)
    if scores is not None:
        typer.echo(f"Page: {out}\nScores: {scores}")
