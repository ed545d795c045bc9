"""A whole evaluation: which questions some tasks are asked, their predictions, and the results of these."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from flanlab.data.mirror import MissingDataError
from flanlab.data.reader import RowReader
from flanlab.data.sources import NoRowsError
from flanlab.evaluation.best_template import DEV_FOLDER, dev_settings, plan_dev
from flanlab.evaluation.kept import Kept
from flanlab.evaluation.planning import EvaluationSettings, EvaluationUnit, plan_task
from flanlab.evaluation.scores import build_results, score_task
from flanlab.evaluation.setup import Setup
from flanlab.evaluation.sharding import team_in
from flanlab.evaluation.stage import predict_units
from flanlab.results.predictions import PREDICTIONS, read_records
from flanlab.results.schema import Hashes, Results, RowSource, Variant
from flanlab.tasks.schema import Split, Task


def plan_units(tasks: Sequence[Task], settings: EvaluationSettings, seed: int, rows: RowReader) -> list[EvaluationUnit]:
    """What is asked of each task (of a task with subtasks: of each of them).

    Raises:
        MissingDataError: rows cannot be reached.
    """
    subtasks = [subtask for task in tasks for subtask in task.evaluated_subtasks(settings.split)]
    return [
        plan_task(
            subtask,
            rows.read(subtask, settings.split),
            settings,
            seed,
            rows.read(subtask.whole, "train") if any(settings.shot_counts) else None,
        )
        for subtask in subtasks
    ]


def with_rows(tasks: Sequence[Task], settings: EvaluationSettings, rows: RowReader) -> tuple[list[Task], dict[str, str]]:
    """The tasks and subtasks whose rows are all available, and why the others are skipped.

    Raises:
        MissingDataError: all are skipped.
    """
    found: list[Task] = []
    skipped: dict[str, str] = {}
    for task in (subtask for whole in tasks for subtask in whole.evaluated_subtasks(settings.split)):
        try:
            rows.read(task, settings.split)
            if any(settings.shot_counts):
                rows.read(task.whole, "train")
            if settings.choose_template and task.has_split("dev"):
                rows.read(task, "dev")
        except (MissingDataError, NoRowsError) as error:
            skipped[task.name] = error.message
        else:
            found.append(task)
    if not found:
        raise MissingDataError(
            "No task has rows that are available:\n" + "\n".join(f"  {reason}" for reason in skipped.values()),
            hint="Check the network, or name a folder with the data with --mirror DIR.",
        )
    return found, skipped


def plan_dev_units(
    units: Sequence[EvaluationUnit], settings: EvaluationSettings, seed: int, rows: RowReader
) -> list[EvaluationUnit]:
    """The dev rows that templates are chosen by, where the settings ask for that; of tasks that have a dev split.

    Raises:
        MissingDataError: rows cannot be reached.
    """
    if not settings.choose_template:
        return []
    return [plan_dev(unit, rows.read(unit.task, "dev"), settings, seed) for unit in units if unit.task.has_split("dev")]


def evaluate(setup: Setup, units: Sequence[EvaluationUnit], dev_units: Sequence[EvaluationUnit], folder: Path) -> None:
    """Predict every unit into `folder/predictions/<variant>/<task>`, dev rows first; what is there already is kept.

    Of several processes, all must call this: each does its share, and returns when everything is there.
    """
    setup.model.encoder.chat_template_args = setup.settings.chat_template_args
    title = setup.title[:1].upper() + setup.title[1:]
    stages = [(PREDICTIONS, units, setup, title)]
    # The baseline is one prompt: there is nothing to choose.
    if dev_units and setup.style != "baseline":
        stages.insert(0, (DEV_FOLDER, dev_units, setup.with_settings(dev_settings(setup.settings)), f"{title}, dev"))
    for where, stage_units, stage_setup, stage_title in stages:
        predict_units(stage_setup, stage_units, folder / where / setup.name, team_in(folder), stage_title)


def score_units(
    units: Sequence[EvaluationUnit],
    settings: EvaluationSettings,
    variants: Mapping[str, Variant],
    folder: Path,
    *,
    before: Sequence[str] = (),
    after: str = "",
    seen: Mapping[str, str] | None = None,
    in_domain: Collection[str] = (),
    kept: Kept | None = None,
    **facts: Any,
) -> Results:
    """Results of the predictions in `folder/predictions/<variant>/<task>`.

    Args:
        units: what was asked.
        settings: with which; only `end_token`, `split`, `choose_template` and whether `templates_per_row` is adaptive decide
            anything here.
        variants: what is known of each variant.
        folder: of the run or the evaluation.
        before: see `build_results`.
        after: see `build_results`.
        seen: task to the reason why its scores are not zero-shot.
        in_domain: tasks that the tuned model was trained on, through other rows.
        kept: what stays of an earlier evaluation; its variants are among `variants`.
        **facts: the other fields of `Results`.

    Raises:
        FlanlabError: predictions are missing or damaged.
    """
    scored = []
    for unit in units:
        task = unit.task
        dev: dict[str, list[dict[str, Any]]] | None = None
        if settings.choose_template:
            asked = [name for name, variant in variants.items() if variant.style != "baseline"] if task.has_split("dev") else []
            dev = {name: read_records(folder / DEV_FOLDER / name / task.name) for name in asked}
        scored.append(
            score_task(
                task,
                {name: read_records(folder / PREDICTIONS / name / task.name) for name in variants},
                end_token=settings.end_token,
                dev=dev,
                source=_source(task, settings.split),
                hashes=Hashes(task=task.hash, rows=unit.rows.source_hash),
                seen=(seen or {}).get(task.name),
                in_domain=task.name in in_domain,
                over_wordings=settings.templates_per_row == "adaptive",
            )
        )
    if kept is not None:
        scored = [*(kept.with_best(one) for one in scored), *kept.tasks]
    return build_results(scored, variants, before=before, after=after, **facts)


def _source(task: Task, split: Split) -> RowSource | None:
    """Where on the Hub the rows come from, so that published figures for just these can be put beside ours."""
    sources = list(task.sources.values())
    if len(sources) != 1 or sources[0].hub is None:
        return None
    return RowSource(hub=sources[0].hub, config=sources[0].config, split=sources[0].split_spec(split))
