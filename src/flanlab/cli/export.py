"""`flan export`: tasks and models in the formats of other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from flanlab.cli.options import AsJson, Collections, Mirror, as_split, folder_to_write, say_loading
from flanlab.errors import FlanlabError

app = typer.Typer(help="Write tasks and tuned models for other programs.", no_args_is_help=True)


@app.command("model")
def model(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of a model that was tuned with flanlab.")],
    out: Annotated[
        Path, typer.Option(callback=folder_to_write, help="Folder for the model. An earlier export there is replaced.")
    ],
    merge: Annotated[bool, typer.Option("--merge", help="Merge a LoRA adapter into its base, to get a whole model.")] = False,
    push: Annotated[
        str | None, typer.Option(help="Also upload it to this repository of the Hub, OWNER/NAME. A new repository is private.")
    ] = None,
) -> None:
    """Write a tuned model as a plain Hugging Face folder with a model card.

    Example: flan export model runs/holdout-nli --out exported
    """
    say_loading()
    from flanlab.experiments.export_model import export_model, push_model

    typer.echo(str(export_model(run, out, merge=merge)))
    if push is not None:
        typer.echo(push_model(out, push))


@app.command("lm-eval")
def lm_eval(
    out: Annotated[
        Path,
        typer.Option(callback=folder_to_write, help="Folder for the task files and rows. An earlier export there is replaced."),
    ],
    names: Annotated[list[str] | None, typer.Argument(help="Tasks or clusters. All by default.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Number of rows of each task, chosen as by `flan eval`.")] = 200,
    split: Annotated[str, typer.Option(help="train, dev or test.")] = "test",
    tasks: Collections = None,
    mirror: Mirror = None,
    as_json: AsJson = False,
) -> None:
    """Write tasks for lm-evaluation-harness: the prompts that `flan eval` asks, one task file for each forward template.

    Example: flan export lm-eval sentiment --tasks sampler --out lm_eval_tasks
    """
    from flanlab.data.mirror import MissingDataError
    from flanlab.data.sources import load_rows
    from flanlab.evaluation.lm_eval_export import export_lm_eval
    from flanlab.evaluation.planning import EvaluationSettings, plan_task
    from flanlab.progress import say
    from flanlab.tasks.loading import BUILT_IN_COLLECTIONS, load_collections, select_tasks

    settings = EvaluationSettings(rows=rows, split=as_split(split))
    found = load_collections(tasks or list(BUILT_IN_COLLECTIONS))
    chosen = select_tasks(found, names) if names else [task for task in found if task.has_split(settings.split)]
    units = []
    for task in (subtask for whole in chosen for subtask in whole.evaluated_subtasks(settings.split)):
        try:
            units.append(plan_task(task, load_rows(task, settings.split, mirror), settings, seed=0))
        except MissingDataError as error:
            # Without names: all tasks whose rows are available. A task that is named must be available.
            if names:
                raise
            say(f"{task.name}: left out. {error.message}")
    if not units:
        raise FlanlabError(
            "No task's rows are available.",
            hint="Check that the Hub can be reached, or name a folder with the rows with --mirror.",
        )
    facts = export_lm_eval(units, settings, 0, out)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    typer.echo(f"{sum(len(task['templates']) for task in facts['tasks'].values())} task files in {out}. To run them:")
    groups = ",".join(facts["clusters"].values())
    typer.echo(f"  lm_eval --model hf --model_args pretrained=MODEL --include_path {out} --tasks {groups}")
