"""From predictions on disk to results: the one way for runs, evaluations, cells of ablations and comparisons."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flanlab import __version__
from flanlab.data.wordings_by_rule import Wording
from flanlab.evaluation.best_template import best_on_dev
from flanlab.evaluation.metrics.declared import levels, metrics_for, signatures
from flanlab.evaluation.metrics.options import margin, with_counted_scores
from flanlab.evaluation.planning import ZERO_ONE_METRICS
from flanlab.results import statistics
from flanlab.results.files import read_predictions
from flanlab.results.grids import Metric, Prediction, ScoreGrid, groups_of, mean_metric, score_grid
from flanlab.results.intervals import Floats
from flanlab.results.item_response import quantiles_over_wordings
from flanlab.results.schema import (
    BEST_ON_DEV,
    MAIN_METRIC,
    QUANTILES,
    Difference,
    Level,
    MetricFacts,
    Results,
    Score,
    TaskFacts,
    Variant,
)
from flanlab.tasks.schema import Task

_NOT_ASKED = {
    "name",
    "cluster",
    "description",
    "published_rows",
    "licence",
    "citation",
    "provenance",
    "derived_from",
    "metrics",
}
"""What of a task's file shapes no question and no answer."""
Grids = Mapping[str, Mapping[str, Sequence[ScoreGrid]]]
"""Metric to variant to its grids, one for each training seed."""
Estimates = Mapping[str, Mapping[str, statistics.Estimate]]
"""Metric to variant to its score."""
Differences = Mapping[str, Mapping[str, statistics.Difference]]
"""Metric to each variant before to `after` minus it."""


class Answers(NamedTuple):
    """A variant's answers to a task, as `quantiles_over_wordings` takes them."""

    scores: Floats
    shown: Floats
    labels: NDArray[np.int_]
    margins: Floats | None


@dataclass(frozen=True)
class ScoredTask:
    """A task's facts, scores, and the grids that differences are computed from."""

    name: str
    facts: TaskFacts
    scores: Sequence[Score]
    grids: Grids
    estimates: Estimates

    def with_scores(self, scores: Iterable[Score]) -> ScoredTask:
        """The same with further scores."""
        return replace(self, scores=[*self.scores, *scores])


@dataclass(frozen=True)
class _Member:
    """A task, or a mean, that takes part in a mean."""

    place: Mapping[str, Any]
    """The columns that say what it is."""
    estimates: Estimates
    differences: Differences
    rows: int
    seen: Mapping[str, bool | None]
    members: int = 1
    main_metric: str = MAIN_METRIC

    @property
    def whole(self) -> str:
        """The task, without its subtask, or the cluster."""
        return str(self.place.get("task") or self.place["cluster"])

    def with_main(self) -> _Member:
        """The same, with its main metric under the name MAIN_METRIC too."""
        differences = {**self.differences, MAIN_METRIC: self.differences[self.main_metric]} if self.differences else {}
        estimates = {**self.estimates, MAIN_METRIC: self.estimates[self.main_metric]}
        return replace(self, estimates=estimates, differences=differences)


def read_counted(folder: Path, end_token: bool) -> list[Prediction]:
    """A task's saved predictions, with the scores that metrics judge by.

    Args:
        folder: of the predictions.
        end_token: the setting that they were made with.

    Raises:
        FlanlabError: none are there, or a file is damaged.
    """
    return with_counted_scores(read_predictions(folder).to_pylist(), end_token)


