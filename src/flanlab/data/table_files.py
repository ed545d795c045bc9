"""Read files of rows as tables: Parquet, Arrow, JSON, JSONL, CSV and TSV. A value is read as what it looks like."""

from __future__ import annotations

import bisect
import csv
import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flanlab.data.arrow_types import readable
from flanlab.data.written_numbers import DECODER, KeyTwiceError, column_of, number_column
from flanlab.errors import FlanlabError, one_line
from flanlab.files import decoded, reading
from flanlab.progress import say

_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
UNREADABLE = (pa.ArrowException, ValueError, OverflowError, TypeError, RecursionError)
"""What values that are not of one type may raise."""
_INNER_LINES = 3
_Lines = list[tuple[int, list[str]]]
"""Rows of a text file, each with its first line number."""


def table_suffix(path: Path, known: Sequence[str] = ()) -> str | None:
    """The suffix of a file of rows (`.jsonl.gz`), which says its format; None for other files. `known`: others than usual."""
    return next((suffix for suffix in known or TABLE_SUFFIXES if path.name.lower().endswith(suffix)), None)


def table_name(path: Path) -> str:
    """The name of a file of rows without its suffix."""
    return path.name[: len(path.name) - len(table_suffix(path) or "")]


def read_table(path: Path) -> pa.Table:
    """The rows of a file, by its suffix: .parquet, .arrow, .feather, .json, .jsonl, .csv or .tsv; text also as .gz or .zst.

    A CSV or TSV column whose cells are all numbers holds numbers. Any other holds text. A number is printed as it is written in
    the file, also in JSON.

    Raises:
        FlanlabError: the file has another type or is damaged. The message names the line if there is one.
    """
    suffix = table_suffix(path)
    if suffix is None:
        raise FlanlabError(
            f"{path}: this file type cannot be read.",
            hint=f"Use one of: {', '.join(TABLE_SUFFIXES)}. A spreadsheet program saves a sheet as CSV in UTF-8.",
        )
    kind, *packed = re.findall(r"\.\w+", suffix)
    with reading(path, "Fix this error, or write the file again."):
        if kind in _BINARY:
            table = _BINARY[kind](path)
            # A damaged Arrow file may have offsets that end the whole process when a cell is read.
            table.validate(full=True)
            table = readable(table)
        else:
            compression = _COMPRESSED[packed[0]] if packed else None
            table = _TEXT[kind](path, decoded(path, pa.input_stream(str(path), compression=compression).read()))
    refuse_same_names(table, str(path))
    return table


def refuse_same_names(table: pa.Table, what: str) -> None:
    """Refuse a table with two columns of one name; `what` names it in the error."""
    if twice := sorted({name for name in table.column_names if table.column_names.count(name) > 1}):
        raise FlanlabError(f"{what}: the column {twice[0] or repr('')} occurs twice.", hint="Rename or remove one of the two.")


def _read_parquet(path: Path) -> pa.Table:
    # `read_table` would import pyarrow.dataset, which takes longer than most files.
    with pq.ParquetFile(path) as file:
        return file.read()


def _read_arrow(path: Path) -> pa.Table:
    try:
        with pa.ipc.open_file(path) as file:
            return file.read_all()
    except pa.ArrowInvalid:  # the other kind of Arrow file, which Hugging Face's datasets write
        with path.open("rb") as raw, pa.ipc.open_stream(raw) as stream:
            return stream.read_all()


def _read_tsv(path: Path, text: str) -> pa.Table:
    """Quotation marks enclose cells, as in CSV, or are part of the text, as in data sets without quoting.

    If each line has as many cells as the header, each line is a row. If then a cell begins with a quotation mark that cannot
    enclose it, no quotation mark encloses a cell.
    """
    lines = [(number, line.split("\t")) for number, line in enumerate(re.split("\r\n|\n|\r", text), start=1) if line]
    width = len(lines[0][1]) if lines else 0
    if width < 2 or any(len(cells) != width for _, cells in lines):
        return _table(path, _quoted_rows(path, text, "\t"))
    try:
        rows = _quoted_rows(path, text, "\t")
    except FlanlabError:
        return _table(path, lines)
    if len(rows) < len(lines):
        begins = {number for number, _ in rows}
        inside = next(number for number, _ in lines if number not in begins)
        opened = max(number for number in begins if number < inside)
        raise FlanlabError(
            f"{path}, line {opened}: a quotation mark opens a cell here that continues in line {inside}, but each of these"
            f" lines has {width} cells.",
            hint="Close the quotation mark in its line, or remove it. Inside a quoted cell, write it twice.",
        )
    return _table(path, rows)


def _separator(text: str) -> str:
    """A comma, or a semicolon if the header has semicolons only: spreadsheets write them where the decimal mark is a comma."""
    header = text.partition("\n")[0]
    return ";" if ";" in header and "," not in header else ","


