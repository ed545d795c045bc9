"""Files of rows as tables: Parquet, JSONL, CSV and TSV, read so that a value is what it looks like to a person."""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from flanlab.errors import FlanlabError, one_line


def read_table(path: Path) -> pa.Table:
    """The rows of a file, by its suffix: .parquet, .jsonl, .csv or .tsv.

    Raises:
        FlanlabError: a file of another kind, or damaged; names the line where there is one.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise FlanlabError(f"{path}: cannot read files of this kind.", hint=f"Use one of: {', '.join(TABLE_SUFFIXES)}.")
    try:
        table = reader(path)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise FlanlabError(f"{path}, line {line}: is not UTF-8.", hint="Save the file with UTF-8 encoding.") from error
    except (pa.ArrowException, OSError) as error:
        raise FlanlabError(f"{path}: {one_line(error)}", hint="Fix what is named, or write the file again.") from error
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise FlanlabError(f"{path}: the column {twice[0]} occurs twice.", hint="Rename or remove one of the two.")
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
    if len(texts) < len(table.schema):
        as_written = read({name: pa.string() for name in table.column_names})
        # So is "02108": a code keeps its zeros.
        columns = zip(as_written.column_names, as_written.columns, strict=True)
        texts |= {name: pa.string() for name, column in columns if _has_leading_zeros(column)}
    return read(texts) if texts else table


def _has_leading_zeros(column: pa.ChunkedArray) -> bool:
    return bool(pc.any(pc.match_substring_regex(column, r"^\s*[+-]?0\d")).as_py())


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
                f"{path}, line {number}: not valid JSON: {one_line(error)}",
                hint='Each line is one complete object in braces: {"column": value, ...}.',
            ) from error
        if not isinstance(row, dict):
            raise FlanlabError(
                f"{path}, line {number}: is not an object.",
                hint='Each line is one complete object in braces: {"column": value, ...}.',
            )
        rows.append((number, row))
    if not rows:
        raise FlanlabError(f"{path}: holds no rows.", hint="Write one JSON object on each line.")
    names = dict.fromkeys(name for _, row in rows for name in row)
    return pa.table({name: _column(path, name, [(number, row.get(name)) for number, row in rows]) for name in names})


def _column(path: Path, name: str, cells: Sequence[tuple[int, Any]]) -> pa.Array:
    try:
        return pa.array([value for _, value in cells])
    except (pa.ArrowException, ValueError, OverflowError, TypeError) as error:
        first = bisect.bisect_left(range(1, len(cells)), True, key=lambda count: not _of_one_type(cells[:count]))
        raise FlanlabError(
            f"{path}, line {cells[first][0]}: the column {name} holds {cells[first][1]!r} here: {one_line(error)}",
            hint="Give a column values of one type in all rows; a missing value is null.",
        ) from error


def _of_one_type(cells: Sequence[tuple[int, Any]]) -> bool:
    try:
        pa.array([value for _, value in cells])
    except (pa.ArrowException, ValueError, OverflowError, TypeError):
        return False
    return True


_READERS: Mapping[str, Callable[[Path], pa.Table]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_json_lines,
    ".csv": _read_csv,
    ".tsv": _read_csv,
}

TABLE_SUFFIXES = tuple(_READERS)
