"""Which column of a table is the answer, and what kind of task that makes: labels, choices of each row, or text to write."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from flanlab.data.scaffold.columns import SAMPLE_ROWS, Column, is_list_of_texts, is_text, leaves, spoken
from flanlab.data.sources import Rows
from flanlab.errors import FlanlabError
from flanlab.tasks.clusters import Cluster
from flanlab.tasks.printing import TemplatingError
from flanlab.tasks.schema import Metric
from flanlab.tasks.templating import compile_source

# Names that columns with the answer go by, likeliest first; those of the second kind hold text more often than a label.
_LABEL_NAMES = ["label", "class", "category", "sentiment", "star", "rating", "score", "gold", "intent", "topic", "polarity"]
_TEXT_NAMES = ["answer", "target", "output", "response", "completion", "reply", "summary", "highlight", "headline"]
_TEXT_NAMES += ["translation", "reference", "subject"]
_NAMES = _LABEL_NAMES + _TEXT_NAMES
_GENERAL_NAMES = {"label", "class", "gold", "target", "output", "response", "completion", "reference"}

MOST_CLASSES = 50
"""Different values up to which an answer of text is taken for a label."""
MOST_NUMBERS = 20
"""The same for whole numbers."""
_CHOICE_NAMES = ["choice", "option", "ending", "answer", "sol", "solution", "candidate", "alternative", "quiz"]
_MOST_CHOICES = 20

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
    used: Sequence[str] = ()
    """Further columns that say the answer, or the choices, and so are no inputs."""
    inputs: Sequence[tuple[str, str]] = ()
    """Inputs within the answer's own column: name and expression."""
    to_do: str = ""
    """What a person must still see to."""


def guess_answer(columns: Sequence[Column], wanted: str | None, cluster: Cluster, ask: Ask | None = None) -> Answer:
    """The answer of the task that the columns make.

    Args:
        columns: all of them, over all splits.
        wanted: the column that the user says it is.
        cluster: the task's cluster, which decides the metrics of text.
        ask: called where neither label names nor one column's name settle it.

    Raises:
        FlanlabError: no such column, it never differs, or none looks like an answer.
    """
    column, reason = _answer_column(columns, wanted, ask)
    others = [other for other in columns if other is not column]
    most = MOST_NUMBERS if column.kind == "whole" else MOST_CLASSES
    if choices := _find_choices(column, others):
        answer = _of_choices(column, choices)
    elif column.label_names or 2 <= _classes(column) <= most:
        answer = _of_labels(column, others)
    else:
        answer = _of_nested(column, cluster) if column.kind == "nested" else _of_text(column, cluster)
    return replace(answer, why=f"`{column.name}` ({reason}): {answer.why}")


def _answer_column(columns: Sequence[Column], wanted: str | None, ask: Ask | None) -> tuple[Column, str]:
    """The column with the answer, and how that is known."""
    usable = [column for column in columns if column.kind == "nested" or column.distinct >= 2]
    likely, reason = _likely_columns(usable)
    if wanted is None and len(likely) != 1 and ask is not None and len(usable) > 1:
        wanted = ask(usable, likely[0] if likely else None)
    if wanted is not None:
        return _wanted_column(columns, wanted), "as asked"
    if likely:
        others = ", ".join(f"`{column.name}`" for column in likely[1:])
        return likely[0], f"not sure: {reason} it could also be {others}" if others else reason
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
    found = [_NAMES.index(word) for word in words if word in _NAMES]
    # `answer0` and `answer1` are rather choices, of which another column says the right one.
    return (2 if words[-1].isdigit() else 0 if len(words) == 1 else 1, found[0]) if found else None


def _words(column: Column) -> list[str]:
    """The words of a column's name, in the singular where that is one of the names above."""
    return [word if word in _NAMES else word.removesuffix("s") for word in spoken(column.name).split()]


