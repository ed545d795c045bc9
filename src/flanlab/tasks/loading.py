"""Find and read task files: the library, the extra tasks, the sampler, and the user's own folders."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from flanlab.arguments import are_rows
from flanlab.errors import FlanlabError
from flanlab.processes import is_first
from flanlab.progress import say
from flanlab.tasks.clusters import Cluster, plain_name
from flanlab.tasks.holdout import lineage
from flanlab.tasks.schema import Task
from flanlab.yaml_files import read_yaml_model

BUILT_IN_COLLECTIONS = ("library", "extra", "sampler")
"""FLAN's 62 data sets, others, and the small set written by this project."""
_BUILT_IN_FOLDER = Path(str(resources.files("flanlab.tasks"))).resolve()


def load_task(path: Path) -> Task:
    """Read one task file.

    Raises:
        FlanlabError: names file, line and field of each error.
    """
    task = read_yaml_model(path, Task, "task")
    if task.name != path.stem:
        raise FlanlabError(
            f"{path}, line 1: the task is called `{task.name}`, but the file is called `{path.name}`.",
            hint=f"Rename the file to {task.name}.yaml, or the task to {path.stem}.",
        )
    task._path = path
    return task


def load_collection(collection: str | Path) -> list[Task]:
    """Every task of the `library`, `extra` or `sampler`, or of a folder and its subfolders, sorted by name.

    Raises:
        FlanlabError: the folder does not exist or has no task files, a file is invalid, or a name is used twice.
    """
    if collection in BUILT_IN_COLLECTIONS:
        return list(_built_in(str(collection)))
    return _sorted_unique(map(load_task, _task_files(collection)))


@cache
def _built_in(collection: str) -> list[Task]:
    """Read once: the files change with the package alone, and every plan and check of a hold-out needs all of them."""
    return _sorted_unique(map(load_task, _task_files(collection)))


def load_collections(collections: Sequence[str | Path]) -> list[Task]:
    """The tasks of several collections together. A name may occur only once, but a folder's task replaces a built-in one."""
    return _told(_all_tasks(collections))


def _all_tasks(collections: Sequence[str | Path]) -> list[Task]:
    return _sorted_unique(task for collection in collections for task in load_collection(collection))


def overriding(tasks: Iterable[Task]) -> list[Task]:
    """The tasks that have the name of a built-in task and come from another file."""
    own = [task for task in tasks if not _is_built_in(task)]
    names = {path.stem for collection in BUILT_IN_COLLECTIONS for path in _task_files(collection)} if own else set()
    return [task for task in own if task.whole.name in names]


def own_versions(tasks: Iterable[Task]) -> list[str]:
    """Notes on the tasks of `overriding`, for results."""
    names = dict.fromkeys(task.whole.name for task in overriding(tasks))
    return [f"{name}: a task file of the user's own, not flanlab's task of this name." for name in names]


def _told(tasks: list[Task]) -> list[Task]:
    """The same tasks, after telling the user which of them replace flanlab's own."""
    for task in overriding(tasks):
        _say_once(f"{task.whole.name}: {task.path} is used instead of flanlab's own task of this name.")
    return tasks


@cache
def _say_once(message: str) -> None:
    if is_first():
        say(message)


def known_lineage(tasks: Iterable[Task]) -> dict[str, frozenset[str]]:
    """The lineage of tasks, including steps through flanlab's own tasks."""
    return lineage([*load_collections(BUILT_IN_COLLECTIONS), *tasks])


def load_named(collections: Sequence[str | Path], names: Sequence[str]) -> list[Task]:
    """The tasks that `select_tasks` finds by these names.

    If all names are tasks' names, other files are not read, because reading takes time.

    Raises:
        FlanlabError: as `load_collection` and `select_tasks`.
    """
    paths = [path for collection in collections for path in _task_files(collection)]
    wholes = {name.partition(".")[0] for name in names}
    named = [path for path in paths if path.stem in wholes]
    # A task file has the name of its task.
    are_tasks = wholes.isdisjoint(cluster.value for cluster in Cluster) and wholes == {path.stem for path in named}
    tasks = _sorted_unique(map(load_task, named)) if are_tasks else _all_tasks(collections)
    return _told(select_tasks(tasks, names))


def find_task(name: str | Path | Task, collections: Sequence[str | Path] | None = None) -> Task:
    """Load one task: by name, subtask (`anli.r1`) or the path of its YAML file.

    Args:
        name: as for `load_tasks`.
        collections: where to look up names: `library`, `extra`, `sampler`, or folders. Default: all three.

    Raises:
        FlanlabError: no such task, a faulty file, or the name of a cluster with several tasks.

    Examples:
        >>> import flanlab as fl
        >>> task = fl.load_task("rte")
        >>> task.clusters[0].value, len(task.forward_templates())
        ('natural_language_inference', 8)
    """
    found = find_tasks(name, collections)
    if len(found) != 1:
        raise FlanlabError(
            f"`{name}` names {len(found)} tasks.",
            hint=f"Name one of them: {', '.join(task.name for task in found)}; or use load_tasks.",
        )
    return found[0]


