"""`flan quickstart`, `flan run` and `flan train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import flanlab as fl
from flanlab.cli.options import AcceptGemmaTerms, AsJson, Mirror, Out, Plan, RecipeFile, run_folder, say_loading

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


def quickstart(
    out: Out = None,
    model: Annotated[str | None, typer.Option(help="Another model: a folder, a Hub id, or one of `flan models`.")] = None,
    accept_gemma_terms: AcceptGemmaTerms = False,
    as_json: AsJson = False,
) -> None:
    """Tune a small model on nine tasks; measure it on two of them and on a held-out cluster. Takes minutes.

    Example: flan quickstart
    """
    _run(Path("quickstart"), out, None, model, as_json)


def run(
    recipe: RecipeFile,
    out: Out = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Train this many times, with another seed each time; scores are means over all of them.")
    ] = 1,
    mirror: Mirror = None,
    plan: Plan = False,
    accept_gemma_terms: AcceptGemmaTerms = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe: mix, score the untuned model, tune, score again, report.

    Example: flan run recipes/holdout-nli.yaml --mirror path/to/mirror
    """
    if plan:
        _show_plan(recipe, out, as_json, mirror=mirror, evaluates=True)
    else:
        _run(recipe, out, mirror, None, as_json, seeds)


def train(
    recipe: RecipeFile,
    out: Out = None,
    mirror: Mirror = None,
    plan: Plan = False,
    device: Annotated[str | None, typer.Option(help="With --plan: cpu, or a GPU such as H100.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="With --plan: processes that train together.")] = 1,
    flops: Annotated[
        float | None, typer.Option(min=1, help="With --plan: operations a second that a process really reaches.")
    ] = None,
    accept_gemma_terms: AcceptGemmaTerms = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --plan: print JSON for programs.")] = False,
) -> None:
    """Tune a model as a recipe says, without evaluating it; the model ends up in OUT/model.

    Example: flan train recipes/holdout-nli.yaml --out runs/nli
    """
    if plan:
        _show_plan(recipe, out, as_json, mirror=mirror, device=device, processes=processes, speed=flops)
        return
    if device is not None or processes != 1 or flops is not None or as_json:
        raise typer.BadParameter("is needed with --device, --processes, --flops and --json.", param_hint="--plan")
    say_loading()
    from flanlab.processes import is_first

    folder = run_folder(out, recipe)
    fl.train(recipe, folder, mirror=mirror)
    if is_first():
        typer.echo(str(folder / "model"))


def _run(path: Path, out: Path | None, mirror: Path | None, model: str | None, as_json: bool, seeds: int = 1) -> None:
    folder = run_folder(out, path)
    say_loading()
    from flanlab.cli.tables import present_results
    from flanlab.processes import is_first
    from flanlab.progress import say

    try:
        done = fl.run(path, folder, model=model, seeds=seeds, mirror=mirror)
    except KeyboardInterrupt:
        say(f"Stopped. What is done is kept in {folder}: the same command resumes it.")
        raise
    if is_first():
        present_results(done, as_json)


def _show_plan(recipe: Path, out: Path | None, as_json: bool, **options: Any) -> None:
    """Print the plan of a recipe's training as tables or JSON; `options` are those of `flanlab.plan_training`."""
    say_loading()
    plan = fl.plan_training(recipe, out=run_folder(out, recipe), **options)
    if as_json:
        typer.echo(json.dumps(plan))
    else:
        _print_plan(plan)


def _print_plan(plan: dict[str, Any]) -> None:
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
    line("tokens", f"{plan['tokens']:,} in {plan['steps']:,} step{'s' * (plan['steps'] > 1)}; {examples}")
    if plan["processes"] > 1:
        line("processes", f"{plan['processes']}, {plan['parallel']}")
    titles = ["plain", "gradient\ncheckpointing"]
    titles[plan["gradient_checkpointing"]] += "\n(the recipe)"
    table = compact_table(f"Memory of {'each' if plan['processes'] > 1 else 'the'} process, GiB", "", *titles)
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
