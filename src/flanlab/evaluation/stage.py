"""One stage of an evaluation: every question of some units in one prompt style, by one process or by several."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from flanlab.evaluation.planning import EvaluationUnit
from flanlab.evaluation.predict import Part, parts_of, predict_part, remove_stale_parts
from flanlab.evaluation.questions import ask
from flanlab.evaluation.running import RunningScores
from flanlab.evaluation.setup import Setup
from flanlab.evaluation.sharding import Team
from flanlab.processes import owners
from flanlab.progress import Meter, meter, say

_SECONDS_BETWEEN_LOOKS = 0.5
_QUESTIONS_MEASURED = 4
"""Of each part, to estimate what it costs."""


def predict_units(setup: Setup, units: Sequence[EvaluationUnit], folder: Path, team: Team, title: str) -> None:
    """Predict every unit into `folder/<task>`, and show how the tasks stand; parts that are there already are kept.

    Of several processes each does its share, and returns when the others' parts are there too.

    Raises:
        FlanlabError: a row cannot be asked about, or another process is gone.
    """
    by_unit = [parts_of(setup, unit, folder / unit.task.name) for unit in units]
    parts = [part for unit_parts in by_unit for part in unit_parts]
    # Of all parts, done or not: a process that looks a moment later finds other parts done.
    takers = [0] * len(parts)
    if team.count > 1:
        takers = owners([_estimated_tokens(setup, part) for part in parts], team.count)
    missing = {part: owner for part, owner in zip(parts, takers, strict=True) if not part.is_done}
    running = RunningScores(setup.settings.end_token)
    if team.speaks:
        running.begin(by_unit, missing)
    done = sum(len(part.pairs) for part in parts if part not in missing)
    with meter(title, sum(len(part.pairs) for part in parts), done) as bar:
        for part in [part for part, owner in missing.items() if owner == team.rank]:
            predict_part(setup, part)
            _take_in(missing, running, team, bar)
        while missing:
            # Looked at first: who ends between the two looks has left its parts.
            gone = team.gone(set(missing.values()))
            _take_in(missing, running, team, bar)
            if lost := {owner: gone[owner] for owner in missing.values() if owner in gone}:
                team.end_without(lost)
            if missing:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
    if team.speaks:
        for unit, unit_parts in zip(units, by_unit, strict=True):
            remove_stale_parts(folder / unit.task.name, unit_parts)


def _take_in(missing: dict[Part, int], running: RunningScores, team: Team, bar: Meter) -> None:
    """Count the parts that have been done meanwhile, by this process or another, and show how their tasks stand."""
    for part in [part for part in missing if part.is_done]:
        del missing[part]
        note = running.take_in(part) if team.speaks else ""
        bar.advance(len(part.pairs), note)
        if missing and all(other.unit is not part.unit for other in missing):
            say(f"  {note}")  # the task is done; of the last one the bar has told


def _estimated_tokens(setup: Setup, part: Part) -> float:
    """About how many tokens a part computes and generates."""
    some = part.pairs[:: max(1, len(part.pairs) // _QUESTIONS_MEASURED)]
    questions = [ask(setup, part.unit, row, template).question for row, template in some]
    return sum(question.length + question.max_new_tokens for question in questions) / len(some) * len(part.pairs)