def score_task(
    task: Task,
    predictions: Mapping[str, Sequence[Prediction]],
    *,
    dev: Mapping[str, Sequence[Prediction]] | None = None,
    over_wordings: bool = False,
    **facts: Any,
) -> ScoredTask:
    """Score one task under several variants (a model asked in one way each).

    Args:
        task: the task evaluated.
        predictions: of each variant, for this task.
        dev: predictions of dev rows, by which each variant's best template is chosen; empty where there are no dev rows.
        over_wordings: estimate quantiles over templates too, where each row was shown through a few.
        **facts: of `TaskFacts` what task and predictions do not say: `source`, `hashes`, `seen`, `in_domain`.
    """
    first = next(iter(predictions.values()))
    metrics = metrics_for(task.metrics, first)
    by_level = levels(task.metrics, [metric.name for metric in metrics], first)
    # Where nothing could be ranked, generated answers are held against the same levels.
    blindly = by_level.get("accuracy") or by_level.get("exact_match", {})
    best = {variant: best_on_dev(task, tried, predictions[variant]) for variant, tried in (dev or {}).items()}
    signed = signatures(task.metrics, first)
    known = TaskFacts(
        clusters=[cluster.value for cluster in task.clusters],
        description=task.description,
        rows=_rows(first),
        groups=len(groups_of(first)) if task.group is not None else None,
        templates=sorted({prediction["template"] for prediction in first}),
        wordings={str(number): one.name for number, one in enumerate(task.templates, 1) if isinstance(one, Wording)},
        shortened=sum(prediction["shortened"] for prediction in first),
        main_metric=metrics[0].name,
        declared_metrics=list(task.metrics),
        metrics={
            metric.name: MetricFacts(
                title=metric.title,
                definition=metric.definition,
                signature=signed.get("rouge" if metric.name.startswith("rouge") else metric.name),
                **by_level.get(metric.name, {}),
            )
            for metric in metrics
        },
        chance=blindly["chance"] if task.is_classification else None,
        majority=blindly["majority"] if task.is_classification else None,
        content=task.model_dump(mode="json", exclude_defaults=True, exclude=_NOT_ASKED),
        best_on_dev=None if dev is None else {variant: found for variant, (found, _) in best.items()},
        **facts,
    )
    place = _place_of(task.name, known.clusters[0])
    further = [
        Score(
            **place,
            metric=found.metric,
            variant=variant,
            template=BEST_ON_DEV,
            rows=_rows(predictions[variant]),
            **_numbers(statistics.estimate(grid)),
        )
        for variant, (found, grid) in best.items()
    ]
    if over_wordings:
        metric = next(metric for metric in metrics if metric.name in ZERO_ONE_METRICS)
        for variant, rows in predictions.items():
            column = {**place, "metric": metric.name, "variant": variant, "rows": _rows(rows)}
            further += _quantile_scores(answers_of(metric, rows), column)
    return score_predictions(task.name, known, predictions).with_scores(further)


def answers_of(metric: Metric, predictions: Sequence[Prediction]) -> Answers:
    """The predictions of one variant by template and row, to estimate how its score is distributed over wordings.

    Args:
        metric: one of ZERO_ONE_METRICS.
        predictions: of one variant and task.
    """
    # Row by row: rows of a group have labels of their own.
    alone = [{**prediction, "group": None} for prediction in predictions]
    grid = score_grid(metric, alone)
    label_of = {prediction["row"]: prediction["answer"] or 0 for prediction in alone}
    margins = None
    if metric.name == "accuracy":
        margins = score_grid(mean_metric("margin", "margin", "", margin), alone).statistics[..., 0]
    return Answers(grid.statistics[..., 0], grid.shown, np.array([label_of[row] for row in grid.units]), margins)


def _quantile_scores(answers: Answers, place: Mapping[str, Any]) -> list[Score]:
    """Estimated quantiles over templates; none where there is one template."""
    scores, shown, labels, margins = answers
    if len(scores) == 1:
        return []
    found = quantiles_over_wordings(scores, shown, labels.tolist(), list(QUANTILES.values()), margins)
    return [
        Score(**place, template=name, mean=one.value, low=one.low, high=one.high)
        for name, one in zip(QUANTILES, found, strict=True)
    ]


