"""Rows of a task: from the Hugging Face Hub, from a mirror folder of it, or from local files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from flanlab.data.arrow_types import readable
from flanlab.data.generators import generated_files
from flanlab.data.mirror import MissingDataError, mirror_files, mirror_from_environment
from flanlab.data.table_files import UNREADABLE, read_table
from flanlab.data.written_numbers import WrittenType, column_of
from flanlab.errors import FlanlabError, one_line
from flanlab.files import cache_folder, new_file
from flanlab.hub import may_have_rows, offline_hint, work_offline_if_unreachable
from flanlab.tasks.printing import TemplatingError
from flanlab.tasks.schema import Source, Split, Task
from flanlab.tasks.templating import compile_source

CONVERSION = "refs/convert/parquet"
"""Revision with the Hub's own Parquet copy of a data set that has a loading script."""
_MANY_ROWS = 20_000
"""From this number of rows on, a filter takes noticeable time (16 microseconds a row), and its result is cached."""
Row = Mapping[str, Any]


class NoRowsError(FlanlabError):
    """A split has no row: its source is empty, or the task's filter keeps none."""


class EmptySliceError(NoRowsError, MissingDataError):
    """The source has no row in a slice; another copy of the data set may have some."""


@dataclass(frozen=True)
class Rows(Sequence[Row]):
    """Rows of one split: a table, and the numbers of the rows that the task keeps. `rows[i]` maps columns to values."""

    table: pa.Table
    kept: Sequence[int]
    source_hash: str
    """Identity of the content read (file bytes, or the Hub's own fingerprint)."""
    turns: Sequence[int] | None = None
    """For each of `kept` the value of its column `turn`; None if the task has no `turns`."""

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        own = {} if self.turns is None else {"turn": self.turns[index]}
        return _TableRow(self._columns, self.kept[index], own)

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def _columns(self) -> dict[str, pa.ChunkedArray | pa.Array]:
        # Indexing a single chunk is several times as fast as indexing its column.
        columns = (column.chunk(0) if column.num_chunks == 1 else column for column in self.table.columns)
        return dict(zip(self.table.column_names, columns, strict=True))


class _TableRow(Mapping[str, Any]):
    """A row of a table. A cell is read when it is first needed, because a template needs few of a row's columns.

    Under the name `row` it returns itself, unless a column has this name. `row['Review Text']` reaches columns whose names are
    not jinja2 names, or have another meaning in jinja2.
    """

    __slots__ = ("_cells", "_columns", "_position")

    def __init__(self, columns: Mapping[str, pa.ChunkedArray | pa.Array], position: int, cells: dict[str, Any]) -> None:
        self._columns = columns
        self._position = position
        self._cells = cells

    def __getitem__(self, name: str) -> Any:
        if name == "row" and name not in self._columns:
            return self
        if name not in self._cells:
            cell = self._columns[name][self._position]
            try:
                self._cells[name] = cell.as_py()
            except (ValueError, ArithmeticError, KeyError) as error:  # a time outside Python's range, an unknown time zone
                raise FlanlabError(
                    f"The column {name} has a cell of the type {cell.type} that cannot be read: {one_line(error)}",
                    hint="Write the column as text.",
                ) from error
        return self._cells[name]

    def __contains__(self, name: object) -> bool:
        return name == "row" or name in self._columns or name in self._cells

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._columns, *self._cells)))

    def __len__(self) -> int:
        return len(self._columns.keys() | self._cells.keys())

    def __repr__(self) -> str:
        return repr(dict(self))


def label_names(table: pa.Table) -> dict[str, list[str]]:
    """Columns whose integers are named labels, by the Hub's features: column to the names of 0, 1, and so on."""
    try:
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        labels = {column: feature for column, feature in features.items() if feature.get("_type") == "ClassLabel"}
        return {column: list(map(str, label["names"])) for column, label in labels.items() if label.get("names")}
    except (ValueError, LookupError, TypeError, AttributeError):  # written by another program
        return {}


def load_splits(hub: str, config: str | None, revision: str | None = None, mirror: Path | None = None) -> dict[str, pa.Table]:
    """All splits of a Hub data set, complete, from the Hub or a mirror (see `load_rows`).

    Raises:
        MissingDataError: the data set, or this configuration of it, cannot be reached.
    """
    mirror = mirror or mirror_from_environment()
    if mirror is not None:
        return {split: _read_files(files) for split, files in mirror_files(hub, [hub], config, mirror, None).items()}
    splits = _from_hub(hub, hub, {"name": config, "revision": revision})
    return {split: readable(rows.with_format("arrow")[:]) for split, rows in splits.items()}


