"""Two models compared on the questions that both were asked: predictions of two folders, paired by row and template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flanlab.data.rendering import BASELINE
from flanlab.errors import FlanlabError
from flanlab.evaluation.metrics.declared import metrics_for
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.evaluation.scores import ScoredTask, build_results, score_predictions
from flanlab.evaluation.sides import Side
from flanlab.results.grids import Prediction
from flanlab.results.schema import IN_DOMAIN, Difference, MetricFacts, Results, TaskFacts, Variant
from flanlab.results.statistics import holm
from flanlab.settings import PROMPT, QUESTIONS, fields_affecting

SIDES = ("a", "b")
_OF_BOTH = ("clusters", "description", "declared_metrics", "chance", "majority", "source", "hashes")
"""Facts of a task that two sides share."""


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
        name: side.variant.model_copy(
            update={"folder": str(side.folder), "variant": side.name, "run": side.results.name, "title": title}
        )
        for (name, side), title in zip(sides.items(), _titles(first.variant, second.variant), strict=True)
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
    of_a, of_b = ({metric.name: metric for metric in metrics_for(facts.declared_metrics, kept[side])} for side in SIDES)
    metrics = {name: MetricFacts(title=one.title, definition=one.definition) for name, one in of_a.items() if name in of_b}
    if not metrics:
        raise FlanlabError(
            f"{name}: no metric can be computed from both.", hint="Evaluate one of them again with other settings."
        )
    both = [prediction for side in kept.values() for prediction in side]
    found = TaskFacts(
        **{field: getattr(facts, field) for field in _OF_BOTH},
        rows=len({prediction["row"] for prediction in both}),
        templates=sorted({prediction["template"] for prediction in both}),
        main_metric=next(iter(metrics)),
        metrics=metrics,
        seen=first.seen(name) or second.seen(name),
        in_domain={IN_DOMAIN} == {mark for side in (first, second) if (mark := side.mark(name))},
        **changes,
    )
    return score_predictions(name, found, kept, more)


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
    """Refuse to pair what was not asked the same. One model may be asked in two ways: then the difference is of these."""
    common = [name for name in first.results.tasks if name in second.results.tasks]
    if not common:
        raise FlanlabError(
            f"{first.folder} and {second.folder} have no task in common.",
            hint="Evaluate both on the same tasks.",
        )
    ours, theirs = first.variant, second.variant
    alike = ["split"] if is_one_model(ours, theirs) else fields_affecting(EvaluationSettings, QUESTIONS)
    differences = unlike(ours, theirs, alike)
    for name in common:
        differences += _other_rows(name, first.results.tasks[name], second.results.tasks[name])
    if differences:
        raise FlanlabError(
            f"{first.folder} (A) and {second.folder} (B) were not asked the same:\n"
            + "\n".join(f"  {difference}" for difference in differences),
            hint="Evaluate both with the same tasks, rows, seed and settings. To study a setting, compare two evaluations of"
            " one model, or two variants of one evaluation (`flan eval --options shuffled,none`)."
            + (
                " Or compare the wordings: `flan compare --templates`." if "the task's file differs" in str(differences) else ""
            ),
        )


def asked_differently(ours: Variant, theirs: Variant, settings: Iterable[str]) -> dict[str, tuple[Any, Any]]:
    """What of the seed and these settings differs between two variants: name to both values."""
    both = {"seed": (ours.seed, theirs.seed)} | {
        name: (ours.settings.get(name), theirs.settings.get(name)) for name in settings
    }
    return {name: values for name, values in both.items() if values[0] != values[1]}


def unlike(ours: Variant, theirs: Variant, settings: Iterable[str]) -> list[str]:
    """`asked_differently` in words."""
    return [f"{name}: {left} in A, {right} in B" for name, (left, right) in asked_differently(ours, theirs, settings).items()]


def ways_of_asking(ours: Variant, theirs: Variant) -> dict[str, tuple[Any, Any]]:
    """The prompt style and the settings in which two variants were asked differently: name to both values."""
    found = {"the prompt style": (ours.style, theirs.style)} if ours.style != theirs.style else {}
    settings = asked_differently(ours, theirs, fields_affecting(EvaluationSettings, QUESTIONS, PROMPT))
    return found | {name.replace("_", " "): values for name, values in settings.items()}


def is_one_model(ours: Variant, theirs: Variant) -> bool:
    """Whether two variants are known to be of the same model."""
    return ours.identity is not None and ours.identity == theirs.identity


def _titles(*sides: Variant) -> list[str]:
    """Titles of the two sides; where these are the same, with the values of the settings that differ."""
    titles = [side.title for side in sides]
    if titles[0] == titles[1]:
        for name, values in ways_of_asking(*sides).items():
            titles = [f"{title}, {name} {value}" for title, value in zip(titles, values, strict=True)]
    return titles


def _other_rows(name: str, first: TaskFacts, second: TaskFacts) -> list[str]:
    if first.hashes is None or second.hashes is None:
        return [f"{name}: the hashes of task and rows are not known of both"]
    told = []
    if first.hashes.task != second.hashes.task:
        told.append(f"{name}: the task's file differs (hash {first.hashes.task} in A, {second.hashes.task} in B)")
    if first.hashes.rows != second.hashes.rows:
        told.append(f"{name}: the rows come from other content (hash {first.hashes.rows} in A, {second.hashes.rows} in B)")
    return told
