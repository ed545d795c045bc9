"""Convert the many types of Parquet and Arrow files to the few types of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flanlab.data.written_numbers import WrittenType
from flanlab.errors import FlanlabError


def readable(table: pa.Table) -> pa.Table:
    """The same table with texts as text and numbers as they are written.

    Text marked as binary (old Impala and Spark, ClickHouse, TensorFlow) is text if all of it is UTF-8. Views and categories
    become plain text, and decimals numbers that print their digits. A 32-bit 0.1 is 0.1, not 0.10000000149011612; a 16-bit one
    too, and whole numbers of 16 bits keep all their digits.

    Raises:
        FlanlabError: two members of a struct have the same name.
    """
    fields, columns = [], []
    for field, column in zip(table.schema, table.columns, strict=True):
        if twice := _name_twice(field.type):
            raise FlanlabError(
                f"The column {field.name} has structs with two members called {twice}.",
                hint="Rename or remove one of the two.",
            )
        if (kind := _plain(field.type, pa.float64())) != field.type:
            column = _converted(column, kind)
        if pa.types.is_decimal(column.type):  # one of Python is not equal to the same fraction: 0.1 in a filter
            digits = [None if cell is None else format(cell, "f") for cell in column.to_pylist()]
            column = pa.chunked_array([pa.array(digits, pa.string()).cast(WrittenType())])
        fields.append(field.with_type(column.type))
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=pa.schema(fields, table.schema.metadata))


def _plain(kind: pa.DataType, float32: pa.DataType) -> pa.DataType:
    """The type that rows use for another type; `float32` is the one for numbers of 32 and 16 bits."""
    types = pa.types
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _plain(kind.value_type, float32)
    if isinstance(kind, pa.JsonType):
        return _plain(kind.storage_type, float32)
    if types.is_string_view(kind) or _is_bytes(kind):
        return pa.large_string() if types.is_large_binary(kind) else pa.string()
    if types.is_float32(kind) or types.is_float16(kind):
        return float32
    if types.is_decimal(kind) and kind.scale == 0:
        return pa.int64()
    if types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type, float32)) for field in kind])
    if types.is_map(kind):
        return pa.map_(_plain(kind.key_type, float32), _plain(kind.item_type, float32))
    if types.is_large_list(kind) or types.is_large_list_view(kind):
        return pa.large_list(_plain(kind.value_type, float32))
    if types.is_list(kind) or types.is_fixed_size_list(kind) or types.is_list_view(kind):
        return pa.list_(_plain(kind.value_type, float32))
    return kind


def _converted(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """The column as another type, or unchanged if that is impossible: bytes that are not text, numbers that are too large."""
    try:
        # pyarrow 26 casts views to lists without offsets, and 16-bit numbers to texts that are not the shortest.
        if "_view<" in str(column.type) or "halffloat" in str(column.type):
            return _rebuilt(column, kind)
        if pa.types.is_run_end_encoded(column.type):
            column = pa.chunked_array([pc.run_end_decode(chunk) for chunk in column.chunks])
        # Through the shortest text of a 32-bit number.
        by_text = column.cast(_plain(column.type, pa.string())).cast(kind)
        if pa.types.is_fixed_size_binary(column.type):
            by_text = pc.utf8_rtrim(by_text, "\0")  # ClickHouse pads texts of a fixed size with zeros
        # Bytes such as DuckDB's intervals may be UTF-8 by chance. A text has no zeros inside.
        is_text = not _is_bytes(column.type) or not pc.any(pc.match_substring(by_text, "\0")).as_py()
        return by_text if is_text else column
    except pa.ArrowNotImplementedError:
        return _rebuilt(column, kind)
    except pa.ArrowException:
        return column


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    are_bytes = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    return any(check(kind) for check in are_bytes)


def _rebuilt(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    try:
        return pa.chunked_array([pa.array([_shortest(value, column.type) for value in column.to_pylist()], kind)])
    except (pa.ArrowException, ValueError, TypeError):
        return column


def _shortest(value: Any, kind: pa.DataType) -> Any:
    """A value whose numbers of 32 and 16 bits have the fewest digits that read back as the same number."""
    types = pa.types
    if value is None:
        return None
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _shortest(value, kind.value_type)
    if types.is_struct(kind):
        return {field.name: _shortest(value[field.name], field.type) for field in kind}
    if types.is_map(kind):
        return [(key, _shortest(item, kind.item_type)) for key, item in value]
    if types.is_nested(kind):
        return [_shortest(part, kind.value_type) for part in value]
    if types.is_float32(kind):
        return shortest(np.float32(value))
    return shortest(np.float16(value)) if types.is_float16(kind) else value


def shortest(number: np.floating[Any]) -> float:
    """The number with the fewest digits that reads back as the same one: 0.1, not 0.10000000149011612.

    >>> shortest(np.float32(0.1)), shortest(np.float16(65504))
    (0.1, 65504.0)
    """
    return float(number) if number.is_integer() else float(str(number))


def _name_twice(kind: pa.DataType) -> str | None:
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        if twice := next((name for name in names if names.count(name) > 1), None):
            return str(twice)
    fields = [kind.field(position).type for position in range(kind.num_fields)]
    return next(filter(None, map(_name_twice, fields)), None)
