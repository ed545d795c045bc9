"""Which columns of a table are the inputs of its task, and what becomes of the others."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from flanlab.data.scaffold.answers import Answer, lack_of
from flanlab.data.scaffold.columns import Column, gives_the_cell, is_list_of_texts, leaves, shape
from flanlab.errors import FlanlabError
from flanlab.tasks.templating import variables_in

MOST_FIELDS = 6
"""Inputs that the starter templates show; further ones are left in a comment."""


@dataclass(frozen=True)
class Input:
    """One field of the task; the expression is without its braces."""

    name: str
    source: str
    guarded: bool = False
    """Some rows lack it, so prompts ask for it first."""


@dataclass
class Inputs:
    """What the prompts of the task show."""

    used: list[Input] = field(default_factory=list)
    filters: list[str] = field(default_factory=list)
    """What must hold of a row for its prompts to be whole, as expressions."""
    comments: list[str] = field(default_factory=list)
    """What became of every other column."""


def guess_inputs(columns: Sequence[Column], answer: Answer) -> Inputs:
    """The inputs of the task: columns of text, or where there are none, what else could say something: lists, numbers.

    Raises:
        FlanlabError: there is no such column.
    """
    inputs = Inputs([Input(_field_name(name, ()), source) for name, source in answer.inputs])
    left = [column for column in columns if column is not answer.column and column.name not in answer.used]
    telling = [c for c in left if not c.is_identity and not c.label_names and (c.distinct > 1 or c.kind == "nested")]
    texts = [column for column in telling if column.kind == "text"]
    lists = [column for column in telling if is_list_of_texts(column.cells.type)]
    numbers = [column for column in telling if column.kind in ("whole", "number", "truth")]
    nested = [column for column in telling if column.kind == "nested" and _within(column)]
    chosen = [] if inputs.used else texts or lists or numbers or nested
    main = max(chosen, key=lambda column: column.mean_words, default=None)
    for column in chosen[:MOST_FIELDS]:
        name = _field_name(column.name, [item.name for item in inputs.used])
        source = _within(column)[0] if column.kind == "nested" else column.reach
        guarded = column is not main and column.kind == "text" and column.missing > 0
        inputs.used.append(Input(name, source, guarded))
        if column.words_for_missing:
            words = ", ".join(f"'{word}'" for word in ["", *column.words_for_missing])
            inputs.filters.append(f"({column.reach} or '') | trim | lower not in [{words}]")
        elif not guarded:
            inputs.filters.extend(lack_of(column))
    if not inputs.used:
        raise FlanlabError(
            f"Beside the answer `{answer.column.name}` no column could be an input.",
            hint="Name another answer with --answer COLUMN, or add a column with what is asked about.",
        )
    unused = {column.name: _why_not(column) for column in left if column not in chosen[:MOST_FIELDS]}
    unused |= dict.fromkeys(answer.used, "it says the answer or the choices")
    inputs.comments = [f"{' '.join(name.split()) or '(no name)'}: {why}" for name, why in unused.items()]
    return inputs


def _why_not(column: Column) -> str:
    """Why a column is no input, and where it could be one, how."""
    if column.kind == "nested":
        within = "".join(f'; within reach as "{{{{ {source} }}}}"' for source in _within(column)[:1])
        return f"has the shape {shape(column.cells.type)}{within}"
    if column.missing == len(column):
        return "is empty"
    if column.is_identity:
        return "numbers, names or dates rows"
    if column.distinct == 1:
        return "is the same in every row"
    if column.label_names:
        return f"another label: {', '.join(column.label_names[:8])}{' ...' if len(column.label_names) > 8 else ''}"
    return f'within reach as "{{{{ {column.reach} }}}}"'


def _within(column: Column) -> list[str]:
    """Expressions that give the texts within a nested column."""
    reached = leaves(column.cells.type, column.reach)
    return [f"{source} | join(', ')" if is_list_of_texts(kind) else source for source, kind in reached]


def _field_name(column: str, taken: Sequence[str]) -> str:
    """A name that templates can use, after the column's."""
    name = re.sub(r"\W+", "_", column).strip("_").casefold() or "column"
    if name[0].isdigit():
        name = f"column_{name}"
    if name in ("options", "answer", "references") or not gives_the_cell(name, name) or not variables_in("{{ " + name + " }}"):
        name = f"{name}_text"
    return next(found for n in itertools.count(1) if (found := name if n == 1 else f"{name}_{n}") not in taken)
