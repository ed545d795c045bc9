"""Read rows: one object that knows the source and reads each task's rows once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from flanlab.data.mirror import MissingDataError
from flanlab.data.sources import Rows, load_rows
from flanlab.tasks.schema import SPLITS, Split, Task


@dataclass(frozen=True)
class RowReader:
    """Reads rows from a mirror of the Hub, or from the Hub if there is no mirror; local files as the task says.

    Rows are kept in memory. So a split that is needed for training, exemplars and evaluation is read once.
    """

    mirror: str | Path | None = None
    """None: FLANLAB_MIRROR if set, else the Hub."""
    _read: dict[tuple[str, str, str, Split], Rows] = field(default_factory=dict, repr=False, compare=False)

    def read(self, task: Task, split: Split) -> Rows:
        """All rows of a split.

        Raises:
            MissingDataError: they are not available.
        """
        key = (task.name, task.hash, str(task.path), split)
        if key not in self._read:
            self._read[key] = load_rows(task, split, None if self.mirror is None else Path(self.mirror))
        return self._read[key]


def rows_within_reach(task: Task, mirror: Path | None) -> tuple[dict[str, Rows], list[str]]:
    """Rows of the available splits, without the subtasks that are missing, and messages about what is missing."""
    found: dict[str, Rows] = {}
    missing: dict[str, None] = {}
    for split in filter(task.has_split, SPLITS):
        try:
            found[split] = load_rows(task, split, mirror)
        except MissingDataError as error:
            at_hand, subtasks = task, task.evaluated_subtasks(split) if task.subtasks else []
            lacking = {one.name.partition(".")[2]: why for one in subtasks if (why := _why_missing(one, split, mirror))}
            missing |= dict.fromkeys(lacking.values() or [error.message])
            if len(lacking) < len(subtasks):
                for name in lacking:
                    at_hand = at_hand.without_subtask(name)
                found[split] = load_rows(at_hand, split, mirror)
    return found, list(missing)


def _why_missing(task: Task, split: Split, mirror: Path | None) -> str:
    try:
        load_rows(task, split, mirror)
    except MissingDataError as error:
        return error.message
    return ""
