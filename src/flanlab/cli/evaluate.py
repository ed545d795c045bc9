"""`flan eval`: score any model on any tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flanlab.cli.options import (
    MODEL_HELP,
    AcceptGemmaTerms,
    ApiKeyVariable,
    AsJson,
    Collections,
    EndpointUrl,
    Mirror,
    Parallel,
    RemoteTokenizer,
    RequestsPerMinute,
    SkipMissing,
    comma_separated,
    endpoint_of,
    folder_to_write,
    named_values,
    say_loading,
)
from flanlab.data.rendering import Truncation
from flanlab.errors import FlanlabError
from flanlab.models.names import check_model_name
from flanlab.tasks.clusters import Cluster

if TYPE_CHECKING:
    from flanlab.results.schema import Results


def evaluate(
    model: Annotated[str, typer.Option(help=MODEL_HELP)],
    out: Annotated[Path, typer.Option(callback=folder_to_write, help="Folder for predictions, results and report.")],
    names: Annotated[list[str] | None, typer.Argument(help="Tasks or clusters to evaluate.")] = None,
    cluster: Annotated[
        list[Cluster] | None, typer.Option(help="A cluster to evaluate, in addition to the names. May be repeated.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Ask what `flan run` asks with this recipe: its tasks, evaluation section and seed. Other options"
            " take precedence over it."
        ),
    ] = None,
    tasks: Collections = None,
    mirror: Mirror = None,
    skip_missing: SkipMissing = False,
    rows: Annotated[int | None, typer.Option(min=1, help="Number of rows of each task. Default: 200.")] = None,
    templates_per_row: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|adaptive",
            help="Number of templates for each row, which take turns; adaptive: as many as --answer-budget allows, and the"
            " scores of all wordings are estimated. Default: all.",
        ),
    ] = None,
    answer_budget: Annotated[
        float | None,
        typer.Option(min=1, help="With --templates-per-row adaptive: mean number of answers to each row. Default: 2."),
    ] = None,
    wordings: Annotated[
        int | None, typer.Option(min=2, help="Make up to this many wordings of each task from its templates, by rule.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Also ask through the model's chat template.")] = False,
    chat_template_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Argument of the chat template, such as enable_thinking=false. May be repeated."
        ),
    ] = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Also ask with the tasks' baseline prompts, which suit an untuned model.")
    ] = False,
    shots: Annotated[
        list[str] | None,
        typer.Option(metavar="NUMBERS", help="Number of exemplars before each question, for example 0,4,16. May be repeated."),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORDERS", help="Show OPTIONS shuffled, fixed, or not at all, for example shuffled,none. May be repeated."
        ),
    ] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Limit of a prompt: longer ones lose part of their longest field. Default: 1024.")
    ] = None,
    truncate: Annotated[Truncation | None, typer.Option(help="Which part of that field is lost. Default: end.")] = None,
    no_pmi: Annotated[
        bool, typer.Option("--no-pmi", help="Skip accuracy by PMI, which also scores options without their question.")
    ] = False,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"] | None,
        typer.Option(help="Number type of the computation. Default: float32 on a CPU, bfloat16 on a GPU."),
    ] = None,
    choose_template: Annotated[
        bool,
        typer.Option("--choose-template", help="Also score the template that is best on at most 200 dev rows of each task."),
    ] = False,
    allow_seen: Annotated[
        bool, typer.Option("--allow-seen", help="Score tasks that the model was trained on, and mark them as seen.")
    ] = False,
    endpoint: EndpointUrl = None,
    tokenizer: RemoteTokenizer = None,
    requests_per_minute: RequestsPerMinute = None,
    parallel: Parallel = None,
    api_key_variable: ApiKeyVariable = None,
    fail_under: Annotated[
        float | None,
        typer.Option(min=-1, max=1, help="Exit with status 1 if a task's score is below this (0 to 1), to check a build."),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="The metric for --fail-under. Default: each task's main metric.")] = None,
    accept_gemma_terms: AcceptGemmaTerms = False,
    as_json: AsJson = False,
) -> None:
    """Score a model on the forward templates of tasks. Tasks that the model has seen are refused.

    Example: flan eval sentiment --model runs/quickstart/model --tasks sampler --out runs/eval
    """
    server = endpoint_of(endpoint, tokenizer, requests_per_minute, parallel, api_key_variable)
    if metric is not None and fail_under is None:
        raise typer.BadParameter("is needed with --metric.", param_hint="--fail-under")
    if recipe is not None and (names or cluster or tasks):
        raise typer.BadParameter("says which tasks are evaluated: do not name any.", param_hint="--recipe")
    if recipe is None and not (names or cluster):
        raise typer.BadParameter("Name tasks or clusters, or a --recipe.", param_hint="NAMES")
    if chat_template_arg and not chat:
        raise typer.BadParameter(
            "is needed with it: otherwise nothing is asked through the chat template.", param_hint="--chat"
        )
    counts = _counts(shots or [])
    if server is None:
        check_model_name(model)

    say_loading()
    from flanlab import api
    from flanlab.cli.tables import present_results
    from flanlab.data.encoding import PromptStyle
    from flanlab.evaluation.planning import EvaluationSettings
    from flanlab.experiments.recipe import divide, read_recipe
    from flanlab.processes import is_first
    from flanlab.tasks.schema import Task

    settings, seed = EvaluationSettings(), 0
    chosen: list[str] | list[Task] = [*(names or []), *(one.value for one in cluster or [])]
    if recipe is not None:
        followed = read_recipe(recipe)
        settings, seed = followed.evaluation, followed.seed
        split = divide(followed)
        chosen = [*split.test, *split.in_domain]
    changes: dict[str, Any] = {
        "rows": rows,
        "templates_per_row": _templates(templates_per_row),
        "answer_budget": answer_budget,
        "wordings": wordings,
        "prompt_tokens": prompt_tokens,
        "truncate": truncate,
        "dtype": dtype,
        "chat_template_args": _template_args(chat_template_arg or []) or None,
        "choose_template": choose_template or None,
        "pmi": False if no_pmi else None,
        "options": comma_separated(options or []) or None,
        "shots": counts or None,
    }
    try:
        settings = settings.changed(changes)
    except FlanlabError as error:
        raise typer.BadParameter(error.message) from error
    styles: list[PromptStyle] = ["instruction"]
    styles += ["chat"] if chat else []
    styles += ["baseline"] if baseline else []
    done = api.evaluate(
        model,
        chosen,
        out=out,
        styles=styles,
        seed=seed,
        mirror=mirror,
        collections=tasks,
        allow_seen=allow_seen,
        skip_missing=skip_missing,
        endpoint=server,
        settings=settings,
    )
    if is_first():
        present_results(done, as_json)
        if fail_under is not None:
            _refuse_below(done.results, fail_under, metric)


def _templates(text: str | None) -> int | str | None:
    """A number of templates as it was written, or `adaptive`."""
    if text in (None, "adaptive"):
        return text
    if not text.isdecimal():
        raise typer.BadParameter(f"{text!r} is neither a number nor adaptive.", param_hint="--templates-per-row")
    return int(text)


def _template_args(given: list[str]) -> dict[str, Any]:
    """Arguments of a chat template as they were written: NAME=VALUE, the value as JSON has it, or else a text."""
    found = {}
    for name, value in named_values(given, "--chat-template-arg").items():
        try:
            content = json.loads(value)
        except ValueError:
            content = {"true": True, "false": False}.get(value.lower(), value)
        found[name] = content if isinstance(content, bool | int | float | str) else value
    return found


def _counts(shots: list[str]) -> list[int]:
    """Numbers of exemplars as they were written: 0,1,4,16, or one after the other."""
    from flanlab.data.exemplars import MOST_SHOTS

    parts = comma_separated(shots)
    if wrong := [part for part in parts if not (part.isdecimal() and int(part) <= MOST_SHOTS)]:
        raise typer.BadParameter(f"{wrong[0]!r} is no number from 0 to {MOST_SHOTS}.", param_hint="--shots")
    return sorted({int(part) for part in parts})


def _refuse_below(results: Results, threshold: float, metric: str | None = None) -> None:
    """Fail where a task's score (the mean over its templates) does not reach a threshold, by any variant.

    Args:
        results: of a run or an evaluation.
        threshold: the lowest score that is good enough; 0 to 1, or -1 to 1 for correlations.
        metric: what every task is judged by; its main metric, where not given.

    Raises:
        FlanlabError: scores below the threshold, each named; or a task without the metric.
    """
    from flanlab.results.schema import MEAN

    judged = []
    for name, facts in results.tasks.items():
        scores = results.scored("task", name, metric or facts.main_metric, MEAN)
        if not scores:
            known = results.metrics("task", name)
            raise FlanlabError(f"The task {name} has no metric `{metric}`.", hint=f"Its metrics are: {', '.join(known)}.")
        judged += [(name, variant, score) for variant, score in scores.items()]
    # Written so that NaN does not pass.
    if failed := [one for one in judged if not one[2].mean >= threshold]:
        lines = (f"  {name} ({variant}): {score.metric} {score.mean:.4f}" for name, variant, score in failed)
        raise FlanlabError(
            f"{len(failed)} of {len(judged)} scores are below {threshold:g}:\n" + "\n".join(lines),
            hint="Predictions and results are written all the same.",
        )
