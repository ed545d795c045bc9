"""Convert the many types of Parquet and Arrow files to the few types of rows."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from flanlab.data.written_numbers import WrittenType
from flanlab.errors import FlanlabError


def readable(table: pa.Table) -> pa.Table:
    """The same table with texts as text and numbers as they are written.

    Text marked as binary (old Impala and Spark, ClickHouse, TensorFlow) is text if all of it is UTF-8. Views and categories
    become plain text, and decimals numbers that print their digits. A 32-bit 0.1 is 0.1, not 0.10000000149011612.

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
    """The type that rows use for another type; `float32` is the one for 32-bit numbers."""
    types = pa.types
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _plain(kind.value_type, float32)
    if isinstance(kind, pa.JsonType):
        return _plain(kind.storage_type, float32)
    if types.is_string_view(kind) or _is_bytes(kind):
        return pa.large_string() if types.is_large_binary(kind) else pa.string()
    if types.is_float32(kind):
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
        if "_view<" in str(column.type):  # which pyarrow 26 casts to lists without offsets
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
        return pa.chunked_array([pa.array(column.to_pylist(), kind)])
    except (pa.ArrowException, ValueError, TypeError):
        return column


def _name_twice(kind: pa.DataType) -> str | None:
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        if twice := next((name for name in names if names.count(name) > 1), None):
            return str(twice)
    fields = [kind.field(position).type for position in range(kind.num_fields)]
    return next(filter(None, map(_name_twice, fields)), None)
