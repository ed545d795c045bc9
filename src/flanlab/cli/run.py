"""`flan quickstart`, `flan run` and `flan train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flanlab.cli.options import AcceptGemmaTerms, AsJson, Mirror, Out, RecipeFile, load_pytorch
from flanlab.errors import FlanlabError


def quickstart(
    out: Out = None,
    model: Annotated[str | None, typer.Option(help="Another model: a folder, a Hub id, or one of `flan models`.")] = None,
    accept_gemma_terms: AcceptGemmaTerms = False,
    as_json: AsJson = False,
) -> None:
    """Tune a small model on nine tasks; measure it on two of them and on a held-out cluster. Takes minutes.

    Example: flan quickstart
    """
    from flanlab.experiments.recipe import QUICKSTART

    _run(Path(QUICKSTART), out or Path("runs/quickstart"), None, model, as_json)


def run(
    recipe: RecipeFile,
    out: Out = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Train this many times, with another seed each time; scores are means over all of them.")
    ] = 1,
    mirror: Mirror = None,
    accept_gemma_terms: AcceptGemmaTerms = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe: mix, score the untuned model, tune, score again, report.

    Example: flan run recipes/holdout-nli.yaml --mirror path/to/mirror
    """
    _run(recipe, out or Path("runs") / recipe.stem, mirror, None, as_json, seeds)


def train(
    recipe: RecipeFile,
    out: Out = None,
    mirror: Mirror = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only print what it costs; nothing is loaded.")] = False,
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
        from flanlab.cli.training_plan import show_training_plan

        show_training_plan(recipe, out or Path("runs") / recipe.stem, mirror, device, processes, flops, as_json)
        return
    if device is not None or processes != 1 or flops is not None or as_json:
        raise FlanlabError("--device, --processes, --flops and --json belong to --plan.", hint="Add --plan, or leave them out.")
    load_pytorch()
    from flanlab import api
    from flanlab.processes import is_first

    folder = out or Path("runs") / recipe.stem
    api.train(recipe, folder, mirror=mirror)
    if is_first():
        typer.echo(str(folder / "model"))


def _run(path: Path, folder: Path, mirror: Path | None, model: str | None, as_json: bool, seeds: int = 1) -> None:
    load_pytorch()
    from flanlab import api
    from flanlab.cli.tables import present_results
    from flanlab.progress import say

    try:
        done = api.run(path, folder, model=model, seeds=seeds, mirror=mirror)
    except KeyboardInterrupt:
        say(f"Stopped. What is done is kept in {folder}: the same command resumes it.")
        raise
    if done is not None:
        present_results(done, as_json)
