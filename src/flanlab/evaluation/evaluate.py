"""A whole evaluation: which questions some tasks are asked, their predictions, and the results of these.

What an earlier evaluation left in the folder and is not asked for now stays in the results where it still fits them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flanlab.data.mirror import MissingDataError
from flanlab.data.reader import RowReader
from flanlab.data.sources import NoRowsError
from flanlab.errors import FlanlabError
from flanlab.evaluation.best_template import DEV_FOLDER, dev_settings, stages_of
from flanlab.evaluation.comparison import asked_differently
from flanlab.evaluation.planning import EvaluationSettings, PlannedTask, Setup, plan_task
from flanlab.evaluation.predict import predict_tasks, shards_of
from flanlab.evaluation.scores import ScoredTask, build_results, read_counted, score_predictions, score_task
from flanlab.evaluation.sides import Side
from flanlab.results.files import PREDICTIONS, read_results
from flanlab.results.grids import Prediction
from flanlab.results.schema import BEST_ON_DEV, BestTemplate, Results, RowSource, Score, Variant
from flanlab.settings import METRICS, QUESTIONS, SAMPLE, fields_affecting
from flanlab.settings import PREDICTIONS as PREDICTIONS_DEPEND_ON
from flanlab.tasks.holdout import ON_ITS_ROWS
from flanlab.tasks.schema import Split, Task

_ALIKE = [name for name in fields_affecting(EvaluationSettings, QUESTIONS, SAMPLE, METRICS) if name != "options"]
"""Variants of one evaluation differ in the prompt's form and in how options are shown, and in nothing else."""
_SAME = fields_affecting(EvaluationSettings, *PREDICTIONS_DEPEND_ON)


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
            predict_tasks(stage_setup, stage_tasks, folder / where / setup.name, stage_title)


@dataclass
class Kept:
    """What stays, and why the rest does not."""

    variants: dict[str, Variant] = field(default_factory=dict)
    tasks: list[ScoredTask] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    best_on_dev: dict[str, tuple[dict[str, BestTemplate], list[Score]]] = field(default_factory=dict)
    """Task of now, where templates were chosen earlier and are not now, to what was chosen and its scores."""
    dropped: dict[str, str] = field(default_factory=dict)
    """Variant or task to the reason."""

    def with_best(self, task: ScoredTask) -> ScoredTask:
        """A task of now with the templates that were chosen earlier, where there are any."""
        if task.name not in self.best_on_dev:
            return task
        chosen, scores = self.best_on_dev[task.name]
        return replace(task, facts=task.facts.model_copy(update={"best_on_dev": chosen})).with_scores(scores)


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


def keep_earlier(
    folder: Path, setups: Sequence[Setup], planned: Sequence[PlannedTask], dev: Sequence[PlannedTask], rows: RowReader
) -> Kept:
    """Find which variants and tasks of the folder's results can stay beside those that were evaluated now.

    Results are a full table, every task by every variant. So an earlier variant stays if all tasks of now have its
    predictions, and an earlier task stays if all variants have its predictions.

    Args:
        folder: of the evaluation; its predictions of `setups` and `planned` are complete.
        setups: the variants asked now.
        planned: the tasks asked now.
        dev: their dev rows, where templates are chosen.
        rows: where the exemplars of earlier variants come from.
    """
    kept = Kept()
    try:
        old = read_results(folder)
    except FlanlabError:
        return kept  # none, of an earlier version, or damaged: it is written again
    now = {setup.name: setup for setup in setups}
    for name, variant in old.variants.items():
        if name in now:
            continue
        if why := _differs(variant, setups[0], _ALIKE) or _missing(variant, name, setups[0], planned, dev, folder, rows):
            kept.dropped[name] = why
        else:
            kept.variants[name] = variant
    asked_alike = [_differs(old.variants[one], setup, _SAME) for one, setup in now.items() if one in old.variants]
    new = [one for one in now if one not in old.variants]
    why = next(filter(None, asked_alike), "") or (f"not asked as {', '.join(new)}" if new else "")
    hashes = {one.task.name: one.hashes for one in planned}
    for name, facts in old.tasks.items():
        if name in hashes:
            if facts.best_on_dev and not (why or dev) and facts.hashes == hashes[name]:
                kept.best_on_dev[name] = facts.best_on_dev, [*old.main_scores(name, BEST_ON_DEV).values()]
            continue
        scored = None if why else _scored(name, old, [*now, *kept.variants], folder)
        if scored is None:
            kept.dropped[name] = why or "its predictions have changed since"
        else:
            kept.tasks.append(scored)
    kept.notes = [note for note in old.notes if kept.tasks or kept.variants]
    return kept


def _differs(variant: Variant, setup: Setup, fields: Sequence[str]) -> str:
    """In what a variant was asked otherwise than now; empty where in nothing."""
    if variant.identity != setup.model.identity:
        return "of another model"
    differing = asked_differently(variant, setup.variant(), fields)
    return ", ".join(f"{name} was {old}, now {new}" for name, (old, new) in differing.items())


def _missing(
    variant: Variant,
    name: str,
    like: Setup,
    planned: Sequence[PlannedTask],
    dev: Sequence[PlannedTask],
    folder: Path,
    rows: RowReader,
) -> str:
    """What an earlier variant has no predictions of; empty where it has all."""
    settings = EvaluationSettings.model_validate(variant.settings)
    if settings.shot_count:
        try:
            planned, dev = (
                [replace(one, exemplars=rows.read(one.task.exemplar_source, "train")) for one in asked]
                for asked in (planned, dev)
            )
        except FlanlabError:
            return "the train rows of its exemplars are not available"
    setup = Setup(like.model, settings, variant.seed, variant.style, name, variant.title)  # type: ignore[arg-type]
    missing = {
        own.task.name
        for where, one, asked in stages_of(setup, planned, dev)
        for own in asked
        if not all(shard.is_done for shard in shards_of(one, own, folder / where / name / own.task.name))
    }
    return f"not asked about {', '.join(sorted(missing))}" if missing else ""


def _scored(name: str, old: Results, variants: Sequence[str], folder: Path) -> ScoredTask | None:
    """An earlier task, scored again from its predictions; None where they are not those of its results."""
    facts = old.tasks[name]
    try:
        predictions = {variant: Side(folder, variant, old).predictions(name) for variant in variants}
    except FlanlabError:
        return None
    scored = score_predictions(name, facts, predictions)
    before, now = old.main_scores(name), scored.estimates.get(facts.main_metric)
    if now is None or any(abs(before[one].mean - now[one].mean) > 1e-9 for one in variants):
        return None
    return scored.with_scores(old.main_scores(name, BEST_ON_DEV).values())