def find_tasks(
    names: str | Path | Task | Sequence[str | Path | Task], collections: Sequence[str | Path] | None = None
) -> list[Task]:
    """Load tasks: by name, cluster, file or folder.

    Args:
        names: one or several: a task's name, a subtask's (`anli.r1`), a cluster's; the path of a task file (it ends with .yaml
            or .yml) or of a folder (it contains a slash, or is a Path); or a task.
        collections: where to look up names. Default: all built-in collections.

    Raises:
        FlanlabError: no such task, cluster, file or folder, or a faulty file.

    Examples:
        >>> import flanlab as fl
        >>> [task.name for task in fl.load_tasks("sentiment", ["sampler"])]
        ['product_reviews', 'visitor_comments']
    """
    if are_rows(names):
        raise FlanlabError(
            "A table of rows is no task yet: it has no templates.",
            hint='Write the rows to a file, such as table.to_parquet("rows.parquet"), and make a task of it: in Python (see'
            " help(fl.Task)), or as a file with `flan tasks new rows.parquet --cluster CLUSTER`.",
        )
    given = [names] if isinstance(names, str | Path | Task) else list(names)
    if not given:
        raise FlanlabError("No task is named.", hint="`flan tasks list` shows what there is.")
    found: list[Task] = []
    by_name: list[str] = []
    for one in given:
        if isinstance(one, Task):
            found.append(one)
        elif str(one).endswith((".yaml", ".yml")):
            found.append(load_task(Path(one)))
        elif isinstance(one, Path) or "/" in one:
            found += load_collection(one)
        else:
            by_name.append(one)
    if by_name:
        found += load_named(collections or BUILT_IN_COLLECTIONS, by_name)
    different = {task.name: task for task in found}
    if other := next((task for task in found if task.hash != different[task.name].hash), None):
        raise FlanlabError(
            f"Two tasks that differ are called `{other.name}`.",
            hint='Give one of them another name, for example with task.model_copy(update={"name": "another"}).',
        )
    return list(different.values())


def _task_files(collection: str | Path) -> list[Path]:
    folder = _BUILT_IN_FOLDER / str(collection) if collection in BUILT_IN_COLLECTIONS else Path(collection)
    if not os.path.isdir(folder):  # `Path.is_dir` fails for names that are too long
        raise FlanlabError(
            f"There is no folder of tasks at {folder}.",
            hint=f"Name a folder with task files, or one of: {', '.join(BUILT_IN_COLLECTIONS)}.",
        )
    paths = sorted(path for pattern in ("*.yaml", "*.yml") for path in folder.rglob(pattern))
    if not paths:
        raise FlanlabError(f"{folder}: has no task file (*.yaml).", hint="See docs/add-a-task.md for the format.")
    return paths


def _sorted_unique(tasks: Iterable[Task]) -> list[Task]:
    by_name: dict[str, Task] = {}
    for task in tasks:
        other = by_name.get(task.name)
        if other is None or (_is_built_in(other) and not _is_built_in(task)):
            by_name[task.name] = task
        elif _is_built_in(other) or not _is_built_in(task):
            raise FlanlabError(
                f"{task.path}: a task called `{task.name}` exists already, in {other.path}.",
                hint="Give one of the two another name.",
            )
    return [by_name[name] for name in sorted(by_name)]


def _is_built_in(task: Task) -> bool:
    return task.path.resolve().is_relative_to(_BUILT_IN_FOLDER)


def select_tasks(tasks: Sequence[Task], names: Iterable[str]) -> list[Task]:
    """The tasks named. A name is a task's, a cluster's, or `task.subtask` for one subtask.

    Case, spaces and hyphens do not matter (`RTE`, `closed-book QA`, `NLI`). A prefix is enough if only one name starts with it.

    Raises:
        FlanlabError: there is no such name, or several names start with it. The hint offers similar names.
    """
    chosen = {task.name: task for name in names for task in _named(tasks, name)}
    # A whole task includes its subtasks.
    return [chosen[name] for name in sorted(chosen) if name.partition(".")[0] == name or name.partition(".")[0] not in chosen]


def leave_out(tasks: Sequence[Task], names: Iterable[str]) -> list[Task]:
    """The tasks without those named (tasks, clusters, or subtasks as `task.subtask`).

    Raises:
        FlanlabError: a name is none of these.
    """
    left = {task.name: task for task in tasks}
    for name in names:
        for task in _named(tasks, name):
            whole, _, subtask = task.name.partition(".")
            # A subtask that was chosen alone is listed under its own name.
            left.pop(task.name, None)
            if subtask and whole in left:
                left[whole] = left[whole].without_subtask(subtask)
    return list(left.values())


def resolve_name(tasks: Sequence[Task], name: str) -> Task | Cluster:
    """The task, subtask or cluster that a name means, as people type it.

    Raises:
        FlanlabError: as `select_tasks`.
    """
    by_name = {plain_name(task.name): task for task in tasks}
    plain = plain_name(name)
    if plain in by_name:
        return by_name[plain]
    with contextlib.suppress(ValueError):
        return Cluster(name)
    whole, _, subtask = plain.partition(".")
    if subtask and whole in by_name:
        return by_name[whole].subtask(subtask)
    known: dict[str, Task | Cluster] = {cluster.value: cluster for cluster in Cluster} | by_name
    starting = sorted(one for one in known if plain and one.startswith(plain))
    if len(starting) == 1:
        return known[starting[0]]
    if starting:
        shown = ", ".join(starting[:8]) + (", ..." if len(starting) > 8 else "")
        raise FlanlabError(f"Several names start with `{name}`: {shown}.", hint="Write a longer name.")
    near = difflib.get_close_matches(plain, known, n=3)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`flan tasks list` shows what there is."
    if all(map(_is_built_in, tasks)):
        hint += " A task of your own: name its folder with --tasks (in Python: collections=; in a recipe: tasks.collections)."
    raise FlanlabError(f"There is no task or cluster called `{name}`.", hint=hint)


def _named(tasks: Sequence[Task], name: str) -> list[Task]:
    found = resolve_name(tasks, name)
    if isinstance(found, Task):
        return [found]
    members = [task for task in tasks if found in task.clusters]
    if not members:
        raise FlanlabError(f"The cluster `{name}` has no task here.", hint="`flan tasks list` shows what there is.")
    return members
