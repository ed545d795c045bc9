"""`flan export`: tasks and models in the formats of other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

import flanlab as fl
from flanlab.cli.options import AsJson, Collections, Mirror, folder_to_write, say_loading
from flanlab.tasks.schema import Split

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
    from flanlab.experiments.export_model import push_model

    typer.echo(str(fl.export_model(run, out, merge=merge)))
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
    split: Annotated[Split, typer.Option(help="The split of these rows.")] = "test",
    tasks: Collections = None,
    mirror: Mirror = None,
    as_json: AsJson = False,
) -> None:
    """Write tasks for lm-evaluation-harness: the prompts that `flan eval` asks, one task file for each forward template.

    Example: flan export lm-eval sentiment --tasks sampler --out lm_eval_tasks
    """
    from flanlab.data.reader import RowReader
    from flanlab.evaluation.evaluate import plan_tasks, with_rows
    from flanlab.evaluation.lm_eval_export import export_lm_eval
    from flanlab.progress import say
    from flanlab.tasks.loading import BUILT_IN_COLLECTIONS, load_collections, load_named

    settings, reader, places = fl.EvaluationSettings(rows=rows, split=split), RowReader(mirror), tasks or BUILT_IN_COLLECTIONS
    if names:
        chosen = load_named(places, names)
    else:
        chosen, missing = with_rows(load_collections(places), settings, reader)
        for name, reason in missing.items():
            say(f"{name}: left out. {reason}")
    facts = export_lm_eval(plan_tasks(chosen, settings, 0, reader), settings, 0, out)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    typer.echo(f"{sum(len(task['templates']) for task in facts['tasks'].values())} task files in {out}. To run them:")
    groups = ",".join(facts["clusters"].values())
    typer.echo(f"  lm_eval --model hf --model_args pretrained=MODEL --include_path {out} --tasks {groups}")
