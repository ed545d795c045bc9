"""`flan recipe`: write, check and document recipes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from flanlab.cli.options import (
    AcceptGemmaTerms,
    Collections,
    Mirror,
    Out,
    RecipeFile,
    ask_person,
    cluster_named,
    on_terminal,
    run_folder,
    say_loading,
)
from flanlab.errors import FlanlabError
from flanlab.tasks.clusters import Cluster
from flanlab.tasks.loading import load_collections, resolve_name, select_tasks
from flanlab.tasks.schema import Task

app = typer.Typer(help="Recipes: an experiment in one YAML file.", no_args_is_help=True)


@app.command("new")
def new_recipe(
    names: Annotated[list[str] | None, typer.Argument(help="Tasks and clusters that take part. All by default.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The model to tune: a folder, a GGUF file, a Hub id, or one of `flan models`.")
    ] = None,
    hold_out: Annotated[
        list[str] | None, typer.Option(help="A cluster to hold out, such as NLI. May be repeated. None by default.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="How long training may take on this machine.")] = None,
    tasks: Collections = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("recipe.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    accept_gemma_terms: AcceptGemmaTerms = False,
) -> None:
    """Write a recipe whose training fits into --minutes. On a terminal, the command asks for what is not given.

    Example: flan recipe new trec ag_news boolq --model smollm2-135m-instruct --hold-out NLI --minutes 20
    """
    if on_terminal():
        hint = "Give --model, --hold-out and --minutes."
        if model is None:
            model = ask_person("Model (a folder, a Hub id, or one of `flan models`)", hint, "smollm2-135m-instruct")
            names = names or ask_person("Tasks and clusters, with spaces between them", hint, "all").split()
            hold_out = hold_out or ask_person(f"Clusters to hold out ({', '.join(Cluster)})", hint, "none").split()
        minutes = minutes or ask_person("Minutes of training", hint, 20.0)
    if model is None:
        raise FlanlabError("A recipe needs a model to tune.", hint="Add --model, for example --model smollm2-135m-instruct.")
    if minutes is None:
        raise FlanlabError(
            "How long may training take? The number of steps follows from it.", hint="Add --minutes, for example --minutes 20."
        )
    names = [name for name in names or () if name != "all"]

    collections = tasks or ["library"]
    known = load_collections(collections)
    select_tasks(known, names)  # a wrong name is found at once
    clusters = [_held_out(known, name) for name in hold_out or () if name != "none"]
    say_loading()
    from flanlab.experiments.new_recipe import write_recipe
    from flanlab.progress import clock

    recipe, split = write_recipe(out, model, names, clusters, minutes, collections=collections, force=force)
    trained = "1 task trains" if len(split.train) == 1 else f"{len(split.train)} tasks train"
    tested = f", held out: {len(split.test)}" if split.test else ""
    steps = recipe.training.steps
    typer.echo(f"Wrote {out}: {steps} step{'s' * (steps > 1)}, at most {clock(60 * minutes)} of training; {trained}{tested}.")
    typer.echo(f"Next: flan recipe check {out}, then flan run {out}")


def _held_out(tasks: Sequence[Task], name: str) -> Cluster:
    """The cluster that `--hold-out` means. A task alone cannot be held out: the others of its cluster would make it seen."""
    found: Task | Cluster | None = None
    with contextlib.suppress(FlanlabError):
        found = resolve_name(tasks, name)
    if not isinstance(found, Task):
        return cluster_named(name)
    raise FlanlabError(
        f"--hold-out: {name} is a task. Hold out its whole cluster: training on other tasks of it would make {name} seen.",
        hint=f"Write {' '.join(f'--hold-out {cluster}' for cluster in found.clusters)}.",
    )


@app.command("check")
def check(recipe: RecipeFile, out: Out = None, mirror: Mirror = None, accept_gemma_terms: AcceptGemmaTerms = False) -> None:
    """Check a recipe as `flan run` does before it loads the model. Rows are read only if that needs no download.

    Example: flan recipe check recipes/holdout-nli.yaml --mirror path/to/mirror
    """
    say_loading()
    from flanlab.data.reader import RowReader
    from flanlab.experiments.checks import check_run
    from flanlab.experiments.recipe import read_recipe

    split, ready = check_run(read_recipe(recipe), run_folder(out, recipe), RowReader(mirror))
    typer.echo(f"{recipe}: no errors.")
    typer.echo(f"  trains on  {', '.join(task.name for task in split.train)}")
    if split.test:
        typer.echo(f"  held out   {', '.join(task.name for task in split.test)}")
    if split.in_domain:
        typer.echo(f"  in-domain  {', '.join(task.name for task in split.in_domain)}")
    for name, reason in split.left_out.items():
        if reason != "held out":
            typer.echo(f"  left out   {name}: {reason}")
    if ready is None:
        typer.echo("  rows       not read, because they come from the Hub; `flan mix` reads them")
    else:
        train, test = sum(map(len, ready.plan.train_rows.values())), sum(len(one.rows) for one in ready.plan.planned)
        typer.echo(f"  rows       {train:,} train, {test:,} test")


@app.command("schema")
def schema(
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a page that lists every field instead.")] = False,
) -> None:
    """Print the JSON Schema of a recipe, for editors.

    Example: flan recipe schema > recipe.schema.json
    """
    from flanlab.experiments.recipe_reference import recipe_page, recipe_schema

    typer.echo(recipe_page() if as_markdown else json.dumps(recipe_schema(), indent=1), nl=not as_markdown)
