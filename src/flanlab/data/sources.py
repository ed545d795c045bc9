"""Rows of a task: from the Hugging Face Hub, from a mirror folder of it, or from local files."""

from __future__ import annotations

import bisect
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from flanlab.errors import FlanlabError
from flanlab.tasks.schema import Split, Task
from flanlab.tasks.templating import TemplatingError, compile_source

MIRROR_VARIABLE = "FLANLAB_MIRROR"
Row = Mapping[str, Any]


class MissingDataError(FlanlabError):
    """The rows are not at hand: no such mirror folder, no network, no such file."""


@dataclass(frozen=True)
class Rows(Sequence[Row]):
    """Rows of one split: a table, and which of its rows the task keeps. `rows[i]` is a dict of column to value."""

    table: pa.Table
    kept: Sequence[int]
    source_hash: str
    """Identity of the content read (file bytes, or the Hub's own fingerprint)."""

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        position = self.kept[index]
        return {name: column[position].as_py() for name, column in self._columns.items()}

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def _columns(self) -> dict[str, pa.ChunkedArray]:
        return dict(zip(self.table.column_names, self.table.columns, strict=True))


def load_rows(task: Task, split: Split, mirror: Path | None = None) -> Rows:
    """Rows of one split of a task, after slicing and the task's `filter`.

    Args:
        task: whose rows.
        split: train, dev or test.
        mirror: folder that holds Hub data sets as `<hub id>/<config or default>/<split>.parquet`; without one, the
            environment variable FLANLAB_MIRROR, and without that the Hub itself.

    Raises:
        MissingDataError: the rows cannot be reached.
        FlanlabError: the task has no such split, a file is damaged, or no row is left.
    """
    specification = task.source.split_spec(split)
    if specification is None:
        raise FlanlabError(
            f"{task.path}: the task {task.name} has no {split} split.",
            mend=f"Add `{split}` to source.splits, or leave the task out.",
        )
    if task.source.files is not None:
        table, source_hash = _read_local(task, specification)
    elif (mirror := mirror or mirror_from_environment()) is not None:
        table, source_hash = _read_mirror(task, specification, mirror)
    else:
        table, source_hash = _read_hub(task, specification)
    rows = Rows(table, range(table.num_rows), source_hash)
    if task.filter is not None:
        rows = Rows(table, _filtered(task, rows), source_hash)
    if not len(rows):
        raise FlanlabError(
            f"{task.path}: no row of the {split} split ({specification}) is left for {task.name}.",
            mend="Check source.splits and the task's filter.",
        )
    return rows


def mirror_from_environment() -> Path | None:
    """The folder named by FLANLAB_MIRROR, if any."""
    value = os.environ.get(MIRROR_VARIABLE)
    return Path(value) if value else None


def _filtered(task: Task, rows: Rows) -> list[int]:
    assert task.filter is not None
    keep = compile_source(task.filter)
    kept = []
    for index, row in enumerate(rows):
        try:
            if keep(row):
                kept.append(index)
        except TemplatingError as error:
            raise TemplatingError(f"{task.path}, row {index}: filter: {error.message}", mend=error.mend) from error
    return kept


def _read_local(task: Task, specification: str) -> tuple[pa.Table, str]:
    assert task.path is not None
    assert task.source.files is not None
    files = task.source.files if isinstance(task.source.files, dict) else {"all": task.source.files}
    folder = task.path.parent
    paths = {name: folder / file for name, file in files.items()}
    return _read_slices(task, specification, paths)


def _read_mirror(task: Task, specification: str, mirror: Path) -> tuple[pa.Table, str]:
    assert task.source.hub is not None
    if not mirror.is_dir():
        raise MissingDataError(
            f"There is no mirror folder at {mirror}.",
            mend=f"Correct --mirror or {MIRROR_VARIABLE}, or unset it to use the Hub.",
        )
    folder = mirror / task.source.hub / (task.source.config or "default")
    if not folder.is_dir():
        raise MissingDataError(
            f"{task.name}: the mirror {mirror} does not hold {task.source.hub}"
            + (f" ({task.source.config})." if task.source.config else "."),
            mend="Leave the task out, or add the data set to the mirror as <hub id>/<config or default>/<split>.parquet.",
        )
    return _read_slices(task, specification, {path.stem: path for path in sorted(folder.glob("*.parquet"))})


