"""`flan mix`: show a recipe's mixture, or export it for other trainers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import flanlab as fl
from flanlab.cli.options import AsJson, Mirror, RecipeFile, SkipMissing, say_loading


def mix(
    recipe: RecipeFile,
    out: Annotated[Path | None, typer.Option(help="File to write the examples to: .parquet or .jsonl.")] = None,
    examples: Annotated[
        int | None,
        typer.Option(min=1, help="Number of examples of the stream. By default all that the recipe trains on."),
    ] = None,
    mirror: Mirror = None,
    skip_missing: SkipMissing = False,
    as_json: AsJson = False,
) -> None:
    """Show what a recipe trains on, task by task, without training. With --out, write the examples to a file.

    Example: flan mix recipes/holdout-nli.yaml --out mixture.parquet
    """
    say_loading()
    card = fl.mix(recipe, out, examples=examples, mirror=mirror, skip_missing=skip_missing)
    if as_json:
        typer.echo(json.dumps(card))
    else:
        _print_card(card)


def _print_card(card: dict[str, Any]) -> None:
    from flanlab.cli.tables import compact_table, result_console

    measured, planned = card["measured_examples"], card["planned_examples"]
    of_all = "" if measured == planned else f", measured on {measured:,}"
    columns = ("", "rows", "share", "epochs", "examples", "tokens", "target\ntokens")
    table = compact_table(f"The mixture: {planned:,} examples{of_all}", *columns)
    table.columns[0].max_width = 26
    for cluster, totals in card["clusters"].items():
        table.add_row(f"[bold]{cluster.replace('_', ' ')}[/bold]")
        members = {name: entry for name, entry in card["tasks"].items() if entry["cluster"] == cluster}
        for name, entry in members.items():
            table.add_row(f"  {name}", f"{entry['rows']:,}", *_counts(entry, f"{entry['epochs']:.2f}"))
        if len(members) > 1:
            table.add_row("  together", "", *_counts(totals, ""), style="dim")
    result_console().print(table)
    typer.echo(f"{card['tokens']:,} tokens, {card['target_tokens']:,} of them targets")
    exemplars = ", ".join(f"{number}: {count:,}" for number, count in card["exemplars"].items())
    typer.echo(f"OPTIONS shown in {card['options_shown']:,} examples; examples by exemplars: {exemplars}")
    for name, entry in card["tasks"].items():
        if lost := _losses(entry):
            typer.echo(f"did not fit: {name} ({lost})")
    for name, reason in card["left_out"].items():
        typer.echo(f"left out: {name} ({reason})")


def _counts(entry: dict[str, Any], epochs: str) -> list[str]:
    numbers = [f"{entry[name]:,}" for name in ("examples", "tokens", "target_tokens")]
    return [f"{entry['rate']:.1%}", epochs, *numbers]


def _losses(entry: dict[str, Any]) -> str:
    """How many examples did not fit, and why."""
    lost = [f"{entry['shortened']} shortened"] if entry["shortened"] else []
    lost += [f"{count} dropped, {reason}" for reason, count in entry["dropped"].items()]
    return ", ".join(lost)
