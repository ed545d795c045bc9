"""Evaluating any model on any tasks, with or without a training run of ours behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from flanlab.data.encoding import PromptStyle
from flanlab.data.reader import RowReader
from flanlab.errors import FlanlabError
from flanlab.evaluation.evaluate import evaluate, keep_earlier, plan_dev_tasks, plan_tasks, score_tasks, with_rows
from flanlab.evaluation.planning import EvaluationSettings, PlannedTask, Setup, variant_of
from flanlab.evaluation.predict import refuse_seen
from flanlab.files import check_writable
from flanlab.models.answering import Model, refuse_unwrapped
from flanlab.models.built_in import BUILT_IN_MODELS
from flanlab.models.completions import Endpoint
from flanlab.models.gguf import is_gguf
from flanlab.models.loading import LoadedModel, load_model, scoring_model
from flanlab.models.names import check_model_name
from flanlab.models.remote import RemoteModel, open_remote_model
from flanlab.processes import end_with_others, is_first, world_size
from flanlab.progress import console, say
from flanlab.results.files import write_results
from flanlab.results.schema import Results
from flanlab.tasks.loading import own_versions
from flanlab.tasks.schema import Task
from flanlab.training.precision import warn_of_slow_bfloat16

RESPONSES_FILE = "responses.sqlite"
"""In an evaluation's folder: what a remote model's server has answered so far."""
CHARACTERS_PER_TOKEN = 4
_SKIPPED = "Skipped, since its rows are not available:"


def evaluate_model(
    model: str | Model,
    tasks: Sequence[Task],
    settings: EvaluationSettings,
    folder: Path,
    *,
    styles: Sequence[PromptStyle] = ("instruction",),
    seed: int = 0,
    rows: RowReader | None = None,
    allow_seen: bool = False,
    skip_missing: bool = False,
    endpoint: Endpoint | None = None,
    named: Mapping[str, str] | None = None,
) -> Results | None:
    """Score a model on tasks, as `flanlab.evaluate` does, which describes the arguments and errors. No report is written.

    Args:
        model: a name, or a model in memory.
        tasks: whole tasks; of those with subtasks each is evaluated.
        settings: what is asked, and how much.
        folder: for predictions and results.
        styles, seed, allow_seen, skip_missing, endpoint: as for `flanlab.evaluate`.
        rows: where rows come from.
        named: what results call the evaluation (`name`) and the model (`model`), where that is not the model's own name.

    Returns:
        The results, as they are written into the folder; None in all processes but the first.
    """
    end_with_others()
    console.quiet = console.quiet or not is_first()
    if endpoint is not None and world_size() > 1:
        raise FlanlabError(
            "An endpoint is asked by one process, which has many requests under way at once.",
            hint="Start `flan eval` without torchrun, and choose the number of requests with --parallel.",
        )
    check_writable(folder)
    if endpoint is None and isinstance(model, str):
        check_model_name(model)
    if not tasks:
        raise FlanlabError("There is no task to evaluate.", hint="Name a task or a cluster.")
    rows = rows or RowReader()
    skipped: dict[str, str] = {}
    if skip_missing:
        tasks, skipped = with_rows(tasks, settings, rows)
        for name, reason in skipped.items():
            say(f"Skipped {name}: {reason}")
    planned = plan_tasks(tasks, settings, seed, rows)
    if "baseline" in styles and (without := [one.task.name for one in planned if one.task.baseline is None]):
        raise FlanlabError(
            f"These tasks have no baseline prompt: {', '.join(without)}.",
            hint="Leave the style `baseline` out, or give each task a `baseline`.",
        )
    dev_planned = plan_dev_tasks(planned, settings, seed, rows)
    setups = []
    with opened(model, endpoint, settings, styles, folder) as (loaded, settings):
        seen = refuse_seen([one.task for one in planned], loaded.name, loaded.stamp, allow_seen)
        for style in styles:
            for arm in settings.arms(style):
                name, title = variant_of(style, f"{style} prompt", arm, settings, style, plain_shots=0)
                setups.append(Setup(loaded, arm, seed, style, name, title))
                evaluate(setups[-1], planned, dev_planned, folder)
    if not is_first():
        return None
    named = named or {}
    variants = {setup.name: setup.variant(model=named.get("model", loaded.name)) for setup in setups}
    kept = keep_earlier(folder, setups, planned, dev_planned, rows)
    if kept.variants or kept.tasks:
        stay = [*kept.variants, *(task.name for task in kept.tasks)]
        say(f"Also in the results, from an earlier evaluation in {folder}: {', '.join(stay)}.")
    for why in dict.fromkeys(kept.dropped.values()):
        gone = ", ".join(name for name, reason in kept.dropped.items() if reason == why)
        say(f"No longer in the results: {gone} ({why}). Name another --out folder to keep both.")
    clusters = {cluster.value for one in planned for cluster in one.task.clusters}
    notes = [
        *_notes(loaded, planned),
        *(f"Not zero-shot: {one}, since {why}." for one, why in seen.items()),
        *(f"{_SKIPPED} {name}. {reason}" for name, reason in skipped.items()),
        *(note for note in kept.notes if not note.startswith(_SKIPPED)),
    ]
    results = score_tasks(
        planned,
        settings,
        {**variants, **kept.variants},
        folder,
        kept=kept,
        seen=seen,
        name=named.get("name", f"evaluation of {loaded.name}"),
        hold_out=sorted(clusters.union(*(task.facts.clusters for task in kept.tasks))),
        skipped={name: reason for name, reason in skipped.items() if name not in {task.name for task in kept.tasks}},
        notes=list(dict.fromkeys(notes)),
    )
    write_results(results, folder)
    return results


@contextmanager
def opened(
    model: str | Path | Model,
    endpoint: Endpoint | None,
    settings: EvaluationSettings,
    styles: Sequence[PromptStyle],
    folder: Path,
) -> Iterator[tuple[Model, EvaluationSettings]]:
    """A model that can be asked in these prompt styles, and the settings that it can be asked with.

    Responses of an endpoint are kept in `folder`.

    Raises:
        FlanlabError: no such model or server, or a prompt style that the model lacks.
    """
    if not isinstance(model, str | Path):
        refuse_unwrapped(model)
        found = scoring_model(model, settings.dtype) if isinstance(model, LoadedModel) else model
    elif endpoint is None:
        found = load_model(str(model), dtype=settings.dtype)
        if settings.dtype == "bfloat16":
            warn_of_slow_bfloat16(found.model)
    elif settings.dtype != "auto":
        raise FlanlabError("The numbers that a server computes in cannot be chosen here.", hint="Leave --dtype out.")
    else:
        found = open_remote_model(str(model), endpoint, folder / RESPONSES_FILE)
    try:
        if isinstance(found, RemoteModel):
            settings = remote_settings(settings, found)
        found.encoder.chat_template_args = settings.chat_template_args
        for style in styles:
            found.encoder.encode("", [], style)  # refuses a style that the model lacks, before anything is computed
        yield found, settings
    finally:
        if isinstance(found, RemoteModel) and found is not model:
            found.completions.close()


def remote_settings(settings: EvaluationSettings, model: RemoteModel) -> EvaluationSettings:
    """Settings that a remote model can be evaluated with."""
    if model.scoring == "generation" and not settings.generate:
        raise FlanlabError(
            f"Options cannot be ranked: {model.scoring_reason}.", hint="Let answers be generated, or use another server."
        )
    if model.scoring == "generation":
        settings = settings.model_copy(update={"pmi": False})
    if model.knows_tokens:
        return settings
    # The limit is one of tokens, and nothing but characters can be counted.
    in_characters = {name: getattr(settings, name) * CHARACTERS_PER_TOKEN for name in ("prompt_tokens", "shot_tokens")}
    return settings.model_copy(update={**in_characters, "end_token": False})


def _notes(model: Model, planned: Sequence[PlannedTask]) -> list[str]:
    """What a reader must know to judge the numbers."""
    notes = own_versions([one.task for one in planned])
    if isinstance(model, RemoteModel):
        notes.append(f"The model was asked over {model.endpoint.url}; what stands behind its name may change.")
        if model.scoring == "generation":
            notes.append(
                "Scoring: generation. Answers were generated and compared with the options, not ranked, since"
                f" {model.scoring_reason}."
            )
        else:
            notes.append("Scoring: log-probabilities. Options were ranked by the log-probabilities that the server returned.")
        if not model.knows_tokens:
            notes.append(
                "The tokenizer was not known: text was sent, in which the server may read special tokens such as </s> as such;"
                " scores are without the end token, and prompts were cut at"
                f" {CHARACTERS_PER_TOKEN} characters for each token allowed."
            )
        return notes
    if built_in := BUILT_IN_MODELS.get(model.name):
        notes.append(f"The model is {built_in.description}")
    if is_gguf(model.name):
        notes.append("The weights are those of a GGUF file, turned back into float32; a quantized file holds rounded weights.")
    if model.stamp:
        notes.append("The model carries a stamp: what it was trained on is known.")
    return notes