def _read_slices(task: Task, specification: str, paths: Mapping[str, Path]) -> tuple[pa.Table, str]:
    """Read the files that a slicing expression such as `train[:90%]+validation` names, and cut them."""
    from datasets import ReadInstruction

    try:
        instruction = ReadInstruction.from_spec(specification)
        tables = {name: _read_file(paths[name]) for name in _split_names(specification) if name in paths}
        slices = instruction.to_absolute({name: table.num_rows for name, table in tables.items()})
    except (ValueError, AssertionError) as error:
        raise FlanlabError(
            f"{task.path}: source.splits: {specification!r} cannot be read here: {error}",
            mend=f"Use Hugging Face slicing over the splits there are: {', '.join(paths) or 'none'}.",
        ) from error
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tables):
        digest.update(paths[name].read_bytes())
    parts = [tables[part.splitname].slice(part.from_, max(part.to - part.from_, 0)) for part in slices]
    try:
        table = parts[0] if len(parts) == 1 else pa.concat_tables(parts, promote_options="default")
    except pa.ArrowException as error:
        raise FlanlabError(
            f"{task.path}: source.splits: the parts of {specification!r} do not go together: {_one_line(error)}",
            mend="Give a column the same type in every file.",
        ) from error
    return table, digest.hexdigest()


def _split_names(specification: str) -> list[str]:
    return [part.split("[")[0].strip() for part in specification.split("+")]


def _read_file(path: Path) -> pa.Table:
    readers = {".parquet": _read_parquet, ".jsonl": _read_json_lines, ".csv": _read_csv, ".tsv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise FlanlabError(f"{path}: cannot read files of this kind.", mend=f"Use one of: {', '.join(readers)}.")
    if not path.is_file():
        raise MissingDataError(f"{path}: there is no such file.", mend="Correct source.files in the task file.")
    try:
        table = reader(path)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise FlanlabError(f"{path}, line {line}: is not UTF-8.", mend="Save the file with UTF-8 encoding.") from error
    except (pa.ArrowException, OSError) as error:
        raise FlanlabError(f"{path}: {_one_line(error)}", mend="Mend what is named, or write the file anew.") from error
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise FlanlabError(f"{path}: the column {twice[0]} occurs twice.", mend="Rename or remove one of the two.")
    return table


def _read_parquet(path: Path) -> pa.Table:
    return pq.read_table(path)


def _read_csv(path: Path) -> pa.Table:
    parse = pa.csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",", newlines_in_values=True)
    content = path.read_bytes()
    content.decode("utf-8")

    def read(types: Mapping[str, pa.DataType]) -> pa.Table:
        # Text such as "None" or "NA" is an answer as good as another; only an empty cell is a missing value.
        convert = pa.csv.ConvertOptions(null_values=[""], strings_can_be_null=True, column_types=types)
        return pa.csv.read_csv(pa.py_buffer(content), parse_options=parse, convert_options=convert)

    table = read({})
    # Numbers are numbers, all else is text: "true" or "10:30" must not change because the whole column looks like that.
    texts = {column.name: pa.string() for column in table.schema if not _is_number(column.type)}
    return read(texts) if texts else table


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _read_json_lines(path: Path) -> pa.Table:
    """Read by Python's own parser: pyarrow's turns texts that look like dates into times, and dies of a line `null`."""
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(path.read_bytes().decode("utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FlanlabError(
                f"{path}, line {number}: not valid JSON: {_one_line(error)}",
                mend='Each line is one complete object in braces: {"column": value, ...}.',
            ) from error
        if not isinstance(row, dict):
            raise FlanlabError(
                f"{path}, line {number}: is not an object.",
                mend='Each line is one complete object in braces: {"column": value, ...}.',
            )
        rows.append((number, row))
    if not rows:
        raise FlanlabError(f"{path}: holds no rows.", mend="Write one JSON object on each line.")
    names = dict.fromkeys(name for _, row in rows for name in row)
    return pa.table({name: _column(path, name, [(number, row.get(name)) for number, row in rows]) for name in names})


def _column(path: Path, name: str, cells: Sequence[tuple[int, Any]]) -> pa.Array:
    try:
        return pa.array([value for _, value in cells])
    except (pa.ArrowException, ValueError, OverflowError, TypeError) as error:
        first = bisect.bisect_left(range(1, len(cells)), True, key=lambda count: not _of_one_type(cells[:count]))
        raise FlanlabError(
            f"{path}, line {cells[first][0]}: the column {name} holds {cells[first][1]!r} here: {_one_line(error)}",
            mend="Give a column values of one type in all rows; a missing value is null.",
        ) from error


def _of_one_type(cells: Sequence[tuple[int, Any]]) -> bool:
    try:
        pa.array([value for _, value in cells])
    except (pa.ArrowException, ValueError, OverflowError, TypeError):
        return False
    return True


def _read_hub(task: Task, specification: str) -> tuple[pa.Table, str]:
    from datasets import load_dataset

    try:
        dataset = load_dataset(task.source.hub, task.source.config, split=specification, revision=task.source.revision)
    except Exception as error:  # the Hub's client raises many kinds, none of them ours to tell apart
        raise MissingDataError(
            f"{task.name}: {task.source.hub} could not be read from the Hugging Face Hub: {_one_line(error)}",
            mend="Check the network, or name a folder with the data with --mirror DIR.",
        ) from error
    return dataset.with_format("arrow")[:], str(dataset._fingerprint)


def _one_line(error: Exception, width: int = 300) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= width else text[: width - 1] + "…"
