"""Read rows: one object that knows the source and reads each task's rows once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from flanlab.data.mirror import MissingDataError
from flanlab.data.rendering import BASELINE, Example, prepare_row, render
from flanlab.data.sources import Rows, load_rows
from flanlab.errors import FlanlabError
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


def example_of(
    task: Task, row: int, template: int, *, split: Split | None = None, options: str = "fixed", mirror: str | Path | None = None
) -> Example:
    """One row through one template. See `Task.render`."""
    chosen = next(filter(task.has_split, SPLITS)) if split is None else split
    rows = load_rows(task, chosen, None if mirror is None else Path(mirror))
    if not 0 <= row < len(rows):
        raise FlanlabError(
            f"{task.name}: the {chosen} split has rows 0 to {len(rows) - 1}, not {row}.", hint="Use one of these numbers."
        )
    if not (BASELINE <= template <= len(task.templates)):
        raise FlanlabError(
            f"{task.name} has templates 1 to {len(task.templates)}, not {template}.",
            hint="Use one of these numbers, or 0 for the baseline prompt.",
        )
    prepared = prepare_row(task, rows[row], row)
    return render(task, template, prepared, range(len(prepared.options)) if options == "fixed" else None)
