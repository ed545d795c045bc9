"""From predictions on disk to results: the one way for runs, evaluations, cells of ablations and comparisons."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flanlab import __version__
from flanlab.data.wordings_by_rule import Wording
from flanlab.evaluation.best_template import best_on_dev
from flanlab.evaluation.grids import score_grid
from flanlab.evaluation.levels import levels
from flanlab.evaluation.metrics.declared import metrics_for, signatures
from flanlab.evaluation.metrics.metric import Metric, Prediction
from flanlab.evaluation.over_wordings import ZERO_ONE_METRICS, Answers, answers_of
from flanlab.results import statistics
from flanlab.results.grids import Floats, ScoreGrid
from flanlab.results.item_response import quantiles_over_wordings
from flanlab.results.schema import (
    BEST_ON_DEV,
    MAIN_METRIC,
    QUANTILES,
    BestTemplate,
    Difference,
    Hashes,
    Level,
    MetricFacts,
    Results,
    RowSource,
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
Estimates = dict[str, dict[str, statistics.Estimate]]
"""Metric to variant to its score."""
Differences = dict[str, tuple[str, statistics.Difference]]
"""Metric to the variant that `after` is compared with, and the difference."""


@dataclass(frozen=True)
class ScoredTask:
    """A task's facts, scores, and the grids that differences are computed from."""

    name: str
    facts: TaskFacts
    scores: Sequence[Score]
    grids: Grids
    estimates: Estimates


@dataclass(frozen=True)
class _Member:
    """A task, or a mean, that takes part in a mean."""

    name: str
    cluster: str | None
    level: Level
    estimates: Estimates
    differences: Mapping[str, Mapping[str, statistics.Difference]]
    """Metric to each variant before to `after` minus it."""
    rows: int
    members: int
    seen: Mapping[str, bool | None]

    def with_main(self, metric: str) -> _Member:
        """The same, with its main metric under the name MAIN_METRIC too."""
        differences = {**self.differences, MAIN_METRIC: self.differences[metric]} if self.differences else {}
        return replace(self, estimates={**self.estimates, MAIN_METRIC: self.estimates[metric]}, differences=differences)


def score_task(
    task: Task,
    predictions: Mapping[str, Sequence[Prediction]],
    *,
    end_token: bool,
    dev: Mapping[str, Sequence[Prediction]] | None = None,
    source: RowSource | None = None,
    hashes: Hashes | None = None,
    seen: str | None = None,
    in_domain: bool = False,
    over_wordings: bool = False,
) -> ScoredTask:
    """Score one task under several variants (a model asked in one way each).

    Args:
        task: the task evaluated.
        predictions: of each variant, for this task.
        end_token: whether an option's end token counts in its score.
        dev: predictions of dev rows, by which each variant's best template is chosen; empty where there are no dev rows.
        source: where the rows come from.
        hashes: identity of task and rows.
        seen: why the model's scores are not zero-shot.
        in_domain: whether the tuned model was trained on the task, through other rows.
        over_wordings: estimate quantiles over templates too, where each row was shown through a few.
    """
    first = next(iter(predictions.values()))
    metrics = metrics_for(task.metrics, first, end_token=end_token)
    cluster = task.clusters[0].value
    scores, grids, estimates = score_predictions(task.name, cluster, metrics, predictions)
    some = next(iter(grids[metrics[0].name].values()))[0]
    by_level = levels(task.metrics, [metric.name for metric in metrics], first)
    # Where nothing could be ranked, generated answers are held against the same levels.
    blindly = by_level.get("accuracy") or by_level.get("exact_match", {})
    chosen: dict[str, BestTemplate] | None = None
    if dev is not None:
        chosen = {}
        for variant, tried in dev.items():
            chosen[variant], grid = best_on_dev(task, tried, predictions[variant], end_token=end_token)
            place = {**place_of(task.name, cluster), "metric": chosen[variant].metric, "variant": variant}
            estimate = statistics.estimate(grid)
            scores.append(Score(**place, template=BEST_ON_DEV, rows=_rows(predictions[variant]), **_numbers(estimate)))
    if over_wordings:
        metric = next(metric for metric in metrics if metric.name in ZERO_ONE_METRICS)
        for variant, rows in predictions.items():
            place = {**place_of(task.name, cluster), "metric": metric.name, "variant": variant, "rows": _rows(rows)}
            scores += _quantile_scores(answers_of(metric, rows, end_token=end_token), place)
    signed = signatures(task.metrics, first)
    facts = TaskFacts(
        clusters=[cluster.value for cluster in task.clusters],
        description=task.description,
        rows=_rows(first),
        groups=len(some.units) if task.group is not None else None,
        templates=list(some.templates),
        wordings={str(number): one.name for number, one in enumerate(task.templates, 1) if isinstance(one, Wording)},
        shortened=sum(prediction["shortened"] for prediction in first),
        main_metric=metrics[0].name,
        declared_metrics=list(task.metrics),
        metrics={metric.name: _facts(metric, signed, by_level) for metric in metrics},
        chance=blindly["chance"] if task.is_classification else None,
        majority=blindly["majority"] if task.is_classification else None,
        source=source,
        hashes=hashes,
        content=task.model_dump(mode="json", exclude_defaults=True, exclude=_NOT_ASKED),
        best_on_dev=chosen,
        seen=seen,
        in_domain=in_domain,
    )
    return ScoredTask(task.name, facts, scores, grids, estimates)


