"""`flan eval`: score any model on any tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flanlab.cli.options import AsJson, Collections, Mirror


def evaluate(
    names: Annotated[list[str], typer.Argument(help="Tasks or clusters to evaluate.")],
    model: Annotated[
        str,
        typer.Option(help="A model folder, a GGUF file, a Hub id, smollm2-135m-instruct, or a name that the --endpoint knows."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for predictions, results and report.")],
    tasks: Collections = None,
    mirror: Mirror = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of each task.")] = 200,
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the model's chat template too.")] = False,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Ask with the tasks' baseline prompts too, as suits an untuned model.")
    ] = False,
    shots: Annotated[
        list[int] | None,
        typer.Option(min=0, max=16, help="Exemplars from the train split before each question. Repeatable: 0, 4 and 16, say."),
    ] = None,
    choose_template: Annotated[
        bool,
        typer.Option("--choose-template", help="Also score the template that is best on at most 200 dev rows of each task."),
    ] = False,
    allow_seen: Annotated[
        bool, typer.Option("--allow-seen", help="Score tasks the model was trained on; they are marked as seen.")
    ] = False,
    endpoint: Annotated[
        str | None, typer.Option(help="Ask the --model of this OpenAI-compatible server instead: http://host:8000/v1.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder, GGUF file or Hub id of the remote model's tokenizer; else text is sent.")
    ] = None,
    requests_per_minute: Annotated[float | None, typer.Option(min=0.001, help="Most requests a minute.")] = None,
    parallel: Annotated[int | None, typer.Option(min=1, help="Most requests under way at once; 8 if not given.")] = None,
    api_key_variable: Annotated[
        str | None, typer.Option(help="Environment variable that holds the server's key, if not OPENAI_API_KEY.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a model on the forward templates of tasks; refused where the model has seen them.

    Example: flan eval sentiment --model runs/quickstart/model --tasks sampler --out runs/eval
    """
    if endpoint is None and (tokenizer or requests_per_minute or parallel or api_key_variable):
        raise typer.BadParameter("is needed beside the options of remote models.", param_hint="--endpoint")

    from flanlab.cli.tables import present_results
    from flanlab.data.encoding import PromptStyle
    from flanlab.evaluation.planning import EvaluationSettings
    from flanlab.experiments.evaluate_model import evaluate_model
    from flanlab.models.completions import Endpoint
    from flanlab.tasks.loading import BUILT_IN_COLLECTIONS, load_collections, select_tasks

    chosen = select_tasks(load_collections(tasks or list(BUILT_IN_COLLECTIONS)), names)
    styles: list[PromptStyle] = ["instruction"]
    if chat:
        styles.append("chat")
    if baseline:
        styles.append("baseline")
    server = None
    if endpoint is not None:
        server = Endpoint(endpoint, tokenizer, requests_per_minute, parallel or Endpoint.parallel, api_key_variable)
    results = evaluate_model(
        model,
        chosen,
        EvaluationSettings(rows=rows, choose_template=choose_template),
        out,
        styles=styles,
        shots=sorted(set(shots or [0])),
        mirror=mirror,
        allow_seen=allow_seen,
        endpoint=server,
    )
    present_results(results, out, as_json)
