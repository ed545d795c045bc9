"""What an earlier evaluation left in a folder and is not asked for now: it stays in the results where it still fits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from flanlab.data.reader import RowReader
from flanlab.errors import FlanlabError
from flanlab.evaluation.best_template import stages_of
from flanlab.evaluation.planning import EvaluationSettings, PlannedTask
from flanlab.evaluation.predict import shards_of
from flanlab.evaluation.scores import ScoredTask, score_predictions
from flanlab.evaluation.setup import Setup
from flanlab.evaluation.sides import Side
from flanlab.results.files import read_results
from flanlab.results.schema import BEST_ON_DEV, BestTemplate, Results, Score, Variant
from flanlab.settings import METRICS, QUESTIONS, SAMPLE, fields_affecting
from flanlab.settings import PREDICTIONS as PREDICTIONS_DEPEND_ON

_ALIKE = [name for name in fields_affecting(EvaluationSettings, QUESTIONS, SAMPLE, METRICS) if name != "options"]
"""Variants of one evaluation differ in the prompt's form and in how options are shown, and in nothing else."""
_SAME = fields_affecting(EvaluationSettings, *PREDICTIONS_DEPEND_ON)


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
    settings = setup.settings.model_dump(mode="json")
    facts = [("seed", variant.seed, setup.seed), *((name, variant.settings.get(name), settings[name]) for name in fields)]
    return ", ".join(f"{name} was {old}, now {new}" for name, old, new in facts if old != new)


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