def _classes(column: Column) -> int:
    """How many labels the values of a column would make; 0 where they are no labels."""
    if column.kind not in ("text", "whole", "truth") or any(len(str(value)) > 60 for value in column.values):
        return 0
    present, words = len(column) - column.missing, set(_words(column))
    # How often each value must occur in the mean.
    times = 1 if words & set(_LABEL_NAMES) else 4 if words & set(_TEXT_NAMES) else 2
    if column.distinct > 2 and (present < times * column.distinct or present == column.distinct):
        return 0
    return len(column.values) - (column.lacks_labels and -1 in column.values)


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


def _of_labels(column: Column, others: Sequence[Column]) -> Answer:
    x, filters = column.reach, lack_of(column)
    missing = column.values & {-1} if column.lacks_labels else frozenset()
    filters += [f"{x} >= 0"] if missing else []
    values = sorted(column.values - missing, key=str if column.kind == "text" else None)
    partner, words = _words_of_labels(column, others)
    to_do = "see that the labels are words a person would answer with"
    if column.label_names:
        options, source = _different(column.label_names), f"options[{x}]"
        why = "its label names, in the order of their ids"
    elif column.kind == "truth":
        options, source, why = ["no", "yes"], f"options[{x} | int]", "false and true"
    elif column.kind == "text":
        options, source, why = list(map(str, values)), f"{x} | trim", "as they stand in the data"
        lower = sorted({option.lower() for option in options})
        if lower == ["false", "true"]:
            options, source, why = ["no", "yes"], f"options[1 if {x} | trim | lower == 'true' else 0]", "false and true"
        elif len(lower) < len(options):
            options, source, why = lower, f"{x} | trim | lower", "in small letters"
    else:
        options, why = list(map(str, values)), "the numbers themselves"
        to_do = f"say in words what {', '.join(options[:-1])} and {options[-1]} stand for, in this order"
        if len({words[value].casefold() for value in values if words.get(value)}) == len(values):
            options, why, to_do = [words[value] for value in values], f"the words of `{partner[0]}`", ""
        whole = x if pa.types.is_integer(column.cells.type) else f"({x} | int)"
        start = next((start for start in (0, 1) if values == list(range(start, start + len(values)))), None)
        source = f"options[{whole if start == 0 else f'{whole} - 1' if start == 1 else f'{values}.index({whole})'}]"
    return Answer(
        column,
        _noun(column, "label"),
        source,
        ["accuracy"],
        f"{len(options)} labels, {why}",
        options,
        filters=filters,
        used=partner,
        to_do=to_do,
    )


def _different(names: Sequence[str]) -> list[str]:
    """Label names as options, which must differ even without regard to capitals, and not be empty."""
    options = [name.replace("_", " ").strip() for name in names]
    if all(options) and len({option.casefold() for option in options}) == len(options):
        return options
    return [f"{name.strip() or 'label'} ({number})" for number, name in enumerate(names)]


def _words_of_labels(column: Column, others: Sequence[Column]) -> tuple[list[str], dict[Any, str]]:
    """A column of text that says the same as the labels in words, such as `label_text`, and its word for each label."""
    for other in others:
        if other.kind == "text" and 2 <= other.distinct == column.distinct <= MOST_CLASSES:
            pairs = pa.table({"label": column.cells, "word": other.cells}).drop_null()
            different = pairs.group_by(["label", "word"]).aggregate([])
            if different.num_rows == column.distinct < pairs.num_rows:
                return [other.name], {pair["label"]: pair["word"].strip() for pair in different.to_pylist()}
    return [], {}


def _of_choices(column: Column, choices: _Choices) -> Answer:
    return Answer(
        column,
        "choice",
        choices.answer,
        ["accuracy"],
        f"the right one of the choices in {', '.join(f'`{one.name}`' for one in choices.columns)}",
        choices.options,
        filters=lack_of(column) + ([f"{column.reach} >= 0"] if -1 in column.values else []),
        used=[one.name for one in choices.columns],
        to_do="see that the choices of a row always differ; `filter` leaves rows out",
    )