def _quantile_scores(answers: Answers, place: Mapping[str, Any]) -> list[Score]:
    """Estimated quantiles over templates; none where there is one template."""
    if len(answers.scores) == 1:
        return []
    found = quantiles_over_wordings(
        answers.scores, answers.shown, answers.labels.tolist(), list(QUANTILES.values()), answers.margins
    )
    return [
        Score(**place, template=name, mean=one.value, low=one.low, high=one.high)
        for name, one in zip(QUANTILES, found, strict=True)
    ]


def score_predictions(
    name: str,
    cluster: str,
    metrics: Sequence[Metric],
    predictions: Mapping[str, Sequence[Prediction]],
    more: Mapping[str, Sequence[Sequence[Prediction]]] | None = None,
) -> tuple[list[Score], Grids, Estimates]:
    """Scores of several variants on the same questions, by template and over templates.

    Args:
        name: of the task.
        cluster: its home cluster.
        metrics: what is computed.
        predictions: of each variant.
        more: of a variant whose model was trained with several seeds, the predictions of the other models. Its scores are means
            over all of them.
    """
    trained = {variant: [rows, *(more or {}).get(variant, ())] for variant, rows in predictions.items()}
    grids = {
        metric.name: {variant: [score_grid(metric, rows) for rows in models] for variant, models in trained.items()}
        for metric in metrics
    }
    estimates = {
        metric: {variant: statistics.estimate(models) for variant, models in by_variant.items()}
        for metric, by_variant in grids.items()
    }
    counts = {variant: Counter(one["template"] for one in rows) for variant, rows in predictions.items()}
    scores = []
    for metric, by_variant in grids.items():
        for variant, models in by_variant.items():
            place = {**place_of(name, cluster), "metric": metric, "variant": variant}
            by_template = np.mean([grid.by_template() for grid in models], axis=0)
            numbers = {**_numbers(estimates[metric][variant]), **_spread(models[0], by_template)}
            scores.append(Score(**place, rows=_rows(predictions[variant]), **numbers))
            scores += [
                Score(**place, template=str(template), mean=float(score), rows=counts[variant][template])
                for template, score in zip(models[0].templates, by_template, strict=True)
            ]
    return scores, grids, estimates


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
    members = [_member(task, variants, seen_by, before, after) for task in scored]
    mains = {task.name: task.facts.main_metric for task in scored}
    in_domain = {task.name for task in scored if task.facts.in_domain}
    trained = [one for one in members if one.name in in_domain]
    main = [one for one in members if one.name not in in_domain] or trained
    by_cluster = []
    for cluster in sorted({str(one.cluster) for one in main}):
        own = [one.with_main(mains[one.name]) for one in main if one.cluster == cluster]
        by_cluster.append(_mean_over("cluster", cluster, own))
    means = [_mean_over("tasks", None, main), *by_cluster, _mean_over("clusters", None, by_cluster)]
    if trained and len(trained) < len(members):
        means.append(_mean_over("in_domain", None, [one.with_main(mains[one.name]) for one in trained]))
    scores = [
        score.model_copy(update={"seen": one.seen[score.variant]})
        for task, one in zip(scored, members, strict=True)
        for score in task.scores
    ]
    scores += [score for mean in means for score in _mean_scores(mean)]
    return Results(
        flanlab=__version__,
        variants=dict(variants),
        tasks={task.name: task.facts for task in scored},
        scores=scores,
        differences=[row for one in [*members, *means] for row in _differences(one, after, margin)],
        **facts,
    )


