"""`flan mix`: show a recipe's mixture, or export it for other trainers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from flanlab.cli.options import AsJson, Mirror, RecipeFile


def mix(
    recipe: RecipeFile,
    out: Annotated[Path | None, typer.Option(help="File to write the examples to: .parquet or .jsonl.")] = None,
    examples: Annotated[
        int | None,
        typer.Option(min=1, help="Number of examples of the stream. By default all that the recipe trains on."),
    ] = None,
    prepare: Annotated[
        bool, typer.Option(help="Tokenize the examples into the cache folder, for `flan train` and `flan run` to read.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that prepare; one for each core by default.")] = None,
    mirror: Mirror = None,
    as_json: AsJson = False,
) -> None:
    """Show what a recipe trains on, task by task, without training. With --out, write the examples to a file.

    Example: flan mix recipes/holdout-nli.yaml --out mixture.parquet
    """
    from flanlab.data.mixture_card import describe_mixture, export_mixture
    from flanlab.data.token_cache import prepare as prepare_mixture
    from flanlab.data.token_cache import use_prepared
    from flanlab.errors import FlanlabError
    from flanlab.experiments.recipe import make_plan, read_recipe
    from flanlab.experiments.run import make_mixture
    from flanlab.models.loading import load_encoder
    from flanlab.progress import meter, say
    from flanlab.training.trainer import examples_per_step

    if out is not None and out.suffix not in (".parquet", ".jsonl"):
        raise FlanlabError(f"{out}: this file type cannot be written.", hint="Use a .parquet or .jsonl file.")
    plan = make_plan(read_recipe(recipe), mirror)
    encoder = load_encoder(plan.recipe.model, say=say)
    mixture = make_mixture(plan)
    read = use_prepared(mixture, encoder)
    planned = examples or examples_per_step(read, encoder, plan.recipe.training) * plan.recipe.training.steps
    prepared = prepare_mixture(mixture, encoder, planned, workers or os.cpu_count() or 1) if prepare else None
    with meter("Measuring the mixture", min(planned, mixture.cycle_length)) as bar:
        card = describe_mixture(use_prepared(mixture, encoder), encoder, planned, bar)
    card["left_out"] = dict(plan.split.left_out)
    if prepared is not None:
        card["prepared"] = {"folder": str(prepared.folder), "examples": prepared.examples, "bytes": prepared.bytes}
    if out is not None:
        with meter(f"Writing {out}", planned) as bar:
            export_mixture(mixture, encoder, planned, out, bar)
    if as_json:
        typer.echo(json.dumps(card))
    else:
        _print_card(card)


def _print_card(card: dict[str, Any]) -> None:
    from flanlab.cli.tables import compact_table, result_console

    measured, planned = card["measured_examples"], card["planned_examples"]
    of_all = "" if measured == planned else f", measured on {measured:,}"
    table = compact_table(f"The mixture: {planned:,} examples{of_all}")
    table.add_column("", no_wrap=True, max_width=26)
    for column in ("rows", "share", "epochs", "examples", "tokens", "target\ntokens"):
        table.add_column(column, justify="right", no_wrap=True)
    for cluster, totals in card["clusters"].items():
        table.add_row(f"[bold]{cluster.replace('_', ' ')}[/bold]")
        members = {name: entry for name, entry in card["tasks"].items() if entry["cluster"] == cluster}
        for name, entry in members.items():
            table.add_row(f"  {name}", f"{entry['rows']:,}", *_counts(entry, f"{entry['epochs']:.2f}"))
        if len(members) > 1:
            table.add_row("  together", "", *_counts(totals, ""), style="dim")
    console = result_console()
    console.print(table)
    console.print(f"{card['tokens']:,} tokens, {card['target_tokens']:,} of them targets", soft_wrap=True)
    exemplars = ", ".join(f"{number}: {count:,}" for number, count in card["exemplars"].items())
    console.print(f"OPTIONS shown in {card['options_shown']:,} examples; examples by exemplars: {exemplars}", soft_wrap=True)
    for name, entry in card["tasks"].items():
        if lost := _losses(entry):
            console.print(f"did not fit: {name} ({lost})", soft_wrap=True)
    for name, reason in card["left_out"].items():
        console.print(f"left out: {name} ({reason})", soft_wrap=True)
    if prepared := card.get("prepared"):
        size = f"{prepared['examples']:,} examples, {prepared['bytes'] / 1e6:,.0f} MB"
        console.print(f"prepared: {size} in {prepared['folder']}", soft_wrap=True)
        console.print("`flan train` and `flan run` read them from there; delete the folder to free the space.", soft_wrap=True)


def _counts(entry: dict[str, Any], epochs: str) -> list[str]:
    numbers = [f"{entry[name]:,}" for name in ("examples", "tokens", "target_tokens")]
    return [f"{entry['rate']:.1%}", epochs, *numbers]


def _losses(entry: dict[str, Any]) -> str:
    """How many examples did not fit, and why."""
    lost = [f"{entry['shortened']} shortened"] if entry["shortened"] else []
    lost += [f"{count} dropped, {reason}" for reason, count in entry["dropped"].items()]
    return ", ".join(lost)
