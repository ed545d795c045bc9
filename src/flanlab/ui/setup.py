"""From what the command line names to what the app shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flanlab.data.reader import RowReader
from flanlab.errors import FlanlabError
from flanlab.report.run import open_run
from flanlab.tasks.loading import BUILT_IN_COLLECTIONS, load_collections
from flanlab.ui.workplace import Workplace


def open_workplace(
    runs: Sequence[Path], models: Sequence[str], collections: Sequence[str], mirror: Path | None, save_to: Path
) -> Workplace:
    """Open runs and read tasks; models are loaded when they are first asked.

    Args:
        runs: folders of runs or evaluations.
        models: names as for `load_model`; the tuned models of the runs are added.
        collections: where tasks are; in all that is built in, where not given. Those saved before are added.
        mirror: folder that mirrors Hub data sets.
        save_to: the one folder that is written to.

    Raises:
        FlanlabError: a folder that is no run, a faulty task file, or two tasks of one name.
    """
    folder = save_to.resolve()
    opened = [open_run(run) for run in runs]
    places: list[str | Path] = [*(collections or BUILT_IN_COLLECTIONS)]
    resolved = {Path(place).resolve() for place in places if place not in BUILT_IN_COLLECTIONS}
    if folder not in resolved and any(folder.glob("*.yaml")):
        places.append(folder)
    tasks = {task.name: task for task in load_collections(places)}
    own = [str(run.model_folder) for run in opened if run.model_folder is not None]
    if not tasks:
        raise FlanlabError("There are no tasks.", hint="Name a folder of tasks with --tasks.")
    return Workplace(tasks, folder, opened, list(dict.fromkeys([*models, *own])), RowReader(mirror))
