"""Which column of a table is the answer, and what kind of task that makes: labels, choices of each row, or text to write."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from flanlab.data.scaffold.choices import Choices, find_choices
from flanlab.data.scaffold.columns import Column, is_list_of_texts, is_text, leaves, spoken
from flanlab.errors import FlanlabError
from flanlab.tasks.clusters import Cluster
from flanlab.tasks.schema import Metric

# Names that columns with the answer go by, likeliest first; those of the second kind hold text more often than a label.
_LABEL_NAMES = ["label", "class", "category", "sentiment", "star", "rating", "score", "gold", "intent", "topic", "polarity"]
_TEXT_NAMES = ["answer", "target", "output", "response", "completion", "reply", "summary", "highlight", "headline"]
_TEXT_NAMES += ["translation", "reference", "subject"]
_GENERAL_NAMES = {"label", "class", "gold", "target", "output", "response", "completion", "reference"}

MOST_CLASSES = 50
"""Different values up to which an answer of text is taken for a label."""
MOST_NUMBERS = 20
"""The same for whole numbers."""

Ask = Callable[[Sequence[Column], Column | None], str]
"""Asks a person which of the columns is the answer, with the likeliest as a suggestion where there is one."""


@dataclass(frozen=True)
class Answer:
    """The answer of a task, in the words of a task file; expressions are without their braces."""

    column: Column
    noun: str
    """What is asked for, as a prompt would call it."""
    source: str
    metrics: list[Metric]
    why: str
    """What was guessed of the answer, and from what."""
    options: list[str] | str | None = None
    references: str | None = None
    gold_value: str | None = None
    filters: list[str] = field(default_factory=list)
    """What must hold of a row for it to have an answer."""
    minus_one: bool = False
    """Whether -1 stands for a missing answer."""
    used: Sequence[str] = ()
    """Further columns that say the answer, or the choices, and so are no inputs."""
    inputs: Sequence[tuple[str, str]] = ()
    """Inputs within the answer's own column: name and expression."""
    to_do: str = ""
    """What a person must still see to."""


def guess_answer(
    columns: Sequence[Column],
    wanted: str | None,
    cluster: Cluster,
    unlabelled: Collection[str],
    ask: Ask | None = None,
) -> Answer:
    """The answer of the task that the columns make.

    Args:
        columns: all of them, over all splits.
        wanted: the column that the user says it is.
        cluster: the task's cluster, which decides the metrics of text.
        unlabelled: columns in which -1 stands for a missing label, beside those whose labels have names.
        ask: called where neither label names nor one column's name settle it.

    Raises:
        FlanlabError: no such column, it never differs, or none looks like an answer.
    """
    column, reason = _answer_column(columns, wanted, ask)
    others = [other for other in columns if other is not column]
    choices = find_choices(column, others)
    if choices is not None:
        return _of_choices(column, reason, choices)
    if column.label_names or 2 <= _classes(column, unlabelled) <= (MOST_NUMBERS if column.kind == "whole" else MOST_CLASSES):
        return _of_labels(column, reason, others, unlabelled)
    return _of_text(column, reason, cluster)


def _answer_column(columns: Sequence[Column], wanted: str | None, ask: Ask | None) -> tuple[Column, str]:
    """The column with the answer, and how that is known."""
    usable = [column for column in columns if column.kind == "nested" or column.distinct >= 2]
    if wanted is not None:
        return _wanted_column(columns, wanted), "as asked"
    likely, reason = _likely_columns(usable)
    if len(likely) == 1:
        return likely[0], reason
    if ask is not None and len(usable) > 1:
        return _wanted_column(columns, ask(usable, likely[0] if likely else None)), "as asked"
    if likely:
        others = ", ".join(f"`{column.name}`" for column in likely[1:])
        return likely[0], f"not sure: {reason} it could also be {others}"
    if same := [column.name for column in columns if _rank(column) is not None]:
        raise FlanlabError(
            f"The column `{same[0]}` would be the answer by its name, but all its answers are the same.",
            hint="Add rows with other answers, or name another column with --answer.",
        )
    raise FlanlabError(
        f"No column's name says that it is the answer. The columns are: {', '.join(column.name for column in columns)}.",
        hint="Name it with --answer COLUMN. A task needs a column for the answer and one for what it is asked about.",
    )


def _wanted_column(columns: Sequence[Column], wanted: str) -> Column:
    by_name = {column.name: column for column in columns}
    if wanted not in by_name:
        raise FlanlabError(f"There is no column called `{wanted}`.", hint=f"The columns are: {', '.join(by_name)}.")
    if by_name[wanted].kind != "nested" and by_name[wanted].distinct < 2:
        raise FlanlabError(
            f"The column `{wanted}` holds no two different answers.",
            hint="Add rows with other answers, or name another column with --answer.",
        )
    return by_name[wanted]


