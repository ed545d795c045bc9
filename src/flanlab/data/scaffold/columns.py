"""What the columns of a table hold, as far as a first task file needs to know: kinds, values, gaps, and how to reach them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from flanlab.data.sources import label_names
from flanlab.errors import FlanlabError
from flanlab.tasks.printing import TemplatingError
from flanlab.tasks.templating import compile_source

Kind = Literal["text", "whole", "number", "truth", "nested", "other"]
Value = str | int | float | bool

SAMPLE_ROWS = 5_000
"""Rows whose texts are looked at one by one; values are counted over all rows."""
MANY_VALUES = 200
"""Different values up to which they are listed."""
WORDS_FOR_MISSING = ("nan", "none", "null")
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(\D|$)")


@dataclass(frozen=True, eq=False)
class Column:
    """One column: its name, its cells, and the names of its label ids where the data says them."""

    name: str
    cells: pa.ChunkedArray
    label_names: Sequence[str] | None = None
    lacks_labels: bool = False
    """Whether it is known that -1 stands for a missing label."""

    @cached_property
    def kind(self) -> Kind:
        """What the cells are: `whole` also for floating-point numbers without fractions."""
        kind = self.cells.type
        if is_text(kind):
            return "text"
        if pa.types.is_boolean(kind):
            return "truth"
        if pa.types.is_integer(kind):
            return "whole"
        if pa.types.is_floating(kind):
            has_fractions = pc.any(pc.not_equal(pc.floor(self._present), self._present)).as_py()
            return "whole" if has_fractions is False else "number"
        return "nested" if pa.types.is_nested(kind) else "other"

    @cached_property
    def _present(self) -> pa.ChunkedArray:
        """The cells that are neither null, nor not a number, nor blank; texts without the blank space around them."""
        if is_text(self.cells.type):
            texts = pc.utf8_trim_whitespace(self.cells)
            return texts.filter(pc.not_equal(texts, ""))
        return self.cells.filter(pc.is_finite(self.cells)) if pa.types.is_floating(self.cells.type) else self.cells.drop_null()

    @cached_property
    def missing(self) -> int:
        """How many cells hold nothing."""
        return len(self.cells) - len(self._present)

    @cached_property
    def distinct(self) -> int:
        """How many different values there are; of nested cells, 0."""
        return 0 if self.kind == "nested" or not len(self._present) else int(pc.count_distinct(self._present).as_py())

    @cached_property
    def values(self) -> frozenset[Value]:
        """The different values; empty where there are more than MANY_VALUES."""
        found = pc.unique(self._present).to_pylist() if 0 < self.distinct <= MANY_VALUES else []
        return frozenset(map(int, found) if self.kind == "whole" else found)

    @cached_property
    def sample(self) -> list[Any]:
        """The first cells that hold something."""
        return list(self._present.slice(0, SAMPLE_ROWS).to_pylist())

    @cached_property
    def words_for_missing(self) -> list[str]:
        """Those of the words none, nan and null that stand alone in a cell, as programs write them for a missing value."""
        if self.kind != "text":
            return []
        lower = pc.utf8_lower(self._present)
        return [word for word in WORDS_FOR_MISSING if pc.any(pc.equal(lower, word)).as_py()]

    @property
    def mean_words(self) -> float:
        """Words of a text in the mean."""
        return sum(len(str(text).split()) for text in self.sample) / max(1, len(self.sample))

    @cached_property
    def is_identity(self) -> bool:
        """Whether the column numbers, names or dates rows instead of saying something about them."""
        if not self.name.strip() or re.search(r"\b(id|ids|idx|index|uid|uuid|guid|url|urls|unnamed)\b", spoken(self.name)):
            return True
        if self.kind == "text" and self.sample and all(map(_DATE.match, self.sample)):
            return True
        if self.kind != "text" or self.distinct < len(self._present) or len(self._present) < 10:
            return False
        return all(" " not in text and any(map(str.isdigit, text)) for text in self.sample)

    @property
    def reach(self) -> str:
        """The expression, without braces, that gives a cell."""
        return reach(self.name)

    def __len__(self) -> int:
        return len(self.cells)


def describe_columns(splits: Mapping[str, pa.Table], whole: pa.Table) -> list[Column]:
    """The columns of all splits together, in order.

    Raises:
        FlanlabError: a column whose name cannot be written in a template.
    """
    out_of_reach = [name for name in whole.column_names if reach(name).startswith("row[")]
    if out_of_reach and "row" in whole.column_names:
        raise FlanlabError(
            f"The column {out_of_reach[0]!r} can only be written row['...'] in a template, but a column is called row too.",
            hint="Rename one of the two.",
        )
    names = {column: names for table in splits.values() for column, names in label_names(table).items()}
    return [
        Column(name, whole[name], names.get(name), name in names or _never_labelled(splits, name))
        for name in whole.column_names
    ]


def _never_labelled(splits: Mapping[str, pa.Table], name: str) -> bool:
    """Whether a whole split has -1 in place of labels."""
    cells = [table[name] for table in splits.values() if name in table.column_names]
    numbers = [own for own in cells if pa.types.is_integer(own.type) or pa.types.is_floating(own.type)]
    return len(splits) > 1 and any(pc.all(pc.equal(own, -1)).as_py() is True for own in numbers)


def spoken(name: str) -> str:
    """A column's name as words in small letters: `ReviewText2` gives `review text 2`."""
    words = re.findall(r"[^\W\d_]+|\d+", re.sub(r"(?<=[^\W\d_A-Z])(?=[A-Z])", " ", name))
    return " ".join(words).casefold()


