"""`flan mix`: what a recipe's mixture is, and its export for other trainers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from flanlab.cli.options import AsJson, Mirror, RecipeFile


def mix(
    recipe: RecipeFile,
    out: Annotated[Path | None, typer.Option(help="Write the examples here: a .parquet or .jsonl file.")] = None,
    examples: Annotated[
        int | None,
        typer.Option(min=1, help="How many examples of the stream; all that the recipe trains on, by default."),
    ] = None,
    mirror: Mirror = None,
    as_json: AsJson = False,
) -> None:
    """Show what a recipe trains on, task by task, before it costs anything; write it out on request.

    Example: flan mix recipes/holdout-nli.yaml --out mixture.parquet
    """
    from flanlab.data.mixture_card import describe_mixture, export_mixture
    from flanlab.errors import FlanlabError
    from flanlab.experiments.recipe import make_plan, read_recipe
    from flanlab.experiments.run import make_mixture
    from flanlab.models.loading import load_encoder
    from flanlab.progress import meter, say
    from flanlab.training.trainer import examples_per_step

    if out is not None and out.suffix not in (".parquet", ".jsonl"):
        raise FlanlabError(f"{out}: cannot write files of this kind.", mend="Name a .parquet or a .jsonl file.")
    plan = make_plan(read_recipe(recipe), mirror)
    encoder = load_encoder(plan.recipe.model, say=say)
    mixture = make_mixture(plan)
    planned = examples or examples_per_step(mixture, encoder, plan.recipe.training) * plan.recipe.training.steps
    with meter("Measuring the mixture", min(planned, mixture.cycle_length)) as bar:
        card = describe_mixture(mixture, encoder, planned, bar)
    card["left_out"] = dict(plan.split.left_out)
    if out is not None:
        with meter(f"Writing {out}", planned) as bar:
            export_mixture(mixture, encoder, planned, out, bar)
    if as_json:
        typer.echo(json.dumps(card))
    else:
        _print_card(card)


def _print_card(card: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(
        title=f"Mixture: the first {card['measured_examples']:,} of {card['planned_examples']:,} examples",
        title_justify="left",
    )
    for column in ("cluster", "task"):
        table.add_column(column)
    for column in ("rows", "share", "epochs", "examples", "tokens", "target tokens", "shortened", "dropped"):
        table.add_column(column, justify="right")
    for cluster, totals in card["clusters"].items():
        members = {name: entry for name, entry in card["tasks"].items() if entry["cluster"] == cluster}
        for number, (name, entry) in enumerate(members.items()):
            dropped = ", ".join(f"{count} {reason}" for reason, count in entry["dropped"].items()) or "0"
            table.add_row(
                cluster.replace("_", " ") if number == 0 else "",
                name,
                f"{entry['rows']:,}",
                f"{entry['rate']:.1%}",
                f"{entry['epochs']:.2f}",
                f"{entry['examples']:,}",
                f"{entry['tokens']:,}",
                f"{entry['target_tokens']:,}",
                f"{entry['shortened']:,}",
                dropped,
            )
        if len(members) > 1:
            table.add_row(
                "",
                "together",
                "",
                f"{totals['rate']:.1%}",
                "",
                f"{totals['examples']:,.0f}",
                f"{totals['tokens']:,.0f}",
                f"{totals['target_tokens']:,.0f}",
                "",
                "",
                style="dim",
            )
        table.add_section()
    console.print(table)
    console.print(
        f"{card['tokens']:,} tokens, of which {card['target_tokens']:,} are targets;"
        f" {card['shortened']} shortened, {card['dropped']} dropped"
    )
    for name, reason in card["left_out"].items():
        console.print(f"left out: {name} ({reason})")