def _quoted_rows(path: Path, text: str, delimiter: str) -> _Lines:
    """Rows whose cells may be quoted. Nothing is guessed, because a mark that is never closed could swallow rows."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: _Lines = []
    begins = 1
    is_told = False
    try:
        for cells in reader:
            if rows and cells and len(cells) != len(rows[0][1]):
                header = rows[0][1]
                is_other = len(header) == 1 and any(mark in header[0] for mark in ";\t|," if mark != delimiter)
                raise FlanlabError(
                    f"{path}, line {begins}: has {len(cells)} cells, but the header has {len(header)}.",
                    hint="Separate columns by commas or semicolons (by tabs in a .tsv file)."
                    if is_other
                    else "Give each row as many cells as the header. Quote a cell that contains the separator.",
                )
            if not is_told and any(_swallows_rows(cell, delimiter, len(cells)) for cell in cells):
                is_told = True
                say(
                    f"{path}, line {begins}: a quoted cell of this row continues to line {reader.line_num}, and the lines"
                    f" inside have {len(cells)} cells each. Is a quotation mark missing? Those lines are read as text."
                )
            rows += [(begins, cells)] if cells else []
            begins = reader.line_num + 1
    except csv.Error as error:
        end = " and never closes" if "end of data" in str(error) else f"; in line {reader.line_num} more text follows it"
        raise FlanlabError(
            f"{path}, line {begins}: a quotation mark opens a cell in the row that begins here{end}.",
            hint="Close the quotation mark. Inside a quoted cell, write it twice, and quote the whole cell.",
        ) from error
    return rows


def _swallows_rows(cell: str, delimiter: str, width: int) -> bool:
    """Whether a cell looks as if an unclosed quotation mark had made text of rows: all its inner lines, three or more, have as
    many cells as a row."""
    inner = cell.splitlines()[1:-1] if width > 1 and "\n" in cell else []
    return len(inner) >= _INNER_LINES and all(line.count(delimiter) == width - 1 for line in inner)


def _table(path: Path, rows: _Lines) -> pa.Table:
    if not rows:
        raise FlanlabError(f"{path}: holds no rows.", hint="Write the column names, then a line for each row.")
    (_, header), *body = rows
    # Text such as "None" or "NA" is a normal answer. Only an empty cell is a missing value.
    columns = ([row[position] or None for _, row in body] for position in range(len(header)))
    arrays = [number_column(cells) or pa.array(cells, pa.string()) for cells in columns]
    return pa.Table.from_arrays(arrays, [name.strip() for name in header])


def _read_json_lines(path: Path, text: str) -> pa.Table:
    """Read by Python's parser: pyarrow's turns texts that look like dates into times, and crashes on a line `null`."""
    lines = [(f"line {number}", line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    return _table_of_objects(path, [(where, json_object(f"{path}, {where}", line)) for where, line in lines])


def json_object(where: str, text: str) -> dict[str, Any]:
    """A row that is one line of JSON.

    Raises:
        FlanlabError: it is no JSON object. The message begins with `where`.
    """
    try:
        return _checked_object(where, DECODER.decode(text))
    except (ValueError, RecursionError) as error:
        raise _not_json(where, error) from error


def _checked_object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FlanlabError(f"{where}: is not a JSON object.", hint=_ONE_OBJECT)
    return value


def _read_json(path: Path, text: str) -> pa.Table:
    """A JSON array of objects, or objects one after the other."""
    values, place = [], len(text) - len(text.lstrip())
    try:
        while place < len(text):
            value, end = DECODER.raw_decode(text, place)
            values.append(value)
            place = next((at for at in range(end, len(text)) if not text[at].isspace()), len(text))
    except (ValueError, RecursionError) as error:
        raise _not_json(f"{path}, row {len(values)}" if isinstance(error, KeyTwiceError) else str(path), error) from error
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    numbered = [(f"row {number}", value) for number, value in enumerate(values)]
    return _table_of_objects(path, [(where, _checked_object(f"{path}, {where}", value)) for where, value in numbered])


def _not_json(where: str, error: Exception) -> FlanlabError:
    if isinstance(error, KeyTwiceError):
        return FlanlabError(f"{where}: {error}.", hint="Remove one of the two, or give it another name.")
    return FlanlabError(f"{where}: not valid JSON: {one_line(error)}", hint=_ONE_OBJECT)


_ONE_OBJECT = 'Each row is one complete object in braces: {"column": value, ...}.'


def _table_of_objects(path: Path, rows: Sequence[tuple[str, dict[str, Any]]]) -> pa.Table:
    if not rows:
        raise FlanlabError(f"{path}: holds no rows.", hint="Write one JSON object for each row.")
    names = dict.fromkeys(name for _, row in rows for name in row)
    return pa.table({name: _column(path, name, [(where, row.get(name)) for where, row in rows]) for name in names})


def _column(path: Path, name: str, cells: Sequence[tuple[str, Any]]) -> pa.Array:
    values = [value for _, value in cells]
    try:
        return column_of(values)
    except UNREADABLE as error:
        first = bisect.bisect_left(range(1, len(cells)), True, key=lambda count: not _of_one_type(values[:count]))
        where, value = cells[first]
        raise FlanlabError(
            f"{path}, {where}: the column {name} has the value {value!r} here: {one_line(error)}",
            hint="Use values of one type in all rows of a column. A missing value is null.",
        ) from error


def _of_one_type(values: Sequence[Any]) -> bool:
    try:
        column_of(values)
    except UNREADABLE:
        return False
    return True


_BINARY: Mapping[str, Callable[[Path], pa.Table]] = {".parquet": _read_parquet, ".arrow": _read_arrow, ".feather": _read_arrow}
_TEXT: Mapping[str, Callable[[Path, str], pa.Table]] = {
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".csv": lambda path, text: _table(path, _quoted_rows(path, text, _separator(text))),
    ".tsv": _read_tsv,
}

TABLE_SUFFIXES = (*_BINARY, *_TEXT, *(kind + end for kind in _TEXT for end in _COMPRESSED))