def reach(name: str) -> str:
    """The expression, without braces, that gives the cell of a column: its name, or `row['...']` where jinja2 takes the
    name for something else or for none.

    Raises:
        FlanlabError: there is no way to write the name in a template.
    """
    # In expressions of a task these stand for something else.
    if name not in ("options", "answer", "references") and gives_the_cell(name, name):
        return name
    plain = name.isprintable() and "'" not in name and "\\" not in name
    source = f"row['{name}']" if plain else f"row[{json.dumps(name)}]"
    if not gives_the_cell(source, name):
        raise FlanlabError(f"The column {name!r} has a name that templates cannot use.", hint="Rename the column.")
    return source


def gives_the_cell(source: str, name: str) -> bool:
    """Whether an expression gives the cell of a column."""
    cell = object()
    try:
        return compile_source("{{ " + source + " }}")({name: cell, "row": cell if name == "row" else {name: cell}}) is cell
    except TemplatingError:
        return False


def leaves(kind: pa.DataType, source: str) -> Iterator[tuple[str, pa.DataType]]:
    """The texts and numbers within a nested type, as expressions; of a list of texts or numbers the list itself."""
    if pa.types.is_struct(kind):
        for field in kind:
            yield from leaves(field.type, _member(source, field.name))
    elif _is_list(kind) and pa.types.is_nested(kind.value_type):
        yield from leaves(kind.value_type, f"{source}[0]")
    else:
        yield source, kind


def _member(source: str, name: str) -> str:
    # A struct reaches templates as a dict, whose methods would come before members of the same name.
    plain = re.fullmatch(r"[A-Za-z]\w*", name) and not hasattr(dict, name)
    return f"{source}.{name}" if plain else f"{source}[{json.dumps(name)}]"


def shape(kind: pa.DataType) -> str:
    """A nested type in words: `{text: [text], start: [whole number]}`."""
    if pa.types.is_struct(kind):
        return "{" + ", ".join(f"{field.name}: {shape(field.type)}" for field in kind) + "}"
    if _is_list(kind):
        return f"[{shape(kind.value_type)}]"
    if is_text(kind):
        return "text"
    return "whole number" if pa.types.is_integer(kind) else "number" if pa.types.is_floating(kind) else str(kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether cells of this type are texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_list_of_texts(kind: pa.DataType) -> bool:
    """Whether cells of this type are lists of texts."""
    return _is_list(kind) and is_text(kind.value_type)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))
