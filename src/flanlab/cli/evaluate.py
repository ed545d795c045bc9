"""`flan eval`: score any model on any tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flanlab.cli.options import AsJson, Collections, Mirror


def evaluate(
    names: Annotated[list[str], typer.Argument(help="Tasks or clusters to evaluate.")],
    model: Annotated[str, typer.Option(help="A run's model folder, any model folder, a Hub id, or smollm2-135m-instruct.")],
    out: Annotated[Path, typer.Option(help="Folder for predictions, results and report.")],
    tasks: Collections = None,
    mirror: Mirror = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of each task.")] = 200,
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the model's chat template too.")] = False,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Ask with the tasks' baseline prompts too, as suits an untuned model.")
    ] = False,
    allow_seen: Annotated[
        bool, typer.Option("--allow-seen", help="Score tasks the model was trained on; they are marked as seen.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Score a model on the forward templates of tasks; refused where the model has seen them.

    Example: flan eval sentiment --model runs/quickstart/model --tasks sampler --out runs/eval
    """
    from flanlab.cli.tables import present_results
    from flanlab.data.encoding import PromptStyle
    from flanlab.evaluation.predict import EvaluationSettings
    from flanlab.experiments.evaluate_model import evaluate_model
    from flanlab.tasks.loading import BUILT_IN_COLLECTIONS, load_collections, select_tasks

    chosen = select_tasks(load_collections(tasks or list(BUILT_IN_COLLECTIONS)), names)
    styles: list[PromptStyle] = ["instruction"]
    if chat:
        styles.append("chat")
    if baseline:
        styles.append("baseline")
    results = evaluate_model(
        model,
        chosen,
        EvaluationSettings(rows=rows),
        out,
        styles=styles,
        mirror=mirror,
        allow_seen=allow_seen,
    )
    present_results(results, out, as_json)
