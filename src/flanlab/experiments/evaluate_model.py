"""Evaluating any model on any tasks, with or without a training run of ours behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flanlab.data.encoding import PromptStyle
from flanlab.data.sources import load_rows
from flanlab.errors import FlanlabError
from flanlab.evaluation.evaluate import RESULTS_FILE, evaluate, plan_dev_units, score_units
from flanlab.evaluation.planning import EvaluationSettings, plan_task, variant_of
from flanlab.evaluation.predict import refuse_seen
from flanlab.evaluation.sharding import team_in
from flanlab.files import write_json
from flanlab.models.built_in import BUILT_IN_MODELS
from flanlab.models.completions import Endpoint
from flanlab.models.gguf import is_gguf
from flanlab.models.loading import LoadedModel, load_model
from flanlab.models.remote import RemoteModel, open_remote_model
from flanlab.progress import console, say
from flanlab.tasks.schema import Task
from flanlab.training.precision import warn_of_slow_bfloat16

RESPONSES_FILE = "responses.sqlite"
"""In an evaluation's folder: what a remote model's server has answered so far."""
CHARACTERS_PER_TOKEN = 4


def evaluate_model(
    model: str,
    tasks: Sequence[Task],
    settings: EvaluationSettings,
    folder: Path,
    *,
    styles: Sequence[PromptStyle] = ("instruction",),
    seed: int = 0,
    mirror: Path | None = None,
    allow_seen: bool = False,
    endpoint: Endpoint | None = None,
) -> dict[str, Any]:
    """Score a model on every row and forward template of the tasks; predictions already in `folder` are kept.

    With `endpoint`, `model` is a name that the server there knows. Every prompt style is tried with each number of
    exemplars and each way to show OPTIONS in `settings`. Several processes, as torchrun starts them, share the work; the first
    computes results and speaks to people.

    Returns:
        The content of results.json; tasks the model has seen are marked there. Empty in all processes but the first.

    Raises:
        FlanlabError: rows or the model out of reach, a prompt style that the model or a task lacks, a seen task without
            `allow_seen`, or several processes for an endpoint.
    """
    team = team_in(folder)
    console.quiet = console.quiet or not team.speaks
    if endpoint is not None and team.count > 1:
        raise FlanlabError(
            "An endpoint is asked by one process, which has many requests under way at once.",
            hint="Start `flan eval` without torchrun, and choose the number of requests with --parallel.",
        )
    tasks = [part for task in tasks for part in task.evaluated_parts(settings.split)]
    # Once for all parts of a task.
    wholes = {task.whole.name: task.whole for task in tasks} if any(settings.shot_counts) else {}
    exemplars = {name: load_rows(whole, "train", mirror) for name, whole in wholes.items()}
    units = [
        plan_task(task, load_rows(task, settings.split, mirror), settings, seed, exemplars.get(task.whole.name))
        for task in tasks
    ]
    dev_units = plan_dev_units(units, settings, seed, mirror)
    loaded: LoadedModel | RemoteModel
    if endpoint is None:
        loaded = load_model(model, dtype=settings.dtype, say=say)
        if settings.dtype == "bfloat16":
            warn_of_slow_bfloat16(loaded.model)
    elif settings.dtype != "auto":
        raise FlanlabError("The numbers that a server computes in cannot be chosen here.", hint="Leave --dtype out.")
    else:
        loaded = open_remote_model(model, endpoint, folder / RESPONSES_FILE)
        settings = remote_settings(settings, loaded)
    seen = refuse_seen(tasks, loaded, allow_seen)
    loaded.encoder.chat_template_args = settings.chat_template_args
    for style in styles:
        loaded.encoder.encode("", [], style)  # refuses a style that the model lacks, before anything is computed
    variants: dict[str, str] = {}
    for style in styles:
        for arm in settings.arms(style):
            name, title = variant_of(style, f"{style} prompt", arm, settings, style, plain_shots=0)
            variants[name] = title
            evaluate(loaded, units, dev_units, arm, seed, style, folder, name, f"{loaded.name}, {title}")
    if isinstance(loaded, RemoteModel):
        loaded.completions.close()
    if not team.speaks:
        return {}
    scored = score_units(units, variants, folder, settings, seed)
    for name, reason in seen.items():
        scored["tasks"][name]["seen"] = reason
    clusters = sorted({cluster.value for task in tasks for cluster in task.clusters})
    results = {
        "format": 1,
        "name": f"evaluation of {loaded.name}",
        "description": "",
        "hold_out": clusters,
        "left_out": {},
        "allowed_overlaps": {},
        "trained_on": {name: facts["clusters"][0] for name, facts in loaded.stamp["tasks"].items()} if loaded.stamp else {},
        "model": loaded.name,
        "parameters": loaded.parameters if isinstance(loaded, LoadedModel) else None,
        "precision": {
            "training": _trained_in(loaded.stamp),
            "scoring": loaded.dtype if isinstance(loaded, LoadedModel) else None,
        },
        "scoring": loaded.scoring if isinstance(loaded, RemoteModel) else "log-probabilities",
        "variants": variants,
        "stamped": dict.fromkeys(variants, loaded.stamp is not None),
        **scored,
        "notes": [*_notes(loaded), *(f"Seen: {name}, since {reason}." for name, reason in seen.items())],
    }
    write_json(folder / RESULTS_FILE, results)
    return results


def _trained_in(stamp: Mapping[str, Any] | None) -> str | None:
    """Numbers that a model's training computed in, where it is known."""
    training: Mapping[str, Any] = (stamp or {}).get("recipe", {}).get("training", {})
    return training.get("compute_dtype")


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


def _notes(model: LoadedModel | RemoteModel) -> list[str]:
    """What a reader must know to judge the numbers."""
    notes = []
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
