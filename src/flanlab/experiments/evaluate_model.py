"""Evaluating any model on any tasks, with or without a training run of ours behind it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flanlab.data.encoding import PromptStyle
from flanlab.data.sources import load_rows
from flanlab.evaluation.predict import EvaluationSettings, plan_task, refuse_seen
from flanlab.experiments.run import RESULTS_FILE, evaluate, score_units
from flanlab.files import write_json
from flanlab.models.loading import load_model
from flanlab.progress import say
from flanlab.tasks.schema import Task


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
) -> dict[str, Any]:
    """Score a model on every row and forward template of the tasks; predictions already in `folder` are kept.

    Returns:
        The content of results.json; tasks the model has seen are marked there.

    Raises:
        FlanlabError: rows out of reach, a prompt style that the model or a task lacks, or a seen task without `allow_seen`.
    """
    tasks = [part for task in tasks for part in task.evaluated_parts(settings.split)]
    units = [plan_task(task, load_rows(task, settings.split, mirror), settings, seed) for task in tasks]
    loaded = load_model(model, say=say)
    seen = refuse_seen(tasks, loaded, allow_seen)
    for style in styles:
        evaluate(loaded, units, settings, seed, style, folder / "predictions" / style, f"{loaded.name}, {style} prompt")
    scored = score_units(units, {style: f"{style} prompt" for style in styles}, folder, settings)
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
        "parameters": loaded.parameters,
        "variants": {style: f"{style} prompt" for style in styles},
        **scored,
        "notes": [
            "The model carries a stamp: what it was trained on is known."
            if loaded.stamp
            else "The model carries no stamp: whether it has seen these tasks is unknown."
        ]
        + [f"Seen: {name}, since {reason}." for name, reason in seen.items()],
    }
    write_json(folder / RESULTS_FILE, results)
    return results
