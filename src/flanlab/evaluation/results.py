"""Results computed from predictions on disk: scores by template, spread, intervals, and before against after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flanlab.evaluation.grids import score_grid
from flanlab.evaluation.levels import levels
from flanlab.evaluation.metrics.declared import metrics_for, signatures
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.evaluation.predict import read_predictions
from flanlab.results.grids import ScoreGrid
from flanlab.results.statistics import Difference, Estimate, difference, estimate, mean_difference, mean_of
from flanlab.tasks.schema import Task

MAIN_METRIC = "main_metric"
"""Stands in averages for the main metric of each task, whichever that is."""


@dataclass(frozen=True)
class TaskScores:
    """Scores of one task and their differences, from its grids: metric to variant to grid."""

    grids: Mapping[str, Mapping[str, ScoreGrid]]
    main_metric: str
    _estimates: dict[tuple[str, str], Estimate] = field(default_factory=dict, repr=False)
    _differences: dict[tuple[str, str, str], Difference] = field(default_factory=dict, repr=False)

    @property
    def metrics(self) -> list[str]:
        """Its metrics, the main one first."""
        return list(self.grids)

    def estimate(self, metric: str, variant: str) -> Estimate:
        """Score of a variant; MAIN_METRIC stands for the main metric."""
        metric = self.main_metric if metric == MAIN_METRIC else metric
        if (metric, variant) not in self._estimates:
            self._estimates[metric, variant] = estimate(self.grids[metric][variant])
        return self._estimates[metric, variant]

    def difference(self, metric: str, before: str, after: str) -> Difference:
        """A variant's score minus another's, paired."""
        metric = self.main_metric if metric == MAIN_METRIC else metric
        if (metric, before, after) not in self._differences:
            variants = self.grids[metric]
            self._differences[metric, before, after] = difference(variants[before], variants[after])
        return self._differences[metric, before, after]


@dataclass(frozen=True)
class MeanScores:
    """Weighted means over tasks, or over clusters of tasks, of the metrics that all of them have."""

    members: Sequence[TaskScores | MeanScores]
    weights: Sequence[float]
    metrics: Sequence[str]

    def estimate(self, metric: str, variant: str) -> Estimate:
        """Mean score of a variant."""
        return mean_of([member.estimate(metric, variant) for member in self.members], self.weights)

    def difference(self, metric: str, before: str, after: str) -> Difference:
        """Mean of the members' differences."""
        return mean_difference([member.difference(metric, before, after) for member in self.members], self.weights)


def task_results(task: Task, variants: Mapping[str, Path], settings: EvaluationSettings) -> tuple[dict[str, Any], TaskScores]:
    """Results of one task under several variants (a model and a prompt style).

    Args:
        task: the task evaluated.
        variants: name of each variant to the folder of its predictions for this task.
        settings: as the predictions were made.

    Returns:
        The task's entry of results.json, and its scores for comparisons and means.
    """
    predictions = {name: read_predictions(folder).to_pylist() for name, folder in variants.items()}
    first = next(iter(predictions.values()))
    metrics = metrics_for(task.metrics, first, end_token=settings.end_token)
    grids = {metric.name: {name: score_grid(metric, rows) for name, rows in predictions.items()} for metric in metrics}
    some = next(iter(grids[metrics[0].name].values()))
    found = TaskScores(grids, metrics[0].name)
    by_answering_blindly = levels(task.metrics, [metric.name for metric in metrics], first)
    # Where nothing could be ranked, generated answers are held against the same levels.
    blindly = by_answering_blindly.get("accuracy") or by_answering_blindly.get("exact_match", {})
    entry = {
        "clusters": [str(cluster) for cluster in task.clusters],
        "description": task.description,
        "rows": len({prediction["row"] for prediction in first}),
        "groups": some.shown.shape[1] if task.group is not None else None,
        "templates": list(some.templates),
        "shortened": sum(prediction["shortened"] for prediction in first),
        "main_metric": metrics[0].name,
        "declared_metrics": list(task.metrics),
        "metrics": {metric.name: metric.title for metric in metrics},
        "definitions": {metric.name: metric.definition for metric in metrics},
        "signatures": signatures(task.metrics, first),
        "levels": by_answering_blindly,
        "chance": blindly["chance"] if task.is_classification else None,
        "majority": blindly["majority"] if task.is_classification else None,
        "scores": {
            metric: {name: summarize(grid, found.estimate(metric, name)) for name, grid in by_variant.items()}
            for metric, by_variant in grids.items()
        },
    }
    return entry, found


