"""What an earlier evaluation left in a folder and is not asked for now: it stays in the results where it still fits them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from flanlab.errors import FlanlabError
from flanlab.evaluation.best_template import DEV_FOLDER, dev_settings
from flanlab.evaluation.metrics.declared import metrics_for
from flanlab.evaluation.planning import EvaluationSettings, EvaluationUnit
from flanlab.evaluation.predict import shards_of
from flanlab.evaluation.scores import ScoredTask, score_predictions
from flanlab.evaluation.setup import Setup
from flanlab.results.files import RESULTS_FILE, read_results
from flanlab.results.predictions import PREDICTIONS, read_records
from flanlab.results.schema import BEST_ON_DEV, BestTemplate, Hashes, Results, Score, Variant
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
        return replace(task, facts=task.facts.model_copy(update={"best_on_dev": chosen}), scores=[*task.scores, *scores])


def keep_earlier(
    folder: Path, setups: Sequence[Setup], units: Sequence[EvaluationUnit], dev_units: Sequence[EvaluationUnit]
) -> Kept:
    """Find which variants and tasks of the folder's results can stay beside those that were evaluated now.

    Results are a full table, every task by every variant. So an earlier variant stays if all tasks of now have its
    predictions, and an earlier task stays if all variants have its predictions.

    Args:
        folder: of the evaluation; its predictions of `setups` and `units` are complete.
        setups: the variants asked now.
        units: the tasks asked now.
        dev_units: their dev rows, where templates are chosen.
    """
    kept = Kept()
    if not (folder / RESULTS_FILE).exists():
        return kept
    try:
        old = read_results(folder)
    except FlanlabError:
        return kept  # of an earlier version, or damaged: it is written again
    now = {setup.name: setup for setup in setups}
    for name, variant in old.variants.items():
        if name in now:
            continue
        if why := _differs(variant, setups[0], _ALIKE) or _missing(variant, name, setups[0], units, dev_units, folder):
            kept.dropped[name] = why
        else:
            kept.variants[name] = variant
    asked_alike = [_differs(old.variants[one], setup, _SAME) for one, setup in now.items() if one in old.variants]
    new = [one for one in now if one not in old.variants]
    why = next(filter(None, asked_alike), "") or (f"not asked as {', '.join(new)}" if new else "")
    hashes = {unit.task.name: Hashes(task=unit.task.hash, rows=unit.rows.source_hash) for unit in units}
    for name, facts in old.tasks.items():
        if name in hashes:
            if facts.best_on_dev and not (why or dev_units) and facts.hashes == hashes[name]:
                kept.best_on_dev[name] = facts.best_on_dev, _best_scores(old, name)
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
    units: Sequence[EvaluationUnit],
    dev_units: Sequence[EvaluationUnit],
    folder: Path,
) -> str:
    """What an earlier variant has no predictions of; empty where it has all."""
    settings = EvaluationSettings.model_validate(variant.settings)
    setup = Setup(like.model, settings, variant.seed, variant.style, name, variant.title)  # type: ignore[arg-type]
    stages = [(PREDICTIONS, setup, units)]
    if variant.style != "baseline":
        stages.append((DEV_FOLDER, setup.with_settings(dev_settings(settings)), dev_units))
    missing = {
        unit.task.name
        for where, one, asked in stages
        for unit in asked
        if not all(shard.is_done for shard in shards_of(one, unit, folder / where / name / unit.task.name))
    }
    return f"not asked about {', '.join(sorted(missing))}" if missing else ""


def _scored(name: str, old: Results, variants: Sequence[str], folder: Path) -> ScoredTask | None:
    """An earlier task, scored again from its predictions; None where they are not those of its results."""
    facts = old.tasks[name]
    try:
        predictions: Mapping[str, list[dict[str, object]]] = {
            variant: read_records(folder / PREDICTIONS / variant / name) for variant in variants
        }
    except FlanlabError:
        return None
    first = next(iter(predictions.values()))
    end_token = bool(old.variants[variants[0]].settings.get("end_token", True))
    metrics = metrics_for(facts.declared_metrics, first, end_token=end_token)
    scores, grids, estimates = score_predictions(name, facts.clusters[0], metrics, predictions)
    before = old.main_scores(name)
    if metrics[0].name != facts.main_metric or any(
        abs(before[one].mean - estimates[facts.main_metric][one].mean) > 1e-9 for one in variants
    ):
        return None
    return ScoredTask(name, facts, scores + _best_scores(old, name), grids, estimates)


def _best_scores(old: Results, name: str) -> list[Score]:
    return [score for score in old.scores if (score.level, score.name, score.template) == ("task", name, BEST_ON_DEV)]
