"""Predictions for tests of metrics, made by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from flanlab.evaluation.metrics.declared import metrics_for
from flanlab.evaluation.metrics.options import with_counted_scores
from flanlab.results.grids import Metric, Prediction, groups_of


def ranked(
    scores: Sequence[float], *right: int, without_end: Sequence[float] | None = None, row: int = 0, **changes: Any
) -> dict[str, Any]:
    """A prediction of a row with options a, b, c and so on; `right` are the positions of the right ones."""
    options = changes.get("options") or [chr(ord("a") + position) for position in range(len(scores))]
    return {
        "row": row,
        "template": 1,
        "group": None,
        "options": options,
        "own_options": options,
        "option_scores": list(scores),
        "option_scores_without_end": list(without_end or scores),
        "option_scores_alone": [0.0] * len(options),
        "option_scores_alone_without_end": [0.0] * len(options),
        "option_tokens": [2] * len(options),
        "answer": right[0],
        "references": [options[position] for position in right],
        "gold_value": None,
        "generated": None,
    } | changes


def chose(option: int, *right: int, count: int = 2, **changes: Any) -> dict[str, Any]:
    """A prediction that ranks one of `count` options first."""
    return ranked([0.0 if position == option else -1.0 for position in range(count)], *right, **changes)


def said(generated: str, *references: str, options: Sequence[str] = (), row: int = 0, **changes: Any) -> dict[str, Any]:
    """A prediction of a generated text."""
    return {
        "row": row,
        "template": 1,
        "group": None,
        "options": list(options),
        "option_scores_alone": [],
        "generated": generated,
        "references": list(references),
        "gold_value": None,
    } | changes


def in_rows(predictions: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The predictions as rows 0, 1, 2 and so on."""
    return [{**prediction, "row": row} for row, prediction in enumerate(predictions)]


def named(name: str, *declared: str, of: Sequence[Prediction]) -> Metric:
    """The metric of this name, of a task that declares these (or just it)."""
    (found,) = [metric for metric in metrics_for(declared or (name,), of) if metric.name == name]
    return found


def total(metric: Metric, predictions: Iterable[Prediction], weights: Sequence[float] | None = None) -> float:
    """Score of a metric over rows, or groups of rows, each as often as `weights` says."""
    statistics = np.asarray([metric.statistics(unit) for unit in groups_of(predictions).values()], float)
    counts = np.ones(len(statistics)) if weights is None else np.asarray(weights, float)
    return float(metric.score(counts[None, :], statistics)[0])


def score(name: str, predictions: Sequence[dict[str, Any]], *declared: str, end_token: bool = True) -> float:
    """Score by the metric of this name over the predictions, each of a row of its own unless it has a group."""
    rows = with_counted_scores(in_rows(predictions), end_token)
    return total(named(name, *declared, of=rows), rows)
