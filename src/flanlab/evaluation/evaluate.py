"""A whole evaluation: all questions of some tasks asked in one prompt style, and what results.json says of the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flanlab.data.encoding import PromptStyle
from flanlab.data.sources import load_rows
from flanlab.evaluation.best_template import DEV_FOLDER, best_dev_template, dev_settings, plan_dev
from flanlab.evaluation.planning import EvaluationSettings, EvaluationUnit
from flanlab.evaluation.results import TaskScores, averages, compare, task_results
from flanlab.evaluation.sharding import team_in
from flanlab.evaluation.stage import predict_units
from flanlab.models.answering import Model
from flanlab.tasks.schema import Split, Task

RESULTS_FILE = "results.json"


def plan_dev_units(
    units: Sequence[EvaluationUnit], settings: EvaluationSettings, seed: int, mirror: Path | None
) -> list[EvaluationUnit]:
    """The dev rows that templates are chosen by, where the settings ask for that; of tasks that have a dev split.

    Raises:
        MissingDataError: rows cannot be reached.
    """
    if not settings.choose_template:
        return []
    return [plan_dev(unit, load_rows(unit.task, "dev", mirror), settings, seed) for unit in units if unit.task.has_split("dev")]


def evaluate(
    loaded: Model,
    units: Sequence[EvaluationUnit],
    dev_units: Sequence[EvaluationUnit],
    settings: EvaluationSettings,
    seed: int,
    style: PromptStyle,
    folder: Path,
    variant: str,
    title: str,
) -> None:
    """Predict every unit into `folder/predictions/<variant>/<task>`, dev rows first; what is there already is kept.

    Of several processes, all must call this: each does its share, and returns when everything is there.
    """
    stages = [("predictions", units, settings, title)]
    # The baseline is one prompt: there is nothing to choose.
    if dev_units and style != "baseline":
        stages.insert(0, (DEV_FOLDER, dev_units, dev_settings(settings), f"{title}, dev"))
    for where, stage_units, stage_settings, stage_title in stages:
        predict_units(loaded, stage_units, stage_settings, seed, style, folder / where / variant, team_in(folder), stage_title)


def score_units(
    units: Sequence[EvaluationUnit],
    variants: Mapping[str, str],
    folder: Path,
    settings: EvaluationSettings,
    seed: int,
    before: Sequence[str] = (),
    after: str = "",
) -> dict[str, Any]:
    """How was evaluated, the tasks and their averages for results.json, from `folder/predictions/<variant>/<task>`.

    With `before`, the variant `after` is compared with the better of those.
    """
    entries: dict[str, Any] = {}
    scores: dict[str, TaskScores] = {}
    for unit in units:
        name = unit.task.name
        folders = {variant: folder / "predictions" / variant / name for variant in variants}
        entries[name], scores[name] = task_results(unit.task, folders, settings)
        entries[name]["source"] = _source(unit.task, settings.split)
        entries[name]["hashes"] = {"task": unit.task.hash, "rows": unit.rows.source_hash}
        if settings.choose_template:
            entries[name]["best_dev_template"] = _best_dev_templates(unit.task, folders, folder / DEV_FOLDER, settings)
        if before:
            entries[name]["comparison"] = compare(entries[name]["scores"], scores[name], before, after)
    evaluation = {"seed": seed, "settings": settings.model_dump(mode="json")}
    return {"evaluation": evaluation, "tasks": entries, **averages(entries, scores, before, after)}


def _best_dev_templates(
    task: Task, folders: Mapping[str, Path], dev: Path, settings: EvaluationSettings
) -> dict[str, Any] | None:
    """Each variant's best template on dev; None where the task has no dev split."""
    if not task.has_split("dev"):
        return None
    best = {variant: best_dev_template(task, dev / variant / task.name, test, settings) for variant, test in folders.items()}
    return {variant: found for variant, found in best.items() if found is not None}


def _source(task: Task, split: Split) -> dict[str, Any] | None:
    """Where on the Hub the rows come from, so that published figures for just these can be put beside ours."""
    sources = list(task.sources.values())
    if len(sources) != 1 or sources[0].hub is None:
        return None
    return {"hub": sources[0].hub, "config": sources[0].config, "split": sources[0].split_spec(split)}