def load_rows(task: Task, split: Split, mirror: Path | None = None) -> Rows:
    """Rows of one split of a task, after slicing and the task's `filter`.

    Args:
        task: the task. For a task with subtasks: the rows of all subtasks one after the other, with a column `subtask`.
        split: train, dev or test.
        mirror: folder with Hub data sets as `<hub id>/<config or default>/<split>.parquet`. Default: the environment
            variable FLANLAB_MIRROR, or else the Hub.

    Raises:
        MissingDataError: the rows are not available.
        NoRowsError: no row is left.
        FlanlabError: the task has no such split, a file is damaged, or a column has different types.
    """
    sources = {subtask: source for subtask, source in task.sources.items() if source.split_spec(split) is not None}
    if not sources:
        raise FlanlabError(
            f"{task.path}: the task {task.name} has no {split} split.",
            hint=f"Add `{split}` to source.splits, or leave the task out.",
        )
    mirror = mirror or mirror_from_environment()
    read = {subtask: _read_source(task, subtask, source, split, mirror) for subtask, source in sources.items()}
    tables = [
        table
        if subtask is None or "subtask" in table.column_names
        else table.append_column("subtask", pa.repeat(subtask, table.num_rows))
        for subtask, (table, _) in read.items()
    ]
    table = joined(tables, f"{task.path}: the {split} splits of its subtasks {', '.join(map(str, read))}")
    hashes = [source_hash for _, source_hash in read.values()]
    source_hash = hashes[0] if len(hashes) == 1 else hashlib.blake2b("".join(hashes).encode(), digest_size=16).hexdigest()
    rows = Rows(table, range(table.num_rows), source_hash)
    if task.turns is not None:
        rows = _taken_apart(task, rows)
    if task.filter is not None:
        rows = _filtered(task, split, rows)
    if not len(rows):
        given = ", ".join(str(source.split_spec(split)) for source in sources.values())
        raise NoRowsError(
            f"{task.path}: no row of the {split} split ({given}) is left for {task.name}.",
            hint="Check source.splits and the task's filter.",
        )
    return rows


def _read_source(task: Task, subtask: str | None, source: Source, split: Split, mirror: Path | None) -> tuple[pa.Table, str]:
    """The sliced table of one source, and the hash of what was read."""
    specification = source.split_spec(split)
    assert specification is not None
    if source.files is not None:
        files = source.files if isinstance(source.files, dict) else {"all": source.files}
        paths = {name: [task.path.parent / file] for name, file in files.items()}
    elif source.generator is not None:
        paths = {name: [file] for name, file in generated_files(source.generator, source.config).items()}
    else:
        # Errors name the subtask, so that the user can leave it out and use the others.
        name = task.name if subtask is None or "." in task.name else f"{task.name}.{subtask}"
        if mirror is None:
            return _read_hub(name, source, specification)
        hubs = [hub for hub in (source.hub, source.formerly) if hub is not None]
        paths = mirror_files(name, hubs, source.config, mirror, _how_to_obtain(source))
    return _read_slices(task, specification, paths)


def joined(tables: Sequence[pa.Table], what: str) -> pa.Table:
    """The rows of tables one after the other; `what` names them in an error.

    Raises:
        FlanlabError: a column has values of different types.
    """
    if len(tables) == 1:
        return tables[0]
    try:
        return pa.concat_tables(_with_written_numbers(tables), promote_options="permissive")
    except UNREADABLE as error:
        raise FlanlabError(
            f"{what} cannot be joined: {one_line(error)}", hint="Give a column the same type everywhere."
        ) from error


