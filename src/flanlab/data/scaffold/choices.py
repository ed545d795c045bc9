"""Multiple choice: columns that hold the options of each row, beside one that says which of them is right."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from flanlab.data.scaffold.columns import SAMPLE_ROWS, Column, is_list_of_texts, leaves, spoken

_CHOICE_NAMES = ["choice", "option", "ending", "answer", "sol", "solution", "candidate", "alternative", "quiz"]
_MOST_CHOICES = 20


@dataclass(frozen=True)
class Choices:
    """Options of each row: expressions without their braces, and the columns that hold them."""

    options: str
    answer: str
    columns: Sequence[str]


def find_choices(answer: Column, others: Sequence[Column]) -> Choices | None:
    """The options that a row's answer is one of, where other columns hold them.

    They are known by name (`choices`, `ending0` and `ending1`, ...) and by the answers, which must be places among them,
    from 0, 1 or A on, or say one of them.
    """
    if answer.kind not in ("text", "whole") or (answer.kind == "whole" and answer.distinct > _MOST_CHOICES):
        return None
    found = (_within(answer, other) for other in others if other.kind == "nested" and _is_choice(other.name))
    return next(filter(None, found), None) or _side_by_side(answer, others)


def _within(answer: Column, other: Column) -> Choices | None:
    """Choices in one column: a list of texts, or lists of texts and of their marks side by side, as ARC has them."""
    x, kind = answer.reach, other.cells.type
    lists = [source for source, leaf in leaves(kind, other.reach) if is_list_of_texts(leaf)]
    cells = zip(answer.cells.slice(0, SAMPLE_ROWS).to_pylist(), other.cells.slice(0, SAMPLE_ROWS).to_pylist(), strict=True)
    rows = [(value, choices) for value, choices in cells if value is not None and choices]
    if pa.types.is_struct(kind):
        names = [field.name for field in kind if is_list_of_texts(field.type)]
        marks = [name for name in names if all(value in choices[name] for value, choices in rows if str(value).strip())]
        if len(names) != 2 or len(marks) != 1 or answer.kind != "text":
            return None
        texts, signs = lists if names.index(marks[0]) == 1 else reversed(lists)
        return Choices(texts, f"{texts}[{signs}.index({x})]", [other.name])
    if not is_list_of_texts(kind):
        return None
    if place := _place(answer, [(value, len(choices)) for value, choices in rows]):
        return Choices(lists[0], f"options[{place}]", [other.name])
    if answer.kind == "text" and all(value in choices for value, choices in rows):
        return Choices(lists[0], f"{x} | trim", [other.name])
    return None


def _side_by_side(answer: Column, others: Sequence[Column]) -> Choices | None:
    """Choices in columns of their own, numbered or lettered."""
    stems: dict[str, list[Column]] = {}
    for other in others:
        parts = re.fullmatch(r"(.*) (\d+|[a-h])", spoken(other.name))
        if parts and other.kind == "text" and _is_choice(parts.group(1)):
            stems.setdefault(parts.group(1), []).append(other)
    for members in stems.values():
        cells = answer.cells.slice(0, SAMPLE_ROWS).to_pylist()
        place = _place(answer, [(value, len(members)) for value in cells if value is not None])
        if len(members) >= 2 and place:
            options = f"[{', '.join(member.reach for member in members)}]"
            return Choices(options, f"options[{place}]", [member.name for member in members])
    return None


def _is_choice(name: str) -> bool:
    last = spoken(name).rpartition(" ")[2]
    return last in _CHOICE_NAMES or last.removesuffix("s") in _CHOICE_NAMES


def _place(answer: Column, rows: Sequence[tuple[Any, int]]) -> str | None:
    """The expression that gives the place of the answer among the choices, or None where the values are no places.

    `rows` are values of the answer, each with the number of its row's choices; -1 and blank count as no answer.
    """
    values = [(str(value).strip().upper(), count) for value, count in rows if str(value).strip() not in ("", "-1")]
    if not values:
        return None
    x, letters = answer.reach, string.ascii_uppercase
    if answer.kind == "text" and all(len(value) == 1 and value in letters[:count] for value, count in values):
        return f"'{letters[: max(count for _, count in values)]}'.index({x} | trim | upper)"
    try:
        places = [(int(float(value)), count) for value, count in values]
    except ValueError:
        return None
    if all(0 <= place < count for place, count in places):
        return f"{x} | int"
    return f"({x} | int) - 1" if all(1 <= place <= count for place, count in places) else None
