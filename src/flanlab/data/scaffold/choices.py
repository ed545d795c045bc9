"""Multiple choice: columns that hold the options of each row, beside one that says which of them is right."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from flanlab.data.scaffold.columns import SAMPLE_ROWS, Column, is_list_of_texts, leaves, spoken
from flanlab.data.sources import Rows
from flanlab.tasks.printing import TemplatingError
from flanlab.tasks.templating import compile_source

_CHOICE_NAMES = ["choice", "option", "ending", "answer", "sol", "solution", "candidate", "alternative", "quiz"]
_MOST_CHOICES = 20


@dataclass(frozen=True)
class Choices:
    """Options of each row: expressions without their braces, and the columns that hold them."""

    options: str
    answer: str
    columns: Sequence[Column]


def find_choices(answer: Column, others: Sequence[Column]) -> Choices | None:
    """The options that a row's answer is one of, where other columns hold them.

    Columns are known by name (`choices`, `ending0` and `ending1`, ...). The answer must then be a choice in each row, or the
    place of one: from 0, from 1 or from A on, or as a mark that another list has.
    """
    if answer.kind not in ("text", "whole") or (answer.kind == "whole" and answer.distinct > _MOST_CHOICES):
        return None
    return next((found for found in _possible(answer, others) if _holds(answer, found)), None)


def _possible(answer: Column, others: Sequence[Column]) -> Iterator[Choices]:
    x = answer.reach
    side_by_side: dict[str, list[Column]] = {}
    for other in others:
        parts = re.fullmatch(r"(.*) (\d+|[a-h])", spoken(other.name))
        if parts and other.kind == "text" and _is_choice(parts.group(1)):
            side_by_side.setdefault(parts.group(1), []).append(other)
        elif _is_choice(spoken(other.name)) and is_list_of_texts(other.cells.type):
            yield from (Choices(other.reach, way, [other]) for way in _ways(answer))
        elif _is_choice(spoken(other.name)) and pa.types.is_struct(other.cells.type):
            # Lists of texts and of their marks side by side, as ARC has them.
            lists = [source for source, leaf in leaves(other.cells.type, other.reach) if is_list_of_texts(leaf)]
            for texts, marks in (lists, lists[::-1]) if len(lists) == 2 else ():
                yield Choices(texts, f"{texts}[{marks}.index({x})]", [other])
    for members in side_by_side.values():
        options = f"[{', '.join(member.reach for member in members)}]"
        yield from (Choices(options, way, members) for way in _ways(answer) if len(members) > 1)


def _is_choice(name: str) -> bool:
    return name.rpartition(" ")[2].removesuffix("s") in _CHOICE_NAMES


def _ways(answer: Column) -> Iterator[str]:
    """Expressions that may give the right choice."""
    x, letters = answer.reach, string.ascii_uppercase[:_MOST_CHOICES]
    yield f"{x} | trim"
    values = {str(value).upper() for value in answer.values} - {"-1"}
    if values and values <= set(letters):
        yield f"options['{letters[: letters.index(max(values)) + 1]}'.index({x} | trim | upper)]"
    elif all(re.fullmatch(r"\d+(\.0)?", value) for value in values):
        yield f"options[{x} | int]"
        yield f"options[({x} | int) - 1]"


def _holds(answer: Column, found: Choices) -> bool:
    """Whether the answer is one of the choices in each row that has both."""
    cells = {column.name: column.cells.slice(0, SAMPLE_ROWS) for column in (answer, *found.columns)}
    options_of, answer_of = (compile_source("{{ " + source + " }}") for source in (found.options, found.answer))
    held = False
    for row in Rows(pa.table(cells), range(min(len(answer), SAMPLE_ROWS)), ""):
        if row[answer.name] is None or str(row[answer.name]).strip() in ("", "-1"):
            continue
        try:
            if options := options_of(row):
                if answer_of({"options": list(options)}, row) not in options:
                    return False
                held = True
        except TemplatingError:
            return False
    return held
