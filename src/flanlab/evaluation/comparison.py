"""Two models compared on the questions that both were asked: predictions of two folders, paired by row and template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flanlab.data.rendering import BASELINE
from flanlab.errors import FlanlabError
from flanlab.evaluation.metrics.declared import metrics_for
from flanlab.evaluation.metrics.metric import Prediction
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.evaluation.scores import ScoredTask, build_results, score_predictions
from flanlab.evaluation.seeds import seed_folders
from flanlab.results.files import read_results
from flanlab.results.predictions import PREDICTIONS, read_records
from flanlab.results.schema import Difference, MetricFacts, Results, TaskFacts, Variant
from flanlab.results.statistics import holm
from flanlab.settings import QUESTIONS, fields_affecting

SIDES = ("a", "b")


@dataclass(frozen=True)
class Side:
    """One of the two: a variant of a run or an evaluation."""

    folder: Path
    name: str
    """Of the variant."""
    results: Results
    others: Sequence[Path] = ()
    """Folders of the further trainings with other seeds."""

    @property
    def variant(self) -> Variant:
        """What is known of it."""
        return self.results.variants[self.name]

    def seen(self, task: str) -> str | None:
        """Why its score on a task is not zero-shot."""
        return self.results.seen(self.name, task)

    def predictions(self, task: str) -> Sequence[Prediction]:
        """Its predictions of a task.

        Raises:
            FlanlabError: they are missing or damaged.
        """
        return read_records(self.folder / PREDICTIONS / self.name / task)

    def others_predictions(self, task: str) -> list[Sequence[Prediction]]:
        """The same of each further training."""
        return [read_records(folder / PREDICTIONS / self.name / task) for folder in self.others]


def open_side(text: str) -> Side:
    """Read what is to be compared: `folder`, or `folder:variant`. Without one, the tuned variant of a run, else the first.

    Raises:
        FlanlabError: results.json is missing, damaged or of another format, or there is no such variant.
    """
    folder, variant = folder_and_variant(text)
    sides = open_sides(folder)
    return one_side(sides, variant or next(iter(sides.values())).results.main_variant)


def folder_and_variant(text: str) -> tuple[Path, str]:
    """`folder` or `folder:variant` taken apart; the variant is empty where none is named."""
    folder, variant = Path(text), ""
    if not folder.exists() and ":" in text:
        start, _, variant = text.rpartition(":")
        folder = Path(start)
    return folder, variant


def open_sides(folder: Path) -> dict[str, Side]:
    """All variants of a folder, by name.

    Raises:
        FlanlabError: results.json is missing, damaged or of another format.
    """
    results = read_results(folder)
    others = seed_folders(folder)
    trained = {variant: [path for path in others if (path / PREDICTIONS / variant).is_dir()] for variant in results.variants}
    return {variant: Side(folder, variant, results, trained[variant]) for variant in results.variants}


def one_side(sides: Mapping[str, Side], variant: str) -> Side:
    """The side of that name, of a folder's.

    Raises:
        FlanlabError: there is no such variant.
    """
    if variant not in sides:
        folder = next(iter(sides.values())).folder
        raise FlanlabError(
            f"{folder}: there is no variant {variant}.", hint=f"Name one of these after a colon: {', '.join(sides)}."
        )
    return sides[variant]


def compare_sides(first: Side, second: Side, *, margin: float | None = None) -> Results:
    """Second minus first, for each task and metric that both have, over the rows and templates that both were asked.

    With `margin`, two one-sided tests say for each whether the two are the same but for less than that (0.02: two points).

    Returns:
        Results with the variants `a` and `b`. Their differences are b minus a; those of each task's main metric are the family
        that Holm's correction is over. `only` names the tasks that just one has.

    Raises:
        FlanlabError: rows, tasks, seeds or settings differ so that the two cannot be paired, or nothing is common.
    """
    check_agreement(first, second)
    common = [name for name in first.results.tasks if name in second.results.tasks]
    only = {
        "a": [name for name in first.results.tasks if name not in common],
        "b": [name for name in second.results.tasks if name not in common],
    }
    return compare_scored([score_pair(name, first, second) for name in common], first, second, margin=margin, only=only)


def compare_scored(scored: Sequence[ScoredTask], first: Side, second: Side, *, margin: float | None, **facts: Any) -> Results:
    """As `compare_sides`, of tasks that are scored already, with the variants `a` and `b`."""
    sides = dict(zip(SIDES, (first, second), strict=True))
    variants = {
        name: side.variant.model_copy(update={"folder": str(side.folder), "variant": side.name, "run": side.results.name})
        for name, side in sides.items()
    }
    results = build_results(
        scored,
        variants,
        before=["a"],
        after="b",
        margin=margin,
        seen_by={side: {task.name for task in scored if one.seen(task.name)} for side, one in sides.items()},
        name=f"{first.results.name} and {second.results.name}",
        **facts,
    )
    return _corrected(results)


def score_pair(name: str, first: Side, second: Side) -> ScoredTask:
    """One task of both sides, scored on the questions that both were asked."""
    ours, theirs = first.predictions(name), second.predictions(name)
    kept, unpaired = paired(name, ours, theirs)
    more = {
        "a": [paired(name, other, theirs)[0]["a"] for other in first.others_predictions(name)],
        "b": [paired(name, ours, other)[0]["b"] for other in second.others_predictions(name)],
    }
    fewest = min((len(others) for others in more.values() if others), default=0)
    return score_kept(name, first, second, kept, {side: others[:fewest] for side, others in more.items()}, unpaired=unpaired)


def score_kept(
    name: str,
    first: Side,
    second: Side,
    kept: Mapping[str, Sequence[Prediction]],
    more: Mapping[str, Sequence[Sequence[Prediction]]] | None = None,
    **changes: Any,
) -> ScoredTask:
    """One task of both sides, scored on predictions that are paired already.

    Args:
        name: of the task.
        first: one side.
        second: the other.
        kept: the paired predictions of each side.
        more: those of further trainings with other seeds.
        **changes: facts of the task.
    """
    facts = first.results.tasks[name]
    end_token = bool(first.variant.settings.get("end_token", True))
    known = {metric.name for metric in metrics_for(facts.declared_metrics, kept["b"], end_token=end_token)}
    metrics = [m for m in metrics_for(facts.declared_metrics, kept["a"], end_token=end_token) if m.name in known]
    if not metrics:
        raise FlanlabError(
            f"{name}: no metric can be computed from both.", hint="Evaluate one of them again with other settings."
        )
    scores, grids, estimates = score_predictions(name, facts.clusters[0], metrics, kept, more)
    both = [prediction for side in kept.values() for prediction in side]
    found = TaskFacts(
        clusters=facts.clusters,
        description=facts.description,
        rows=len({prediction["row"] for prediction in both}),
        templates=sorted({prediction["template"] for prediction in both}),
        main_metric=metrics[0].name,
        declared_metrics=facts.declared_metrics,
        metrics={metric.name: MetricFacts(title=metric.title, definition=metric.definition) for metric in metrics},
        chance=facts.chance,
        majority=facts.majority,
        source=facts.source,
        hashes=facts.hashes,
        seen=first.seen(name) or second.seen(name),
    )
    return ScoredTask(name, found.model_copy(update=changes), scores, grids, estimates)


def paired(
    name: str, first: Sequence[Prediction], second: Sequence[Prediction]
) -> tuple[dict[str, list[Prediction]], dict[str, int]]:
    """The predictions of each side whose question the other was asked too, and how many it has besides.

    A baseline is a single prompt beside the templates' many, so one that is paired with templates is paired by row alone.

    Raises:
        FlanlabError: nothing is common, or what should be the same question has another answer.
    """
    sides = dict(zip(SIDES, (first, second), strict=True))
    baselines = [all(prediction["template"] == BASELINE for prediction in side) for side in sides.values()]
    by_row = baselines[0] != baselines[1]

    def question(prediction: Prediction) -> tuple[int, int]:
        return prediction["row"], BASELINE if by_row else prediction["template"]

    both = {question(prediction) for prediction in first} & {question(prediction) for prediction in second}
    if not both:
        raise FlanlabError(f"{name}: the two were asked no row through the same template.", hint="Evaluate more rows.")
    kept = {side: [one for one in predictions if question(one) in both] for side, predictions in sides.items()}
    # A template may have answers in words of its own, so these can only be the same for the same template.
    same = ("answer", "group") if by_row else ("answer", "group", "options", "references")
    facts = {question(prediction): [prediction[field] for field in same] for prediction in kept["a"]}
    for prediction in kept["b"]:
        if facts[question(prediction)] != [prediction[field] for field in same]:
            raise FlanlabError(
                f"{name}, row {prediction['row']}, template {prediction['template']}: the two were asked different questions.",
                hint="Evaluate both again with the same tasks and rows.",
            )
    return kept, {side: len(sides[side]) - len(kept[side]) for side in SIDES}


def _corrected(results: Results) -> Results:
    """With p-values of the tasks' main metrics corrected as one family."""

    def in_family(row: Difference) -> bool:
        return row.level == "task" and row.metric == results.tasks[str(row.name)].main_metric

    corrected = holm({str(row.name): row.p_value for row in results.differences if in_family(row)})
    rows = [
        row.model_copy(update={"p_holm": corrected[str(row.name)]}) if in_family(row) else row for row in results.differences
    ]
    return Results(**{**dict(results), "differences": rows})