def averages(
    entries: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, TaskScores],
    before: Sequence[str] = (),
    after: str = "",
) -> dict[str, Any]:
    """The means over tasks, for results.json, with `after` compared with the better of `before` where any are given.

    Every mean is of the metrics that all its members have. The parts of a task, named `task.part`, count as one task
    together: their mean. Tasks count alike, and so do clusters; a task counts in its home cluster, the first one it names.

    Returns:
        `average`: over all tasks; `clusters`: over the tasks of each cluster; `cluster_average`: over those. The last two
        have the metric MAIN_METRIC too, whatever each task's main metric is, as the paper's averages of clusters do.
    """
    variants = list(next(iter(next(iter(scores.values())).grids.values())))
    average = _mean_over(scores)
    home = {name: entry["clusters"][0] for name, entry in entries.items()}
    clusters = {
        cluster: _mean_over({name: scores[name] for name in entries if home[name] == cluster}, MAIN_METRIC)
        for cluster in sorted(set(home.values()))
    }
    shared = _shared_metrics(list(clusters.values()))
    over = MeanScores(list(clusters.values()), [1.0] * len(clusters), shared)

    def told(mean: MeanScores) -> dict[str, Any]:
        found: dict[str, Any] = {
            "scores": {
                metric: {variant: _of_mean(mean.estimate(metric, variant)) for variant in variants} for metric in mean.metrics
            }
        }
        if before:
            found["comparison"] = compare(found["scores"], mean, before, after)
        return found

    def tasks(names: Sequence[str]) -> int:
        return len({name.partition(".")[0] for name in names})

    return {
        "average": {"tasks": tasks(list(entries)), **told(average)},
        "clusters": {
            cluster: {"tasks": tasks([name for name in entries if home[name] == cluster]), **told(mean)}
            for cluster, mean in clusters.items()
        },
        "cluster_average": {"clusters": len(clusters), **told(over)},
    }


def _mean_over(scores: Mapping[str, TaskScores], *more_metrics: str) -> MeanScores:
    """The mean over tasks, those of one name before the point counting as one."""
    parts = Counter(name.partition(".")[0] for name in scores)
    weights = [1 / parts[name.partition(".")[0]] for name in scores]
    return MeanScores(list(scores.values()), weights, [*_shared_metrics(list(scores.values())), *more_metrics])


def _shared_metrics(members: Sequence[TaskScores | MeanScores]) -> list[str]:
    first, *others = members
    return [metric for metric in first.metrics if all(metric in other.metrics for other in others)]


def compare(
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]],
    measured: TaskScores | MeanScores,
    before: Sequence[str],
    after: str,
) -> dict[str, Any]:
    """After - before for each metric, paired over rows and templates.

    `before` lists the untuned model's variants; it is given the better of them, metric by metric, so that no improvement is
    owed to a prompt style that the untuned model does badly with.
    """
    compared = {}
    for metric, by_variant in scores.items():
        best = max(before, key=lambda name: by_variant[name]["mean"])
        found = measured.difference(metric, best, after)
        compared[metric] = {
            "before": best,
            "after": after,
            "difference": found.difference,
            "interval": interval_of(found),
            "excludes_zero": found.excludes_zero,
            "p_value": 1.0 if np.isnan(found.p_value) else found.p_value,
        }
    return compared


def _of_mean(found: Estimate) -> dict[str, Any]:
    return {"mean": found.mean, "interval": interval_of(found)}


def interval_of(found: Estimate | Difference) -> list[float]:
    """The interval for results.json; where it cannot be estimated, everything that could be."""
    return list(found.bounds) if np.isnan(found.low) else [found.low, found.high]


def summarize(grid: ScoreGrid, found: Estimate) -> dict[str, Any]:
    """One metric of one variant: mean over templates with its interval, and the spread over templates where there is one.

    Templates that were asked other rows each, as `templates_per_row` does it, differ by their rows more than by their wording.
    """
    scores = grid.by_template()
    spread = {}
    if len(scores) > 1 and grid.shown.all():
        spread = {"std": float(scores.std()), "min": float(scores.min()), "max": float(scores.max())}
    return {
        "mean": found.mean,
        **spread,
        "interval": interval_of(found),
        "by_template": {str(template): float(score) for template, score in zip(grid.templates, scores, strict=True)},
    }
