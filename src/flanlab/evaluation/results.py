"""Results computed from predictions on disk: scores by template, spread, intervals, and before against after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flanlab.evaluation.levels import levels
from flanlab.evaluation.metrics.declared import metrics_for, signatures
from flanlab.evaluation.metrics.metric import Floats
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.evaluation.predict import read_predictions
from flanlab.evaluation.statistics import ScoreGrid, interval, make_draws, score_grid, two_sided_p
from flanlab.tasks.schema import Task

MAIN_METRIC = "main_metric"
"""Stands in averages for the main metric of each task, whichever that is."""

Resampled = Mapping[str, Mapping[str, Floats]]
"""Metric to variant to its resampled scores, [draws]."""


def task_results(
    task: Task, variants: Mapping[str, Path], settings: EvaluationSettings
) -> tuple[dict[str, Any], dict[str, dict[str, Floats]]]:
    """Results of one task under several variants (a model and a prompt style).

    Args:
        task: the task evaluated.
        variants: name of each variant to the folder of its predictions for this task.
        settings: as the predictions were made.

    Returns:
        The task's entry of results.json, and for each metric and variant the resampled scores [draws].
    """
    predictions = {name: read_predictions(folder).to_pylist() for name, folder in variants.items()}
    first = next(iter(predictions.values()))
    metrics = metrics_for(task.metrics, first, end_token=settings.end_token)
    grids = {metric.name: {name: score_grid(metric, rows) for name, rows in predictions.items()} for metric in metrics}
    some = next(iter(grids[metrics[0].name].values()))
    draws = make_draws(some.shown.shape[1], some.shown.shape[0], task.name)
    resampled = {
        metric: {name: grid.resampled(draws.over(grid.templates)) for name, grid in by_variant.items()}
        for metric, by_variant in grids.items()
    }
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
            metric: {name: summarize(grid, resampled[metric][name]) for name, grid in by_variant.items()}
            for metric, by_variant in grids.items()
        },
    }
    return entry, resampled


def averages(
    entries: Mapping[str, Mapping[str, Any]],
    resampled: Mapping[str, Resampled],
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
    scores = {name: entry["scores"] for name, entry in entries.items()}
    average, draws = _mean_over(scores, resampled)
    found: dict[str, Any] = {"average": average, "clusters": {}}
    all_draws = [(average, draws)]
    main = {name: entry["main_metric"] for name, entry in entries.items()}
    home = {name: entry["clusters"][0] for name, entry in entries.items()}
    cluster_draws: dict[str, dict[str, dict[str, Floats]]] = {}
    for cluster in sorted(set(home.values())):
        members = [name for name in entries if home[name] == cluster]
        found["clusters"][cluster], cluster_draws[cluster] = _mean_over(
            {name: scores[name] | {MAIN_METRIC: scores[name][main[name]]} for name in members},
            {name: {**resampled[name], MAIN_METRIC: resampled[name][main[name]]} for name in members},
        )
        all_draws.append((found["clusters"][cluster], cluster_draws[cluster]))
    over, draws = _mean_over({name: part["scores"] for name, part in found["clusters"].items()}, cluster_draws)
    found["cluster_average"] = {"clusters": over["tasks"], "scores": over["scores"]}
    all_draws.append((found["cluster_average"], draws))
    if before:
        for part, draws in all_draws:
            part["comparison"] = compare(part["scores"], draws, before, after)
    return found


def _mean_over(
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]], resampled: Mapping[str, Resampled]
) -> tuple[dict[str, Any], dict[str, dict[str, Floats]]]:
    """The mean of every metric that all of `scores` have, and its resampled values; their draws are independent."""
    first = next(iter(scores.values()))
    shared = [metric for metric in first if all(metric in each for each in scores.values())]
    parts = Counter(name.partition(".")[0] for name in scores)
    weights = np.array([1 / (len(parts) * parts[name.partition(".")[0]]) for name in scores])
    means: dict[str, Any] = {}
    draws: dict[str, dict[str, Floats]] = {}
    for metric in shared:
        draws[metric] = {
            variant: weights @ np.array([resampled[name][metric][variant] for name in scores]) for variant in first[metric]
        }
        means[metric] = {
            variant: {
                "mean": float(weights @ np.array([each[metric][variant]["mean"] for each in scores.values()])),
                "interval": list(interval(draws[metric][variant])),
            }
            for variant in first[metric]
        }
    return {"tasks": len(parts), "scores": means}, draws


def compare(
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]],
    resampled: Mapping[str, Mapping[str, Floats]],
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
        differences = resampled[metric][after] - resampled[metric][best]
        low, high = interval(differences)
        compared[metric] = {
            "before": best,
            "after": after,
            "difference": by_variant[after]["mean"] - by_variant[best]["mean"],
            "interval": [low, high],
            "excludes_zero": low > 0 or high < 0,
            "p_value": two_sided_p(differences),
        }
    return compared


def summarize(grid: ScoreGrid, resampled: Floats) -> dict[str, Any]:
    """One metric of one variant: mean over templates with its interval, and the spread over templates where there is one.

    Templates that were asked other rows each, as `templates_per_row` does it, differ by their rows more than by their wording.
    """
    scores = grid.by_template()
    spread = {}
    if len(scores) > 1 and grid.shown.all():
        spread = {"std": float(scores.std()), "min": float(scores.min()), "max": float(scores.max())}
    return {
        "mean": float(scores.mean()),
        **spread,
        "interval": list(interval(resampled)),
        "by_template": {str(template): float(score) for template, score in zip(grid.templates, scores, strict=True)},
    }