def place_of(name: str, cluster: str) -> dict[str, Any]:
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
    return _Member(task.name, task.facts.clusters[0], "task", task.estimates, differences, task.facts.rows, 1, seen)


def _mean_over(level: Level, cluster: str | None, members: Sequence[_Member]) -> _Member:
    """The mean of every metric that all members have; the subtasks of a task count as one."""
    wholes = Counter(one.name.partition(".")[0] for one in members)
    weights = [1 / wholes[one.name.partition(".")[0]] for one in members]
    first = members[0]
    shared = [metric for metric in first.estimates if all(metric in one.estimates for one in members)]
    return _Member(
        cluster or level,
        cluster,
        level,
        {
            metric: {
                variant: statistics.mean_of([one.estimates[metric][variant] for one in members], weights)
                for variant in first.estimates[metric]
            }
            for metric in shared
        },
        {
            metric: {
                variant: statistics.mean_difference([one.differences[metric][variant] for one in members], weights)
                for variant in first.differences[metric]
            }
            for metric in (shared if first.differences else ())
        },
        sum(one.rows for one in members),
        len(wholes),
        {variant: _any(one.seen[variant] for one in members) for variant in first.seen},
    )


def _any(marks: Iterable[bool | None]) -> bool | None:
    """Whether some member was seen; None where it is not known of any."""
    found = [mark for mark in marks if mark is not None]
    return any(found) if found else None


def _mean_scores(mean: _Member) -> list[Score]:
    place: dict[str, Any] = {"level": mean.level, "cluster": mean.cluster, "rows": mean.rows, "members": mean.members}
    return [
        Score(**place, metric=metric, variant=variant, seen=mean.seen[variant], **_numbers(found))
        for metric, by_variant in mean.estimates.items()
        for variant, found in by_variant.items()
    ]


def _differences(of: _Member, after: str, margin: float | None) -> list[Difference]:
    """A row for each metric: `after` minus the better of the variants before, paired over rows and templates."""
    place = place_of(of.name, str(of.cluster)) if of.level == "task" else {"level": of.level, "cluster": of.cluster}
    rows = []
    for metric, by_variant in of.differences.items():
        best = max(by_variant, key=lambda name: of.estimates[metric][name].mean)
        found = by_variant[best]
        low, high = _interval(found)
        rows.append(
            Difference(
                **place,
                metric=metric,
                before=best,
                after=after,
                difference=found.difference,
                low=low,
                high=high,
                standard_error=_known(found.standard_error),
                p_value=1.0 if math.isnan(found.p_value) else found.p_value,
                wins=found.wins,
                losses=found.losses,
                ties=found.ties,
                detectable=_known(found.detectable),
                margin=margin,
                p_equivalence=None if margin is None else _known(found.equivalence(margin).p_value),
                note=found.note,
            )
        )
    return rows


def _numbers(found: statistics.Estimate) -> dict[str, Any]:
    low, high = _interval(found)
    error = _known(found.standard_error)
    numbers = {"mean": found.mean, "low": low, "high": high, "standard_error": error, "note": found.note}
    if found.parts:
        whole = sum(found.parts.values())
        numbers |= {f"{of}_share": part / whole if whole else 0.0 for of, part in found.parts.items()} | {"seeds": found.seeds}
    return numbers


def _interval(found: statistics.Estimate | statistics.Difference) -> tuple[float, float]:
    """The ends of the interval; where it cannot be estimated, those of everything that could be."""
    return found.bounds if math.isnan(found.low) else (found.low, found.high)


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number


def _spread(grid: ScoreGrid, scores: Floats) -> dict[str, float]:
    """The spread over templates, where there is one.

    Templates that were asked other rows each, as `templates_per_row` does it, differ by their rows more than by their wording.
    """
    if len(scores) < 2 or not grid.shown.all():
        return {}
    return {"std": float(scores.std()), "min": float(scores.min()), "max": float(scores.max())}


def _rows(predictions: Sequence[Prediction]) -> int:
    return len({prediction["row"] for prediction in predictions})


def _facts(metric: Metric, signed: Mapping[str, str], by_level: Mapping[str, Mapping[str, float]]) -> MetricFacts:
    """What is told of a metric of a task."""
    known = by_level.get(metric.name, {})
    signature = signed.get("rouge" if metric.name.startswith("rouge") else metric.name)
    return MetricFacts(title=metric.title, definition=metric.definition, signature=signature, **known)