def _likely_columns(usable: Sequence[Column]) -> tuple[list[Column], str]:
    """The columns that could be the answer, likeliest first, and why. One alone is sure.

    Only label names and column names count. Guesses from the values (few different ones, the last text) were wrong more often
    than right on published data sets.
    """
    labelled = [column for column in usable if column.label_names]
    if labelled:
        return sorted(labelled, key=lambda column: (_rank(column) or (9, 0), column.distinct)), "the data set names its labels"
    ranked = sorted((rank, place) for place, column in enumerate(usable) if (rank := _rank(column)) is not None)
    # A name that says it alone (`label`) is surer than one that says it among other words (`activity_label`).
    return [usable[place] for rank, place in ranked if rank[0] == ranked[0][0][0]], "going by its name"


def _rank(column: Column) -> tuple[int, int] | None:
    """How well a column's name says that it is the answer; a smaller one is better."""
    words = _words(column)
    names = [*_LABEL_NAMES, *_TEXT_NAMES]
    found = [names.index(word) for word in words if word in names]
    if not found:
        return None
    # `answer0` and `answer1` are rather choices, of which another column says the right one.
    return (2 if words[-1].isdigit() else 0 if len(words) == 1 else 1, found[0])


def _words(column: Column) -> list[str]:
    """The words of a column's name, in the singular where that is one of the names above."""
    known = {*_LABEL_NAMES, *_TEXT_NAMES}
    return [word if word in known else word.removesuffix("s") for word in spoken(column.name).split()]


def _repeats(column: Column, times: int) -> bool:
    """Whether the values occur `times` times or more in the mean."""
    return len(column) - column.missing >= times * column.distinct


def _classes(column: Column, unlabelled: Collection[str]) -> int:
    """How many labels the values of a column would make; 0 where they are no labels."""
    if column.kind not in ("text", "whole", "truth") or not column.values:
        return 0
    if any(len(value) > 60 for value in column.values if isinstance(value, str)):
        return 0
    words = set(_words(column))
    times = 1 if words & set(_LABEL_NAMES) else 4 if words & set(_TEXT_NAMES) else 2
    if column.distinct > 2 and (not _repeats(column, times) or len(column) - column.missing == column.distinct):
        return 0
    return column.distinct - (column.name in unlabelled and -1 in column.values)


def lack_of(column: Column) -> list[str]:
    """What must hold of a row for its cell to hold something, where some do not; as expressions."""
    x = column.reach
    if not column.missing:
        return []
    if column.kind == "text":
        return [f"({x} or '') | trim"]
    if column.kind == "nested":
        return [x]
    return [f"{x} is number and {x} == {x}" if pa.types.is_floating(column.cells.type) else f"{x} is not none"]


def _of_labels(column: Column, reason: str, others: Sequence[Column], unlabelled: Collection[str]) -> Answer:
    x, filters, used, to_do, minus_one = column.reach, lack_of(column), list[str](), "", False
    values = sorted(column.values, key=str if column.kind == "text" else None)
    partner = _partner(column, others)
    if partner is not None:
        used = [partner.name]
    if column.label_names:
        options = _different([name.replace("_", " ").strip() for name in column.label_names], list(column.label_names))
        minus_one = -1 in column.values
        source, why = f"options[{x}]", "its label names, in the order of their ids"
    elif column.kind == "truth":
        options, source, why = ["no", "yes"], f"options[{x} | int]", "false and true"
    elif column.kind == "text":
        lower = {str(value).casefold() for value in values}
        if lower <= {"true", "false"}:
            options, source, why = ["no", "yes"], f"options[1 if {x} | trim | lower == 'true' else 0]", "false and true"
        elif len(lower) < len(values):
            options, source, why = sorted({str(value).lower() for value in values}), f"{x} | trim | lower", "in small letters"
        else:
            options, source, why = [str(value) for value in values], f"{x} | trim", "as they stand in the data"
    else:
        if column.name in unlabelled and -1 in values:
            values.remove(-1)
            minus_one = True
        names = _names_of(values, column, partner) if partner is not None else None
        options = names or [str(value) for value in values]
        whole = x if pa.types.is_integer(column.cells.type) else f"({x} | int)"
        source = (
            f"options[{whole}]"
            if values == list(range(len(values)))
            else f"options[{whole} - 1]"
            if values == list(range(1, len(values) + 1))
            else f"options[{values}.index({whole})]"
        )
        why = f"the words of `{partner.name}`" if names and partner else "the numbers themselves"
        to_do = "" if names else f"say in words what {_listed(values)} stand for, in this order"
    why = f"`{column.name}` ({reason}): {len(options)} labels, {why}"
    if column.label_names or column.kind != "whole":
        to_do = to_do or "see that the labels are words a person would answer with"
    if minus_one:
        filters.append(f"{x} >= 0")
    return Answer(
        column,
        _noun(column, "label"),
        source,
        ["accuracy"],
        why,
        options,
        filters=filters,
        minus_one=minus_one,
        used=used,
        to_do=to_do,
    )


