"""How tasks stand while they are evaluated: for people who wait, not for results."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from flanlab.evaluation.grids import score_grid
from flanlab.evaluation.metrics.declared import metrics_for
from flanlab.evaluation.predict import Shard
from flanlab.results.predictions import read_shard


class RunningScores:
    """The main metric of each task over the shards that are done: the mean over them, by what they hold.

    For a metric that is a mean over rows that is its score so far; for others (correlations, BLEU) it comes close.
    """

    def __init__(self, end_token: bool) -> None:
        self._end_token = end_token
        self._sums: dict[str, tuple[float, float, int]] = {}

    def begin(self, parts_by_task: Sequence[Sequence[Shard]], missing: Collection[Shard]) -> None:
        """Take in what was done before, of the tasks that have something left to do."""
        for shards in parts_by_task:
            if any(shard in missing for shard in shards):
                for shard in shards:
                    if shard not in missing:
                        self.take_in(shard)

    def take_in(self, shard: Shard) -> str:
        """Take in a shard that is done; returns how its task stands by now, in words."""
        task = shard.unit.task
        predictions = read_shard(shard.path).to_pylist()
        metric = metrics_for(task.metrics, predictions, end_token=self._end_token)[0]
        grid = score_grid(metric, predictions)
        weights = grid.shown.sum(axis=1)  # a shard does not show all templates equally often
        total, weight, questions = self._sums.get(task.name, (0.0, 0.0, 0))
        total, weight = total + float(weights @ grid.by_template()), weight + float(weights.sum())
        questions += len(predictions)
        self._sums[task.name] = total, weight, questions
        return f"{task.name}: {metric.title} {100 * total / weight:.1f} % after {questions}"
