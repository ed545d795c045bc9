"""Scores that must be reached, as checks of a build want it."""

from __future__ import annotations

from flanlab.errors import FlanlabError
from flanlab.results.schema import MEAN, Results


def refuse_below(results: Results, threshold: float, metric: str | None = None) -> None:
    """Fail where a task's score (the mean over its templates) does not reach a threshold, by any variant.

    Args:
        results: of a run or an evaluation.
        threshold: the lowest score that is good enough; 0 to 1, or -1 to 1 for correlations.
        metric: what every task is judged by; its main metric, where not given.

    Raises:
        FlanlabError: scores below the threshold, each named; or a task without the metric.
    """
    judged = []
    for name, facts in results.tasks.items():
        scores = results.scored("task", name, metric or facts.main_metric, MEAN)
        if not scores:
            known = results.metrics("task", name)
            raise FlanlabError(f"The task {name} has no metric `{metric}`.", hint=f"Its metrics are: {', '.join(known)}.")
        judged += [(name, variant, score) for variant, score in scores.items()]
    # Written so that NaN does not pass.
    if failed := [one for one in judged if not one[2].mean >= threshold]:
        lines = (f"  {name} ({variant}): {score.metric} {score.mean:.4f}" for name, variant, score in failed)
        raise FlanlabError(
            f"{len(failed)} of {len(judged)} scores are below {threshold:g}:\n" + "\n".join(lines),
            hint="Predictions and results are written all the same.",
        )
