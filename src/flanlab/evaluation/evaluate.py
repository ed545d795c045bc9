"""A whole evaluation: which questions some tasks are asked, their predictions, and the results of these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flanlab.data.mirror import MissingDataError
from flanlab.data.reader import RowReader
from flanlab.data.sources import NoRowsError
from flanlab.evaluation.best_template import DEV_FOLDER, dev_settings, stages_of
from flanlab.evaluation.kept import Kept
from flanlab.evaluation.planning import EvaluationSettings, PlannedTask, plan_task
from flanlab.evaluation.scores import build_results, read_counted, score_task
from flanlab.evaluation.setup import Setup
from flanlab.evaluation.sharding import team_in
from flanlab.evaluation.stage import predict_tasks
from flanlab.results.grids import Prediction
from flanlab.results.predictions import PREDICTIONS
from flanlab.results.schema import Results, RowSource, Variant
from flanlab.tasks.holdout import ON_ITS_ROWS
from flanlab.tasks.schema import Split, Task


def plan_tasks(tasks: Sequence[Task], settings: EvaluationSettings, seed: int, rows: RowReader) -> list[PlannedTask]:
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
            rows.read(subtask.exemplar_source, "train") if any(settings.shot_counts) else None,
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
                rows.read(task.exemplar_source, "train")
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


def plan_dev_tasks(
    planned: Sequence[PlannedTask], settings: EvaluationSettings, seed: int, rows: RowReader
) -> list[PlannedTask]:
    """The dev rows that templates are chosen by, where the settings ask for that; of tasks that have a dev split.

    Raises:
        MissingDataError: rows cannot be reached.
    """
    if not settings.choose_template:
        return []
    return [
        plan_task(one.task, rows.read(one.task, "dev"), dev_settings(settings), seed, one.exemplars)
        for one in planned
        if one.task.has_split("dev")
    ]


def evaluate(setup: Setup, planned: Sequence[PlannedTask], dev: Sequence[PlannedTask], folder: Path) -> None:
    """Predict every task into `folder/predictions/<variant>/<task>`, dev rows first; what is there already is kept.

    Of several processes, all must call this: each does its share, and returns when everything is there.
    """
    setup.model.encoder.chat_template_args = setup.settings.chat_template_args
    title = setup.title[:1].upper() + setup.title[1:]
    for where, stage_setup, stage_tasks in stages_of(setup, planned, dev):
        if stage_tasks:
            stage_title = f"{title}, dev" if where == DEV_FOLDER else title
            predict_tasks(stage_setup, stage_tasks, folder / where / setup.name, team_in(folder), stage_title)


def score_tasks(
    planned: Sequence[PlannedTask],
    settings: EvaluationSettings,
    variants: Mapping[str, Variant],
    folder: Path,
    *,
    seen: Mapping[str, str] | None = None,
    kept: Kept | None = None,
    **facts: Any,
) -> Results:
    """Results of the predictions in `folder/predictions/<variant>/<task>`.

    Args:
        planned: what was asked.
        settings: with which; only `split`, `choose_template` and whether `templates_per_row` is adaptive decide anything here.
        variants: what is known of each variant.
        folder: of the run or the evaluation.
        seen: task to the reason why its scores are not zero-shot: in-domain, if train rows trained and others are asked.
        kept: what stays of an earlier evaluation; its variants are among `variants`.
        **facts: `before` and `after` of `build_results`, and the other fields of `Results`.

    Raises:
        FlanlabError: predictions are missing or damaged.
    """
    scored = []
    for one in planned:
        task = one.task

        def read(where: str, names: Iterable[str], task: str = task.name) -> dict[str, list[Prediction]]:
            return {name: read_counted(folder / where / name / task, variants[name].end_token) for name in names}

        asked = [name for name, variant in variants.items() if variant.style != "baseline" and task.has_split("dev")]
        scored.append(
            score_task(
                task,
                read(PREDICTIONS, variants),
                dev=read(DEV_FOLDER, asked) if settings.choose_template else None,
                source=_source(task, settings.split),
                hashes=one.hashes,
                seen=(why := (seen or {}).get(task.name)),
                in_domain=why == ON_ITS_ROWS and settings.split != "train",
                over_wordings=settings.templates_per_row == "adaptive",
            )
        )
    if kept is not None:
        scored = [*(kept.with_best(one) for one in scored), *kept.tasks]
    return build_results(scored, variants, **facts)


def _source(task: Task, split: Split) -> RowSource | None:
    """Where on the Hub the rows come from, so that published figures for just these can be put beside ours."""
    sources = list(task.sources.values())
    if len(sources) != 1 or sources[0].hub is None:
        return None
    return RowSource(hub=sources[0].hub, config=sources[0].config, split=sources[0].split_spec(split))