def _of_text(column: Column, cluster: Cluster) -> Answer:
    x, filters = column.reach, lack_of(column)
    if column.kind == "number":
        noun, why = _noun(column, "number"), "a number, held against the row's own"
        return Answer(column, noun, f"{x} | round(2)", ["pearson", "spearman"], why, gold_value=x, filters=filters)
    is_written = column.kind == "text"
    metrics: list[Metric] = _metrics(column.mean_words, cluster) if is_written else ["exact_match"]
    why = f"text to be written, of about {max(1, round(column.mean_words))} words"
    return Answer(column, _noun(column, "answer"), f"{x} | trim" if is_written else x, metrics, why, filters=filters)


def _of_nested(column: Column, cluster: Cluster) -> Answer:
    x = column.reach
    found = [(source, leaf) for source, leaf in leaves(column.cells.type, x) if is_text(leaf) or is_list_of_texts(leaf)]
    if not found:
        raise FlanlabError(f"The column `{column.name}` holds no text.", hint="Name another with --answer COLUMN.")
    if pa.types.is_struct(column.cells.type) and len(found) > 1 and all(is_text(leaf) for _, leaf in found):
        *inputs, (source, _) = found
        return Answer(
            column,
            _noun(column, "text"),
            f"{source} | trim",
            _metrics(9, cluster),
            "its last text, from the others",
            filters=lack_of(column),
            inputs=[(spoken(text.rpartition(".")[2]).replace(" ", "_"), text) for text, _ in inputs],
            to_do="see that it is the right way round",
        )
    source, leaf = found[0]
    answer = Answer(
        column,
        _noun(column, "answer"),
        f"{source} | trim",
        _metrics(9 if cluster in _LONG else 3, cluster),
        "the first text within it",
        filters=[source if source == x else f"{x} and {source}"],
    )
    if is_text(leaf):
        return answer
    why = "the first of its texts; all of them count as right"
    return replace(answer, source=f"{source}[0] | trim", references=source, why=why)


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


@dataclass(frozen=True)
class _Choices:
    """Options of each row: expressions without their braces, and the columns that hold them."""

    options: str
    answer: str
    columns: Sequence[Column]


def _find_choices(answer: Column, others: Sequence[Column]) -> _Choices | None:
    """The options that a row's answer is one of, where other columns hold them.

    Columns are known by name (`choices`, `ending0` and `ending1`, ...). The answer must then be a choice in each row, or the
    place of one: from 0, from 1 or from A on, or as a mark that another list has.
    """
    if answer.kind not in ("text", "whole") or (answer.kind == "whole" and answer.distinct > _MOST_CHOICES):
        return None
    return next((found for found in _possible(answer, others) if _holds(answer, found)), None)


def _possible(answer: Column, others: Sequence[Column]) -> Iterator[_Choices]:
    x = answer.reach
    side_by_side: dict[str, list[Column]] = {}
    for other in others:
        parts = re.fullmatch(r"(.*) (\d+|[a-h])", spoken(other.name))
        if parts and other.kind == "text" and _is_choice(parts.group(1)):
            side_by_side.setdefault(parts.group(1), []).append(other)
        elif _is_choice(spoken(other.name)) and is_list_of_texts(other.cells.type):
            yield from (_Choices(other.reach, way, [other]) for way in _ways(answer))
        elif _is_choice(spoken(other.name)) and pa.types.is_struct(other.cells.type):
            # Lists of texts and of their marks side by side, as ARC has them.
            lists = [source for source, leaf in leaves(other.cells.type, other.reach) if is_list_of_texts(leaf)]
            for texts, marks in (lists, lists[::-1]) if len(lists) == 2 else ():
                yield _Choices(texts, f"{texts}[{marks}.index({x})]", [other])
    for members in side_by_side.values():
        options = f"[{', '.join(member.reach for member in members)}]"
        yield from (_Choices(options, way, members) for way in _ways(answer) if len(members) > 1)


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


def _holds(answer: Column, found: _Choices) -> bool:
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
