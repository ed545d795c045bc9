"""Scores that must be reached, as checks of a build want it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from flanlab.errors import FlanlabError


class NamedScore(NamedTuple):
    """A score of a task (all its templates together), and whether it is of the task's main metric."""

    task: str
    variant: str
    metric: str
    mean: float
    is_main: bool


def refuse_below(scores: Iterable[NamedScore], threshold: float, metric: str | None = None) -> None:
    """Fail where a score does not reach a threshold.

    Args:
        scores: of every task, variant and metric.
        threshold: the lowest score that is good enough; 0 to 1, or -1 to 1 for correlations.
        metric: what every task is judged by; its main metric, where not given.

    Raises:
        FlanlabError: a score below the threshold or one that is no number, all of them named; or a task without the metric.

    >>> refuse_below([NamedScore("rte", "instruction", "accuracy", 0.81, True)], 0.8)
    """
    listed = list(scores)
    judged = [one for one in listed if (one.is_main if metric is None else one.metric == metric)]
    if without := sorted({one.task for one in listed} - {one.task for one in judged}):
        known = sorted({one.metric for one in listed if one.task == without[0]})
        raise FlanlabError(f"The task {without[0]} has no metric `{metric}`.", hint=f"Its metrics are: {', '.join(known)}.")
    # Written so that NaN does not pass.
    if failed := [one for one in judged if not one.mean >= threshold]:
        lines = (f"  {one.task} ({one.variant}): {one.metric} {one.mean:.4f}" for one in failed)
        raise FlanlabError(
            f"{len(failed)} of {len(judged)} scores are below {threshold:g}:\n" + "\n".join(lines),
            hint="The results are written all the same.",
        )


def task_scores(results: Mapping[str, Any]) -> list[NamedScore]:
    """The scores of every task in the content of results.json."""
    return [
        NamedScore(name, variant, metric, score["mean"], metric == entry["main_metric"])
        for name, entry in results["tasks"].items()
        for metric, scores in entry["scores"].items()
        for variant, score in scores.items()
    ]