def _with_written_numbers(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """The tables with numbers as they are written, where Arrow would change those of one table because of another: 7 to 7.0."""
    changed = list(tables)
    for name in dict.fromkeys(name for table in tables for name in table.column_names):
        having = [place for place, table in enumerate(tables) if name in table.column_names]
        if _numbers_differ([tables[place].schema.field(name).type for place in having]):
            cells = [tables[place][name].to_pylist() for place in having]
            column_of([cell for own in cells for cell in own], as_written=True)  # they must go together
            for place, own in zip(having, cells, strict=True):
                position = changed[place].column_names.index(name)
                changed[place] = changed[place].set_column(position, name, column_of(own, as_written=True))
    return changed


def _numbers_differ(kinds: Sequence[pa.DataType]) -> bool:
    """Whether types have numbers of different kinds in the same place."""
    found: dict[tuple[str | int, ...], set[str]] = {}
    for kind in kinds:
        for place, number in _numbers(kind, ()):
            found.setdefault(place, set()).add(number)
    are_written = {isinstance(kind, WrittenType) for kind in kinds if not pa.types.is_null(kind)}
    return len(are_written) > 1 or any(len(numbers) > 1 for numbers in found.values())


def _numbers(kind: pa.DataType, place: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Where a type has numbers, and of which kind."""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        yield place, "whole" if pa.types.is_integer(kind) else "fraction"
    elif pa.types.is_decimal(kind):
        yield place, str(kind)
    for position in range(kind.num_fields):
        part = kind.field(position)
        yield from _numbers(part.type, (*place, part.name if pa.types.is_struct(kind) else position))


def _filtered(task: Task, split: Split, rows: Rows) -> Rows:
    passed = _passing(task, rows) if len(rows) < _MANY_ROWS else _kept_passing(task, split, rows)
    turns = None if rows.turns is None else [rows.turns[index] for index in passed]
    return replace(rows, kept=[rows.kept[index] for index in passed], turns=turns)


def _passing(task: Task, rows: Rows) -> list[int]:
    assert task.filter is not None
    return [index for index, keep in enumerate(_each_row(task, rows, "filter", task.filter)) if keep]


def _kept_passing(task: Task, split: Split, rows: Rows) -> list[int]:
    """Like `_passing`, with the result kept in the cache folder."""
    key = "".join((task.hash, split, rows.source_hash, _code_hash()))
    path = cache_folder() / "filters" / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):  # missing, or damaged
        found = np.load(path)
        in_order = found.dtype == np.int64 and found.ndim == 1 and bool((np.diff(found, prepend=-1) > 0).all())
        if in_order and (not len(found) or found[-1] < len(rows)):
            kept: list[int] = found.tolist()
            return kept
    passed = _passing(task, rows)
    # If the cache folder cannot be written, the rows are still available.
    with contextlib.suppress(OSError), new_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.asarray(passed, dtype=np.int64))
    return passed


@cache
def _code_hash() -> str:
    """Hash of the code that finds, renders and encodes rows: all of the packages `tasks` and `data`."""
    digest = hashlib.blake2b(digest_size=16)
    root = Path(__file__).parents[1]
    for path in sorted([*(root / "tasks").rglob("*.py"), *(root / "data").rglob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _taken_apart(task: Task, rows: Rows) -> Rows:
    """The rows, each repeated for each of its turns."""
    assert task.turns is not None
    kept: list[int] = []
    turns: list[int] = []
    for index, count in enumerate(_each_row(task, rows, "turns", task.turns)):
        if not isinstance(count, int):
            raise FlanlabError(
                f"{task.path}, row {index}: `turns` gives {count!r}, which is not a whole number.",
                hint='Write how many examples the row has, such as "{{ questions | length }}".',
            )
        kept.extend([rows.kept[index]] * count)
        turns.extend(range(count))
    return replace(rows, kept=kept, turns=turns)


def _each_row(task: Task, rows: Rows, what: str, source: str) -> Iterator[Any]:
    """The value of an expression for each row."""
    evaluate = compile_source(source)
    for index, row in enumerate(rows):
        try:
            yield evaluate(row)
        except TemplatingError as error:
            raise TemplatingError(f"{task.path}, row {index}: {what}: {error.message}", hint=error.hint) from error


def _read_files(paths: Sequence[Path]) -> pa.Table:
    return joined([read_table(path) for path in paths], f"{paths[0].parent}: {', '.join(path.name for path in paths)}")


def _how_to_obtain(source: Source) -> str | None:
    if source.obtain is None:
        return None
    folder = f"{source.hub}/{source.config or 'default'}"
    names = sorted({name for specification in source.splits.values() for name in _split_names(specification)})
    return (
        f"{' '.join(source.obtain.split())} Save the rows in a mirror folder as"
        f" {' and '.join(f'{folder}/{name}.parquet' for name in names)} (or .jsonl, .csv) and name that folder with --mirror."
    )


def _read_slices(task: Task, specification: str, paths: Mapping[str, Sequence[Path]]) -> tuple[pa.Table, str]:
    """Read the files of a slicing expression such as `train[:90%]+validation`, and slice them."""
    names = _split_names(specification)
    if absent := [name for name in names if name not in paths or not os.path.isfile(paths[name][0])]:
        what = "there is no such file" if absent[0] in paths else f"there are no rows of the split `{absent[0]}`"
        place = f": {paths[absent[0]][0]}" if absent[0] in paths else ""
        raise MissingDataError(
            f"{task.path}: source.splits: {specification!r}{place}: {what}.",
            hint=f"The available splits are: {', '.join(paths) or 'none'}. Use one of them, or provide the file.",
        )
    tables = {name: _read_files(paths[name]) for name in names}
    cuts = _slices(task, specification, tables)
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tables):
        for path in paths[name]:
            digest.update(path.read_bytes())
    if not any(map(len, cuts)):
        there = ", ".join(f"{name} has {len(table)} rows" for name, table in tables.items())
        raise EmptySliceError(
            f"{task.path}: source.splits: {specification!r} leaves no row for {task.name} ({there}).",
            hint="Take a smaller slice, or provide more rows.",
        )
    return joined(cuts, f"{task.path}: source.splits: the slices of {specification!r}"), digest.hexdigest()


_SLICE = re.compile(
    r"(?P<split>[^\[\]\s](?:[^\[\]]*[^\[\]\s])?)(?:\[(?:(?P<start>-?\d{1,18})%?)?:(?:(?P<stop>-?\d{1,18})%?)?\])?"
)
"""One term of `source.splits`: a split, or a slice of it by rows or percent."""


def _slices(task: Task, specification: str, tables: Mapping[str, pa.Table]) -> list[pa.Table]:
    """The slices of a table each, by Hugging Face's rules: `train[:-200]+validation[10%:]`."""
    cuts = []
    for part in re.split(r"\s*\+\s*", specification):
        found = _SLICE.fullmatch(part)
        ends = [] if found is None else [None if end is None else int(end) for end in found.group("start", "stop")]
        is_share = "%" in part  # as there: where one end is a percentage, the other is one too
        if found is None or (is_share and any(abs(end) > 100 for end in ends if end is not None)):
            raise FlanlabError(
                f"{task.path}: source.splits: {part!r} in {specification!r} is no slice.",
                hint=f"Write slices such as train[:100], train[-200:] or train[10%:50%] of: {', '.join(tables)}.",
            )
        table = tables[found["split"]]
        start, stop = (round(end * len(table) / 100) if is_share and end is not None else end for end in ends)
        places = range(len(table))[start:stop]
        cuts.append(table.slice(places.start, len(places)))
    return cuts


def _split_names(specification: str) -> list[str]:
    return [part.split("[")[0].strip() for part in specification.split("+")]


def _read_hub(name: str, source: Source, specification: str) -> tuple[pa.Table, str]:
    assert source.hub is not None
    if source.obtain is not None:
        raise MissingDataError(f"{name}: the Hub has no copy that can be loaded.", hint=str(_how_to_obtain(source)))
    where: dict[str, Any] = {"name": source.config}
    if source.revision == CONVERSION and source.config is not None:
        # The conversion has no list of its configurations, only a folder for each. Splits with unusual names do not load there.
        where = {"data_files": {name: f"{source.config}/{name}/*.parquet" for name in _split_names(specification)}}
    dataset = _from_hub(name, source.hub, {"split": specification, "revision": source.revision, **where})
    return readable(dataset.with_format("arrow")[:]), str(dataset._fingerprint)


def _from_hub(name: str, hub: str, options: Mapping[str, Any]) -> Any:
    work_offline_if_unreachable(hub)
    message = f"{name}: {hub} could not be read from the Hugging Face Hub"
    hint = f"{offline_hint(hub) or 'Check the network.'} Or name a folder with the data with --mirror DIR."
    if not may_have_rows(hub):
        raise MissingDataError(f"{message}.", hint=hint)
    from datasets import load_dataset

    try:
        return load_dataset(hub, **options)
    except Exception as error:  # the Hub's client raises many kinds of errors
        if "scripts are no longer supported" in str(error):
            hint = f"Set source.revision: {CONVERSION}, the Hub's own conversion, or use a --mirror DIR with its rows."
        elif "Config name is missing" in str(error):
            hint = "Name one of its configurations (source.config, or --config)."
        raise MissingDataError(f"{message}: {one_line(error)}", hint=hint) from error
