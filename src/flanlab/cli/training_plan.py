"""`flan train --plan` and `flan run --plan`: what training costs, printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from flanlab.cli.options import say_loading

_PARTS = {
    "weights": "weights",
    "gathered": "weights put together",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "batch": "a micro-batch",
    "lost": "lost between",
    "update": "within the update",
    "program": "the program itself",
    "loading": "the whole, when loaded",
}


def show_training_plan(
    recipe: Path,
    out: Path,
    mirror: Path | None,
    as_json: bool,
    *,
    device: str | None = None,
    processes: int = 1,
    speed: float | None = None,
) -> None:
    """Print the plan of a recipe's training as tables or JSON."""
    say_loading()
    from flanlab.data.reader import RowReader
    from flanlab.experiments.recipe import read_recipe
    from flanlab.experiments.training_plan import plan_training

    plan = plan_training(read_recipe(recipe), RowReader(mirror), device=device, processes=processes, speed=speed, out=out)
    if as_json:
        typer.echo(json.dumps(plan))
    else:
        _print(plan)


def _print(plan: dict[str, Any]) -> None:
    from rich.console import Console

    from flanlab.cli.tables import compact_table
    from flanlab.progress import clock

    console = Console(highlight=False)

    def line(title: str, text: str) -> None:
        console.print(f"  {title:<12}{text}", soft_wrap=True, markup=False)

    console.print(f"{plan['name']}: {plan['model']} on {plan['device']}", soft_wrap=True, markup=False)
    trained = "all" if plan["trained_parameters"] == plan["parameters"] else f"{plan['trained_parameters']:,}"
    line("parameters", f"{plan['parameters']:,}, {trained} of them trained ({plan['method']}, {plan['optimizer']})")
    examples = "examples are counted by `flan mix`, or with --mirror"
    if plan["examples"] is not None:
        examples = f"{plan['examples']:,} examples"
    line("tokens", f"{plan['tokens']:,} in {plan['steps']:,} steps; {examples}")
    if plan["processes"] > 1:
        line("processes", f"{plan['processes']}, {plan['parallel']}")
    table = compact_table(f"Memory of {'each' if plan['processes'] > 1 else 'the'} process, GiB")
    table.add_column("", no_wrap=True)
    chosen = plan["gradient_checkpointing"]
    for title, wanted in (("plain", False), ("gradient\ncheckpointing", True)):
        table.add_column(f"{title}\n(the recipe)" if chosen == wanted else title, justify="right", no_wrap=True)
    plain, checkpointed = plan["memory"]["plain"], plan["memory"]["gradient_checkpointing"]
    for part, title in _PARTS.items():
        if plain[part] or checkpointed[part]:
            table.add_row(title, _gib(plain[part]), _gib(checkpointed[part]))
    table.add_section()
    table.add_row("at most at a time", _gib(plain["total"]), _gib(checkpointed["total"]), style="bold")
    console.print(table)
    line("micro-batch", f"{plan['micro_batch_tokens']:,} tokens of the longest examples that the recipe allows")
    line("time", f"{clock(plan['seconds'])} for {plan['operations']:.3g} operations (6 N D); evaluation is not counted")
    line("", f"at {plan['operations_per_second']:.3g}/s a process, {plan['speed_is']}")
    disk = plan["disk"]
    line("disk", f"{_gib(disk['checkpoint'])} GiB a checkpoint, {_gib(disk['checkpoints_at_most'])} at most at a time;")
    line("", f"{_gib(disk['model'])} GiB the tuned model")


def _gib(count: int) -> str:
    return f"{count / 2**30:,.2f}"
