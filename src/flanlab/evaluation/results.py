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
from flanlab.evaluation.statistics import ScoreGrid, interval, make_draws, score_grid
from flanlab.tasks.schema import Task


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
        "metrics": {metric.name: metric.title for metric in metrics},
        "definitions": {metric.name: metric.definition for metric in metrics},
        "signatures": signatures(task.metrics, first),
        "levels": by_answering_blindly,
        "chance": blindly["chance"] if task.is_classification else None,
        "majority": blindly["majority"] if task.is_classification else None,
        "scores": {
            metric: {name: _summary(grid, resampled[metric][name]) for name, grid in by_variant.items()}
            for metric, by_variant in grids.items()
        },
    }
    return entry, resampled


def average_results(
    entries: Mapping[str, Mapping[str, Any]], resampled: Mapping[str, Mapping[str, Mapping[str, Floats]]]
) -> tuple[dict[str, Any], dict[str, dict[str, Floats]]]:
    """The mean over tasks of every metric that all of them have; tasks count alike, their draws are independent.

    The parts of a task, named `task.part`, count as one task together: their mean.
    """
    shared = [
        metric
        for metric in next(iter(entries.values()))["scores"]
        if all(metric in entry["scores"] for entry in entries.values())
    ]
    parts = Counter(name.partition(".")[0] for name in entries)
    weights = np.array([1 / (len(parts) * parts[name.partition(".")[0]]) for name in entries])
    scores: dict[str, Any] = {}
    draws: dict[str, dict[str, Floats]] = {}
    for metric in shared:
        variants = next(iter(entries.values()))["scores"][metric]
        draws[metric] = {name: weights @ np.array([resampled[task][metric][name] for task in entries]) for name in variants}
        scores[metric] = {
            name: {
                "mean": float(weights @ np.array([entry["scores"][metric][name]["mean"] for entry in entries.values()])),
                "interval": list(interval(draws[metric][name])),
            }
            for name in variants
        }
    return {"tasks": len(parts), "scores": scores}, draws


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
        low, high = interval(resampled[metric][after] - resampled[metric][best])
        compared[metric] = {
            "before": best,
            "after": after,
            "difference": by_variant[after]["mean"] - by_variant[best]["mean"],
            "interval": [low, high],
            "excludes_zero": low > 0 or high < 0,
        }
    return compared


def _summary(grid: ScoreGrid, resampled: Floats) -> dict[str, Any]:
    scores = grid.by_template()
    return {
        "mean": float(scores.mean()),
        "std": float(scores.std()),
        "min": float(scores.min()),
        "max": float(scores.max()),
        "interval": list(interval(resampled)),
        "by_template": {str(template): float(score) for template, score in zip(grid.templates, scores, strict=True)},
    }
