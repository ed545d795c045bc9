"""Numbers that keep the text they were written with: 1.10 is a number and is printed as 1.10.

Arrow has one type for a column. A column of 3 and 2.5 would become 3.0 and 2.5, an answer "7" would become "7.0", and a number
with more digits than a float would lose some. Such columns are kept as text under an extension type, and read cell by cell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

from flanlab.tasks.printing import as_json

_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(\.[0-9]*)?|(\.[0-9]+))([eE][+-]?[0-9]+)?")
_MOST_CHARACTERS = 400
"""Longer texts of digits stay text, because Python refuses to read very long ones as numbers."""
_WIDEST = 2**63


class _Written:
    """A number that is printed as it was written."""

    text: str

    def __new__(cls, text: str) -> _Written:
        number = super().__new__(cls, text)  # type: ignore[call-arg]
        number.text = text
        return number

    def __getnewargs__(self) -> tuple[str]:
        return (self.text,)

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


class WrittenInt(_Written, int):  # type: ignore[misc]
    """A whole number such as +47 or one of more than 64 bits."""


class WrittenFloat(_Written, float):  # type: ignore[misc]
    """A number such as 1.10 or 1e5."""


def read_number(text: str) -> int | float | None:
    """The number in a text, or None. Text with leading zeros is a code (02108), not a number; so is text with a prefix such as
    0x.

    The number is a plain int or float if that is printed as the same text.
    """
    text = text.strip()
    found = _NUMBER.fullmatch(text)
    if found is None or len(text) > _MOST_CHARACTERS:
        return None
    plain: int | float
    if any(found.groups()):
        plain = float(text)
        return plain if repr(plain) == text else WrittenFloat(text)
    plain = int(text)
    return plain if str(plain) == text and -_WIDEST <= plain < _WIDEST else WrittenInt(text)


class WrittenType(pa.ExtensionType):  # type: ignore[misc]
    """Cells with numbers as text, or JSON that contains such numbers."""

    def __init__(self) -> None:
        super().__init__(pa.string(), "flanlab.written")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> WrittenType:
        return cls()

    def __arrow_ext_scalar_class__(self) -> type[pa.ExtensionScalar]:
        return _Cell


class _Cell(pa.ExtensionScalar):  # type: ignore[misc]
    def as_py(self, **options: Any) -> Any:
        text = self.value.as_py() if self.value is not None else None
        if text is None:
            return None
        number = read_number(text)
        return DECODER.decode(text) if number is None else number


pa.register_extension_type(WrittenType())


class KeyTwiceError(ValueError):
    """A key occurs twice in one JSON object, so its value is ambiguous."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise KeyTwiceError(f"the key {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return found


def _number(text: str) -> int | float:
    if (number := read_number(text)) is not None:
        return number
    return int(text) if text.lstrip("-").isdigit() else float(text)


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_number, parse_float=_number)
"""Reads JSON whose numbers are printed as they were written. A key that occurs twice in an object raises KeyTwiceError."""


def number_column(texts: Iterable[str | None]) -> pa.Array | None:
    """A column of numbers, or None if a text is not a number."""
    numbers: list[int | float | None] = []
    for text in texts:
        number = None if text is None else read_number(text)
        if number is None and text is not None:
            return None
        numbers.append(number)
    return None if all(number is None for number in numbers) else column_of(numbers)


def column_of(values: Sequence[Any], *, as_written: bool = False) -> pa.Array:
    """Values as a column that keeps the text of each number. With `as_written`, it keeps it also beside other columns.

    Raises:
        ArrowException, ValueError, OverflowError, TypeError, RecursionError: the values are not of one type.
    """
    if not (_change_as_arrow(values) or as_written):
        return pa.array(values)
    pa.array(with_floats(values))  # so that a column has one type, as in other formats
    texts = [None if value is None else as_json(value, ensure_ascii=True) for value in values]
    return pa.array(texts, pa.string()).cast(WrittenType())


def _change_as_arrow(values: Iterable[Any]) -> bool:
    """Whether a number in a column of such values would change its text in Arrow, because of its form or of other values."""
    kinds: dict[tuple[str, ...], set[type]] = {}
    for value in values:
        for place, kind in _number_kinds(value, ()):
            kinds.setdefault(place, set()).add(kind)
    if any(bool in found and len(found) > 1 for found in kinds.values()):
        raise TypeError("true and false are no numbers")  # Arrow would read them as 1.0 and 0.0
    return any(len(found) > 1 or issubclass(next(iter(found)), _Written | Decimal) for found in kinds.values())


def _number_kinds(value: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], type]]:
    if isinstance(value, int | float | Decimal):
        yield place, type(value)
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _number_kinds(part, (*place, name))
    elif isinstance(value, list):
        for part in value:
            yield from _number_kinds(part, (*place, "[]"))


def with_floats(value: Any) -> Any:
    """A value whose numbers are all plain floats, which any column can hold."""
    if isinstance(value, dict):
        return {name: with_floats(part) for name, part in value.items()}
    if isinstance(value, list):
        return [with_floats(part) for part in value]
    return float(str(value)) if isinstance(value, int | float | Decimal) and not isinstance(value, bool) else value