def _different(names: list[str], otherwise: list[str]) -> list[str]:
    """Label names as options, which must differ even without regard to capitals, and be neither empty."""
    for found in (names, otherwise):
        if len({name.casefold() for name in found}) == len(found) and all(name and name == name.strip() for name in found):
            return found
    return [f"{name.strip() or 'label'} ({number})" for number, name in enumerate(otherwise)]


def _partner(column: Column, others: Sequence[Column]) -> Column | None:
    """A column of text that says the same as the labels in words, such as `label_text`."""
    for other in others:
        if other.kind != "text" or other.distinct != column.distinct or not 2 <= other.distinct <= MOST_CLASSES:
            continue
        pairs = pa.table({"label": column.cells, "text": other.cells}).drop_null()
        if pairs.num_rows > other.distinct and pairs.group_by(["label", "text"]).aggregate([]).num_rows == other.distinct:
            return other
    return None


def _names_of(values: Sequence[Any], column: Column, partner: Column) -> list[str] | None:
    texts = dict(zip(column.cells.to_pylist(), partner.cells.to_pylist(), strict=True))
    names = [str(texts.get(value) or "").strip() for value in values]
    return names if len({name.casefold() for name in names} - {""}) == len(values) else None


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values[:-1])) + f" and {values[-1]}"


def _of_choices(column: Column, reason: str, choices: Choices) -> Answer:
    filters = lack_of(column)
    if -1 in column.values:
        filters.append(f"{column.reach} >= 0")
    named = ", ".join(f"`{name}`" for name in choices.columns)
    why = f"`{column.name}` ({reason}): the right one of the choices in {named}"
    to_do = "see that the choices of a row always differ; `filter` leaves rows out"
    return Answer(
        column,
        "choice",
        choices.answer,
        ["accuracy"],
        why,
        choices.options,
        filters=filters,
        minus_one=-1 in column.values,
        used=choices.columns,
        to_do=to_do,
    )


def _of_text(column: Column, reason: str, cluster: Cluster) -> Answer:
    x, filters, kind = column.reach, lack_of(column), column.cells.type
    if column.kind == "number":
        why = f"`{column.name}` ({reason}): a number, held against the row's own"
        noun = _noun(column, "number")
        return Answer(column, noun, f"{x} | round(2)", ["pearson", "spearman"], why, gold_value=x, filters=filters)
    if column.kind != "nested":
        source = f"{x} | trim" if column.kind == "text" else x
        metrics: list[Metric] = _metrics(column.mean_words, cluster) if column.kind == "text" else ["exact_match"]
        why = f"`{column.name}` ({reason}): text to be written, of about {max(1, round(column.mean_words))} words"
        return Answer(column, _noun(column, "answer"), source, metrics, why, filters=filters)
    found = [(source, leaf) for source, leaf in leaves(kind, x) if is_text(leaf) or is_list_of_texts(leaf)]
    if not found:
        raise FlanlabError(f"The column `{column.name}` holds no text.", hint="Name another with --answer COLUMN.")
    if pa.types.is_struct(kind) and len(found) > 1 and all(is_text(leaf) for _, leaf in found):
        *inputs, (source, _) = found
        why = f"`{column.name}` ({reason}): its last text, from the others"
        named = [(spoken(expression.rpartition(".")[2]).replace(" ", "_"), expression) for expression, _ in inputs]
        return Answer(
            column,
            _noun(column, "text"),
            f"{source} | trim",
            _metrics(9, cluster),
            why,
            filters=filters,
            inputs=named,
            to_do="see that it is the right way round",
        )
    source, leaf = found[0]
    why = f"`{column.name}` ({reason}): the first of its texts; all of them count as right"
    words = 3 if cluster not in _LONG else 9
    if is_text(leaf):
        why = f"`{column.name}` ({reason}): the first text within it"
        filters = [f"{x} and {source}"]
        return Answer(column, _noun(column, "answer"), f"{source} | trim", _metrics(words, cluster), why, filters=filters)
    return Answer(
        column,
        _noun(column, "answer"),
        f"{source}[0] | trim",
        _metrics(words, cluster),
        why,
        references=source,
        filters=[source if source == x else f"{x} and {source}"],
    )


_LONG = frozenset({Cluster.SUMMARIZATION, Cluster.STRUCT_TO_TEXT, Cluster.TRANSLATION})


def _metrics(words: float, cluster: Cluster) -> list[Metric]:
    """What suits texts of so many words in a cluster."""
    if cluster == Cluster.TRANSLATION:
        return ["bleu"]
    return ["rouge"] if cluster in _LONG or words > 6 else ["exact_match", "f1"]


def _noun(column: Column, general: str) -> str:
    """The column's own name where it says what is asked for, else a general word."""
    name = spoken(column.name)
    says_it = re.search(r"[^\W\d_]", name) and len(name.split()) <= 2 and not set(_words(column)) & _GENERAL_NAMES
    return name if says_it else general
