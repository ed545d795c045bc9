"""One stage of an evaluation: every question of some tasks in one prompt style, by one process or by several."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from flanlab.evaluation.metrics.declared import metrics_for
from flanlab.evaluation.metrics.options import with_counted_scores
from flanlab.evaluation.planning import PlannedTask
from flanlab.evaluation.predict import Shard, predict_shard, remove_stale_shards, shards_of
from flanlab.evaluation.questions import ask
from flanlab.evaluation.setup import Setup
from flanlab.evaluation.sharding import Team
from flanlab.processes import owners
from flanlab.progress import Meter, meter, say
from flanlab.results.grids import score_grid
from flanlab.results.predictions import read_shard

_SECONDS_BETWEEN_LOOKS = 0.5
_QUESTIONS_MEASURED = 4
"""Of each shard, to estimate what it costs."""


class RunningScores:
    """How tasks stand: the main metric of each over the shards that are done, for people who wait and not for results.

    It is the mean over shards, by what they hold. For a metric that is a mean over rows that is its score so far; for others
    (correlations, BLEU) it comes close.
    """

    def __init__(self, end_token: bool) -> None:
        self._end_token = end_token
        self._sums: dict[str, tuple[float, float, int]] = {}

    def take_in(self, shard: Shard) -> str:
        """Take in a shard that is done; returns how its task stands by now, in words."""
        task = shard.planned.task
        predictions = with_counted_scores(read_shard(shard.path).to_pylist(), self._end_token)
        metric = metrics_for(task.metrics, predictions)[0]
        grid = score_grid(metric, predictions)
        weights = grid.shown.sum(axis=1)  # a shard does not show all templates equally often
        total, weight, questions = self._sums.get(task.name, (0.0, 0.0, 0))
        total, weight = total + float(weights @ grid.by_template()), weight + float(weights.sum())
        questions += len(predictions)
        self._sums[task.name] = total, weight, questions
        return f"{task.name}: {metric.title} {100 * total / weight:.1f} % after {questions}"


def predict_tasks(setup: Setup, planned: Sequence[PlannedTask], folder: Path, team: Team, title: str) -> None:
    """Predict every task into `folder/<task>`, and show how the tasks stand; shards that are there already are kept.

    Of several processes each does its share, and returns when the others' shards are there too.

    Raises:
        FlanlabError: a row cannot be asked about, or another process is gone.
    """
    by_task = [shards_of(setup, one, folder / one.task.name) for one in planned]
    shards = [shard for task_shards in by_task for shard in task_shards]
    # Of all shards, done or not: a process that looks a moment later finds other shards done.
    takers = [0] * len(shards)
    if team.count > 1:
        takers = owners([_estimated_tokens(setup, shard) for shard in shards], team.count)
    missing = {shard: owner for shard, owner in zip(shards, takers, strict=True) if not shard.is_done}
    running = RunningScores(setup.settings.end_token)
    for task_shards in by_task if team.speaks else ():
        if not missing.keys().isdisjoint(task_shards):
            for shard in task_shards:
                if shard not in missing:
                    running.take_in(shard)
    done = sum(len(shard.pairs) for shard in shards if shard not in missing)
    with meter(title, sum(len(shard.pairs) for shard in shards), done) as bar:
        for shard in [shard for shard, owner in missing.items() if owner == team.rank]:
            predict_shard(setup, shard)
            _take_in(missing, running, team, bar)
        while missing:
            # Looked at first: who ends between the two looks has left its shards.
            gone = team.gone(set(missing.values()))
            _take_in(missing, running, team, bar)
            if lost := {owner: gone[owner] for owner in missing.values() if owner in gone}:
                team.end_without(lost)
            if missing:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
    if team.speaks:
        for one, task_shards in zip(planned, by_task, strict=True):
            remove_stale_shards(folder / one.task.name, task_shards)


def _take_in(missing: dict[Shard, int], running: RunningScores, team: Team, bar: Meter) -> None:
    """Count the shards that have been done meanwhile, by this process or another, and show how their tasks stand."""
    for shard in [shard for shard in missing if shard.is_done]:
        del missing[shard]
        note = running.take_in(shard) if team.speaks else ""
        bar.advance(len(shard.pairs), note)
        if missing and all(other.planned is not shard.planned for other in missing):
            say(f"  {note}")  # the task is done; of the last one the bar has told


def _estimated_tokens(setup: Setup, shard: Shard) -> float:
    """About how many tokens a shard computes and generates."""
    some = shard.pairs[:: max(1, len(shard.pairs) // _QUESTIONS_MEASURED)]
    questions = [ask(setup, shard.planned, row, template) for row, template in some]
    return sum(question.length + question.max_new_tokens for question in questions) / len(some) * len(shard.pairs)