def score_predictions(
    name: str,
    facts: TaskFacts,
    predictions: Mapping[str, Sequence[Prediction]],
    more: Mapping[str, Sequence[Sequence[Prediction]]] | None = None,
) -> ScoredTask:
    """Scores of several variants on the same questions, by template and over templates.

    Args:
        name: of the task.
        facts: of the task; of its metrics, those are computed that the predictions allow.
        predictions: of each variant.
        more: of a variant whose model was trained with several seeds, the predictions of the other models. Its scores are means
            over all of them.
    """
    metrics = metrics_for(facts.declared_metrics, next(iter(predictions.values())))
    trained = {variant: [rows, *(more or {}).get(variant, ())] for variant, rows in predictions.items()}
    grids = {
        metric.name: {variant: [score_grid(metric, rows) for rows in models] for variant, models in trained.items()}
        for metric in metrics
        if metric.name in facts.metrics
    }
    estimates = {
        metric: {variant: statistics.estimate(models) for variant, models in by_variant.items()}
        for metric, by_variant in grids.items()
    }
    counts = {variant: Counter(one["template"] for one in rows) for variant, rows in predictions.items()}
    scores = []
    for metric, by_variant in grids.items():
        for variant, models in by_variant.items():
            place = {**_place_of(name, facts.clusters[0]), "metric": metric, "variant": variant}
            by_template = np.mean([grid.by_template() for grid in models], axis=0)
            numbers = {**_numbers(estimates[metric][variant]), **_spread(models[0], by_template)}
            scores.append(Score(**place, rows=_rows(predictions[variant]), **numbers))
            scores += [
                Score(**place, template=str(template), mean=float(score), rows=counts[variant][template])
                for template, score in zip(models[0].templates, by_template, strict=True)
            ]
    return ScoredTask(name, facts, scores, grids, estimates)


def build_results(
    scored: Sequence[ScoredTask],
    variants: Mapping[str, Variant],
    *,
    before: Sequence[str] = (),
    after: str = "",
    seen_by: Mapping[str, Collection[str]] | None = None,
    margin: float | None = None,
    **facts: Any,
) -> Results:
    """Results of some scored tasks: their scores, the means over them, and what `after` differs by.

    Means are over the zero-shot tasks; in-domain ones have a mean of their own. If there are no others, they are the tasks that
    all means are over. Every mean is of the metrics that all its members have. The subtasks of a task count as one task
    together: their mean.
    Tasks count equally, and so do clusters; a task counts in its home cluster, the first one it names. Means over a cluster and
    over clusters have the metric MAIN_METRIC too, whatever each task's main metric is, as the paper's averages of clusters do.

    Args:
        scored: the tasks.
        variants: what is known of each variant.
        before: variants of the untuned model; `after` is compared with the better of them, metric by metric, so that no
            improvement is owed to a prompt style that the untuned model does badly with. None: nothing is compared.
        after: the variant compared with them.
        seen_by: variant to the tasks that its model has seen; of a stamped model those whose facts say so, where not given.
        margin: how far apart two scores may be and still count as the same; None: not tested.
        **facts: the other fields of `Results`.
    """
    if seen_by is None:
        seen = [task.name for task in scored if task.facts.seen]
        seen_by = dict.fromkeys(variants, seen)
    members = {task.name: _member(task, variants, seen_by, before, after) for task in scored}
    trained = [members[task.name] for task in scored if task.facts.in_domain]
    main = [members[task.name] for task in scored if not task.facts.in_domain] or trained
    clusters = sorted({str(one.place["cluster"]) for one in main})
    by_cluster = [
        _mean_over("cluster", cluster, [one.with_main() for one in main if one.place["cluster"] == cluster])
        for cluster in clusters
    ]
    means = [_mean_over("tasks", None, main), *by_cluster, _mean_over("clusters", None, by_cluster)]
    if trained and len(trained) < len(members):
        means.append(_mean_over("in_domain", None, [one.with_main() for one in trained]))
    scores = [
        score.model_copy(update={"seen": members[task.name].seen[score.variant]}) for task in scored for score in task.scores
    ]
    scores += [score for mean in means for score in _mean_scores(mean)]
    return Results(
        flanlab=__version__,
        variants=dict(variants),
        tasks={task.name: task.facts for task in scored},
        scores=scores,
        differences=[row for one in [*members.values(), *means] for row in _differences(one, after, margin)],
        **facts,
    )


def _place_of(name: str, cluster: str) -> dict[str, Any]:
    """The columns by which a task's rows are found."""
    task, _, subtask = name.partition(".")
    return {"level": "task", "task": task, "subtask": subtask or None, "cluster": cluster}


