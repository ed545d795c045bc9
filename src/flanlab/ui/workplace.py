"""What the tabs share: the tasks, runs and models that the app was started with, and pages from templates.

Everything put into a page is escaped and shortened.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlencode

from jinja2 import Environment

from flanlab.data.encoding import TextEncoder
from flanlab.data.reader import RowReader
from flanlab.data.sources import Rows
from flanlab.errors import FlanlabError
from flanlab.report import wording
from flanlab.report.page import environment
from flanlab.report.run import Run, open_run
from flanlab.tasks.loading import BUILT_IN_COLLECTIONS, known_lineage, load_collections
from flanlab.tasks.schema import SPLITS, Split, Task

if TYPE_CHECKING:
    from flanlab.models.loading import LoadedModel

SHOWN_CHARACTERS = 4000
"""Longer texts lose their middle on a page."""
Item = TypeVar("Item")


@dataclass
class Workplace:
    """Everything that a page may show. What is not named here cannot be reached from the browser."""

    tasks: dict[str, Task]
    """By name; what the editor saves is added."""
    save_to: Path
    """The one folder that is written to."""
    runs: Sequence[Run] = ()
    models: Sequence[str] = ()
    reader: RowReader = field(default_factory=RowReader)
    _loaded: dict[str, LoadedModel] = field(default_factory=dict)
    _encoders: dict[str, TextEncoder] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def task(self, name: str) -> Task:
        """A task by its name.

        Raises:
            FlanlabError: it is none of those here.
        """
        return _one(self.tasks, name, "task", "Choose a task from the list.")

    def run(self, number: str) -> Run:
        """A run by its number, counting from 0.

        Raises:
            FlanlabError: it is none of those here.
        """
        runs = {str(place): run for place, run in enumerate(self.runs)}
        return _one(runs, number, "run", "Name the folders of runs: flan ui runs/nli runs/other")

    def rows(self, task: Task, split: str = "") -> tuple[Split, Rows]:
        """The rows of a split, of the first that the task has by default.

        Raises:
            FlanlabError: no such split, or the rows cannot be reached.
        """
        there: dict[str, Split] = {name: name for name in splits_of(task)}
        chosen = _one(there, split or next(iter(there)), "split", f"{task.name} has: {', '.join(there)}.")
        return chosen, self.reader.read(task, chosen)

    def encoder(self, name: str) -> TextEncoder:
        """The tokenizer of a model.

        Raises:
            FlanlabError: it is none of the models here, or cannot be loaded.
        """
        from flanlab.models.loading import load_encoder

        self.check_model(name)
        with self._lock:
            if name in self._loaded:
                return self._loaded[name].encoder
            if name not in self._encoders:
                self._encoders[name] = load_encoder(name)
            return self._encoders[name]

    @contextmanager
    def model(self, name: str) -> Iterator[LoadedModel]:
        """A model, loaded when it is first asked; one question at a time.

        Raises:
            FlanlabError: it is none of the models here, or cannot be loaded.
        """
        from flanlab.models.loading import load_model

        self.check_model(name)
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = load_model(name)
            yield self._loaded[name]

    def check_model(self, name: str) -> None:
        """Refuse a model that the app was not started with.

        Raises:
            FlanlabError: it is none of the models here.
        """
        hint = "Choose a model from the list." if self.models else "Start the app with one: flan ui --model NAME"
        _one({model: model for model in self.models}, name, "model", hint)

    @cached_property
    def ancestors(self) -> Mapping[str, frozenset[str]]:
        """The lineage of all tasks."""
        return known_lineage(self.tasks.values())

    def add(self, task: Task) -> None:
        """Take in a task that was saved."""
        self.tasks[task.name] = task
        self.__dict__.pop("ancestors", None)


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


def splits_of(task: Task) -> list[Split]:
    """The splits that a task has."""
    return [name for name in SPLITS if task.has_split(name)]


def _one(known: Mapping[str, Item], name: str, kind: str, hint: str) -> Item:
    if name not in known:
        raise FlanlabError(f"There is no {kind} `{short(name, 100)}` here." if name else f"No {kind} is chosen.", hint=hint)
    return known[name]


def number_in(fields: Mapping[str, str], name: str, default: int = 0) -> int:
    """A whole number, 0 or above, from a form.

    Raises:
        FlanlabError: it is none.
    """
    text = fields.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise FlanlabError(
            f"`{name}` is {short(text, 40)!r}, which is no whole number.", hint="Write a number such as 0 or 12."
        )
    return int(text)


def short(text: object, limit: int = SHOWN_CHARACTERS) -> str:
    """A text as it fits on a page: one of millions of characters loses its middle, and says how much."""
    whole = str(text)
    if len(whole) <= limit:
        return whole
    half = limit // 2
    return f"{whole[:half]} [... {len(whole) - 2 * half:,} characters more ...] {whole[-half:]}"


Page = Callable[[Workplace, Mapping[str, str]], str]
"""From the fields of a form to HTML; raises FlanlabError."""


@cache
def _environment() -> Environment:
    found = environment(Path(__file__).parent / "templates")
    for filter_ in (short, tail, wording.number, wording.signed, wording.count):
        found.filters[filter_.__name__] = filter_
    found.globals["link"] = link
    return found


def show(template: str, /, **facts: object) -> str:
    """Fill in a page or a piece of one."""
    return _environment().get_template(f"{template}.html.j2").render(**facts)


def link(place: str, fields: Mapping[str, object] | None = None, **changes: object) -> str:
    """An address with a query; fields that are empty are left out."""
    query = {name: value for name, value in {**(fields or {}), **changes}.items() if value not in ("", None)}
    return f"{place}?{urlencode(query)}" if query else place


def tail(text: object, limit: int = 40) -> str:
    """A text as it fits into a list of choices: of a long path, the end tells more than the beginning."""
    whole = str(text)
    return whole if len(whole) <= limit else f"…{whole[1 - limit :]}"