def check_agreement(first: Side, second: Side) -> None:
    """Refuse to pair what was not asked the same."""
    common = [name for name in first.results.tasks if name in second.results.tasks]
    if not common:
        raise FlanlabError(
            f"{first.folder} and {second.folder} have no task in common.",
            hint="Evaluate both on the same tasks.",
        )
    differences = settings_that_differ(first.variant, second.variant)
    for name in common:
        differences += _other_rows(name, first.results.tasks[name], second.results.tasks[name])
    if differences:
        raise FlanlabError(
            f"{first.folder} (A) and {second.folder} (B) were not asked the same:\n"
            + "\n".join(f"  {difference}" for difference in differences),
            hint="Evaluate both with the same tasks, rows, seed and settings."
            + (
                " Or compare the wordings: `flan compare --templates`." if "the task's file differs" in str(differences) else ""
            ),
        )


def settings_that_differ(ours: Variant, theirs: Variant) -> list[str]:
    """In what two variants were asked so differently that their scores are not comparable, in words."""
    differences = [f"seed: {ours.seed} in A, {theirs.seed} in B"] if ours.seed != theirs.seed else []
    for name in fields_affecting(EvaluationSettings, QUESTIONS):
        left, right = ours.settings.get(name), theirs.settings.get(name)
        if left != right:
            differences.append(f"{name}: {left} in A, {right} in B")
    return differences


def _other_rows(name: str, first: TaskFacts, second: TaskFacts) -> list[str]:
    if first.hashes is None or second.hashes is None:
        return [f"{name}: the hashes of task and rows are not known of both"]
    told = []
    if first.hashes.task != second.hashes.task:
        told.append(f"{name}: the task's file differs (hash {first.hashes.task} in A, {second.hashes.task} in B)")
    if first.hashes.rows != second.hashes.rows:
        told.append(f"{name}: the rows come from other content (hash {first.hashes.rows} in A, {second.hashes.rows} in B)")
    return told