def _member(
    task: ScoredTask,
    variants: Mapping[str, Variant],
    seen_by: Mapping[str, Collection[str]],
    before: Sequence[str],
    after: str,
) -> _Member:
    differences = {
        metric: {name: statistics.difference(by_variant[name], by_variant[after]) for name in before}
        for metric, by_variant in task.grids.items()
        if before
    }
    seen = {name: task.name in seen_by[name] if facts.stamped else None for name, facts in variants.items()}
    place = _place_of(task.name, task.facts.clusters[0])
    return _Member(place, task.estimates, differences, task.facts.rows, seen, main_metric=task.facts.main_metric)


def _mean_over(level: Level, cluster: str | None, members: Sequence[_Member]) -> _Member:
    """The mean of every metric that all members have; the subtasks of a task count as one."""
    weights = statistics.task_weights([one.whole for one in members])

    def mean(of: Callable[..., Any], tables: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
        shared = [metric for metric in tables[0] if all(metric in one for one in tables)]
        return {
            metric: {variant: of([one[metric][variant] for one in tables], weights) for variant in tables[0][metric]}
            for metric in shared
        }

    return _Member(
        {"level": level, "cluster": cluster},
        mean(statistics.mean_of, [one.estimates for one in members]),
        mean(statistics.mean_difference, [one.differences for one in members]),
        sum(one.rows for one in members),
        {variant: _any(one.seen[variant] for one in members) for variant in members[0].seen},
        len({one.whole for one in members}),
    )


def _any(marks: Iterable[bool | None]) -> bool | None:
    """Whether some member was seen; None where it is not known of any."""
    found = [mark for mark in marks if mark is not None]
    return any(found) if found else None


def _mean_scores(mean: _Member) -> list[Score]:
    place = {**mean.place, "rows": mean.rows, "members": mean.members}
    return [
        Score(**place, metric=metric, variant=variant, seen=mean.seen[variant], **_numbers(found))
        for metric, by_variant in mean.estimates.items()
        for variant, found in by_variant.items()
    ]


def _differences(of: _Member, after: str, margin: float | None) -> list[Difference]:
    """A row for each metric: `after` minus the better of the variants before, paired over rows and templates."""
    rows = []
    for metric, by_variant in of.differences.items():
        best = max(by_variant, key=lambda name: of.estimates[metric][name].mean)
        found = by_variant[best]
        rows.append(
            Difference(
                **of.place,
                metric=metric,
                before=best,
                after=after,
                difference=found.difference,
                p_value=1.0 if math.isnan(found.p_value) else found.p_value,
                wins=found.wins,
                losses=found.losses,
                ties=found.ties,
                detectable=_known(found.detectable),
                margin=margin,
                p_equivalence=None if margin is None else _known(found.equivalence(margin)),
                **_uncertainty(found),
            )
        )
    return rows


def _numbers(found: statistics.Estimate) -> dict[str, Any]:
    numbers = {"mean": found.mean, **_uncertainty(found)}
    if found.parts:
        whole = sum(found.parts.values())
        numbers |= {f"{of}_share": part / whole if whole else 0.0 for of, part in found.parts.items()} | {"seeds": found.seeds}
    return numbers


def _uncertainty(found: statistics.Uncertain) -> dict[str, Any]:
    """Interval and standard error; where they cannot be estimated, the ends of everything that could be, and None."""
    low, high = found.bounds if math.isnan(found.low) else (found.low, found.high)
    return {"low": low, "high": high, "standard_error": _known(found.standard_error), "note": found.note}


def _known(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _spread(grid: ScoreGrid, scores: Floats) -> dict[str, float]:
    """The spread over templates, where there is one.

    Templates that were asked other rows each, as `templates_per_row` does it, differ by their rows more than by their wording.
    """
    if len(scores) < 2 or not grid.shown.all():
        return {}
    return {"std": float(scores.std()), "min": float(scores.min()), "max": float(scores.max())}


def _rows(predictions: Sequence[Prediction]) -> int:
    return len({prediction["row"] for prediction in predictions})
