"""One stage of an evaluation: every question of some units in one prompt style, by one process or by several."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from flanlab.evaluation.planning import EvaluationUnit
from flanlab.evaluation.predict import Shard, predict_shard, remove_stale_shards, shards_of
from flanlab.evaluation.questions import ask
from flanlab.evaluation.running import RunningScores
from flanlab.evaluation.setup import Setup
from flanlab.evaluation.sharding import Team
from flanlab.processes import owners
from flanlab.progress import Meter, meter, say

_SECONDS_BETWEEN_LOOKS = 0.5
_QUESTIONS_MEASURED = 4
"""Of each shard, to estimate what it costs."""


def predict_units(setup: Setup, units: Sequence[EvaluationUnit], folder: Path, team: Team, title: str) -> None:
    """Predict every unit into `folder/<task>`, and show how the tasks stand; shards that are there already are kept.

    Of several processes each does its share, and returns when the others' shards are there too.

    Raises:
        FlanlabError: a row cannot be asked about, or another process is gone.
    """
    by_unit = [shards_of(setup, unit, folder / unit.task.name) for unit in units]
    shards = [shard for unit_shards in by_unit for shard in unit_shards]
    # Of all shards, done or not: a process that looks a moment later finds other shards done.
    takers = [0] * len(shards)
    if team.count > 1:
        takers = owners([_estimated_tokens(setup, shard) for shard in shards], team.count)
    missing = {shard: owner for shard, owner in zip(shards, takers, strict=True) if not shard.is_done}
    running = RunningScores(setup.settings.end_token)
    if team.speaks:
        running.begin(by_unit, missing)
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
        for unit, unit_shards in zip(units, by_unit, strict=True):
            remove_stale_shards(folder / unit.task.name, unit_shards)


def _take_in(missing: dict[Shard, int], running: RunningScores, team: Team, bar: Meter) -> None:
    """Count the shards that have been done meanwhile, by this process or another, and show how their tasks stand."""
    for shard in [shard for shard in missing if shard.is_done]:
        del missing[shard]
        note = running.take_in(shard) if team.speaks else ""
        bar.advance(len(shard.pairs), note)
        if missing and all(other.unit is not shard.unit for other in missing):
            say(f"  {note}")  # the task is done; of the last one the bar has told


def _estimated_tokens(setup: Setup, shard: Shard) -> float:
    """About how many tokens a shard computes and generates."""
    some = shard.pairs[:: max(1, len(shard.pairs) // _QUESTIONS_MEASURED)]
    questions = [ask(setup, shard.unit, row, template).question for row, template in some]
    return sum(question.length + question.max_new_tokens for question in questions) / len(some) * len(shard.pairs)
