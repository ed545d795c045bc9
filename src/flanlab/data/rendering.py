"""Render a row through a template: an example."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from flanlab.errors import FlanlabError
from flanlab.tasks.fields import Options
from flanlab.tasks.printing import TemplatingError, printable
from flanlab.tasks.schema import Baseline, Task, Template
from flanlab.tasks.templating import compile_source

Truncation = Literal["end", "middle"]
"""Which part of its longest field a prompt loses if it is too long."""
BASELINE = 0
"""Template number of a task's baseline prompt. Its templates count from 1."""


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt with its target. `template` counts from 1 (0: the baseline prompt), `row` from 0 within the split's rows."""

    task: str
    cluster: str
    template: int
    row: int
    prompt: str
    target: str
    options: tuple[str, ...] = ()
    """Every possible answer in the task's own order (not the order shown); empty for generation and inverted templates."""
    answer: int | None = None
    """Position of the target in `options`."""
    references: tuple[str, ...] = ()
    """All acceptable answers, including the target. Only the target unless the task lists more."""


@dataclass
class PreparedRow:
    """A row with its fields, so that ten templates do not compute them ten times."""

    task: Task
    index: int
    columns: Mapping[str, Any]
    fields: Mapping[str, Any]
    cut: Mapping[str, str] = field(default_factory=dict)
    """Fields that a prompt shows shortened. Options, answer and target always use the whole fields."""
    answered: bool = True
    """Whether the row says its answer. Examples of a row without an answer have no target."""

    @property
    def shown(self) -> Mapping[str, Any]:
        """The fields as a prompt shows them."""
        return {**self.fields, **self.cut}

    @cached_property
    def options(self) -> tuple[str, ...]:
        """The possible answers in the task's own words; empty for generation."""
        source = self.task.options
        return () if source is None else _option_texts(self.task, self.index, source, self.fields, self.columns)


def prepare_row(task: Task, row: Mapping[str, Any], index: int) -> PreparedRow:
    """Compute a row's fields.

    Raises:
        TemplatingError: names task file, row and field.
    """
    prepared = open_row(task, row, index)
    dict(prepared.fields)
    return prepared


def open_row(task: Task, row: Mapping[str, Any], index: int) -> PreparedRow:
    """Like `prepare_row`, but a field is computed, and may raise an error, only when it is needed."""
    return PreparedRow(task, index, row, _Fields(task, row, index) if task.fields else row)


class _Fields(Mapping[str, Any]):
    """A row's fields, each computed when it is first needed."""

    __slots__ = ("_columns", "_index", "_task", "_values")

    def __init__(self, task: Task, columns: Mapping[str, Any], index: int) -> None:
        self._task = task
        self._columns = columns
        self._index = index
        self._values: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            source = self._task.fields[name]
            self._values[name] = _evaluate(self._task, self._index, f"field {name}", source, self._columns)
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._task.fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._task.fields)

    def __len__(self) -> int:
        return len(self._task.fields)


def render(task: Task, template_number: int, row: PreparedRow, option_order: Sequence[int] | None = None) -> Example:
    """Render a row through a template (numbered from 1; BASELINE is the baseline prompt).

    Args:
        task: the row's task.
        template_number: which of its templates.
        row: the prepared row.
        option_order: order in which the OPTIONS block lists the options (positions in the task's own order); None leaves
            the block out. Ignored for generation, inverted templates and the baseline prompt.

    Raises:
        FlanlabError: an undefined name, an empty prompt or target, an answer that is not among the options.
    """
    template = _template(task, template_number)
    where = f"template {template_number}" if template_number else "baseline"
    place = f"{task.path}, row {row.index}, {where}"
    forward = isinstance(template, Baseline) or template.direction == "forward"
    known: dict[str, Any] = {}
    right: Sequence[str] = ()
    if row.answered:
        known["answer"], right = answers_of(task, row, where)
    elif not forward:
        raise FlanlabError(
            f"{task.path}, {where}: it is inverted: the answer stands in its prompt.",
            hint=f"Use a forward template: {', '.join(map(str, task.forward_templates()))}.",
        )
    options = row.options
    if template.options is not None:
        options = _option_texts(task, row.index, template.options, *_variables(row))
        if len(options) != len(row.options):
            raise FlanlabError(
                f"{place}: it has {len(options)} options, but the task has {len(row.options)}.",
                hint="Give as many options as the task has, in the same order.",
            )
        in_other_words = dict(zip(row.options, options, strict=True))
        known = {name: in_other_words[text] for name, text in known.items()}
        right = [in_other_words[text] for text in right]
    if options:
        known["options"] = list(options)
    prompt = _evaluate_text(task, row.index, f"{where}, prompt", template.prompt, known, row.cut, row.fields)
    _refuse_empty(prompt, f"{place}: the prompt")
    is_answer = template.target == THE_ANSWER
    target = ""
    if row.answered:
        target = known["answer"]
        if not is_answer:
            target = _evaluate_text(task, row.index, f"{where}, target", template.target, known, row.fields)
        _refuse_empty(target, f"{place}: the target")
    position: int | None = None
    references: tuple[str, ...] = (target,) if row.answered else ()
    if not forward:
        options = ()
    elif options and row.answered:
        if target not in options:
            raise FlanlabError(
                f"{place}: the target {target!r} is not one of the options {list(options)!r}.",
                hint="Leave out the template's `target`, or give the template its own `options`.",
            )
        # A template with its own target (a question turned into its opposite) has only that right option.
        position, references = options.index(target), tuple(dict.fromkeys((target, *(right if target in right else ()))))
    elif row.answered and task.references is not None and is_answer:
        # A template with its own target (the other translation direction) has only that reference.
        references = _references(task, row, {"answer": target}, row.fields, row.columns) or references
    if options and option_order is not None and isinstance(template, Template):
        prompt = f"{prompt}\n\n{template.listed([options[place] for place in option_order])}"
    return Example(task.name, task.clusters[0], template_number, row.index, prompt, target, options, position, references)


def _refuse_empty(text: str, what: str) -> None:
    if not text:
        raise FlanlabError(f"{what} is empty.", hint="Filter out rows with empty text, for example with `filter`.")


def answers_of(task: Task, row: PreparedRow, where: str = "answer") -> tuple[str, Sequence[str]]:
    """The answer and every right option (for generation the answer alone), in the task's own words.

    Raises:
        FlanlabError: an undefined name, or an answer that is not among the options.
    """
    options = row.options
    variables = _variables(row)
    answer = _evaluate_text(task, row.index, "answer", task.answer, *variables)
    right = _references(task, row, *variables) if options and task.references is not None else (answer,)
    if unknown := [text for text in (answer, *right) if options and text not in options]:
        raise FlanlabError(
            f"{task.path}, row {row.index}, {where}: the answer {unknown[0]!r} is not among the options {list(options)!r}.",
            hint="Check `answer`, `references`, `options` and the label ids of the data. Filter out rows without a label.",
        )
    return answer, right


def _variables(row: PreparedRow) -> tuple[Mapping[str, Any], ...]:
    """What the expressions of answers and options may use."""
    own: tuple[Mapping[str, Any], ...] = (row.fields, row.columns)
    return ({"options": list(row.options)}, *own) if row.options else own


def group_of(task: Task, row: PreparedRow) -> str | None:
    """The row's group: rows with the same value belong together. None if the task has no `group`.

    Raises:
        FlanlabError: the task has `group`, but it gives no value for this row.
    """
    if task.group is None:
        return None
    value = _evaluate_text(task, row.index, "group", task.group, row.fields, row.columns)
    if not value:
        raise FlanlabError(
            f"{task.path}, row {row.index}: `group` gives no value.",
            hint="Write an expression that has a value in each row, or leave out such rows with `filter`.",
        )
    return value


def gold_value_of(task: Task, row: PreparedRow) -> float | None:
    """The number that the row's answer is compared with. None if the task has no `gold_value`.

    Raises:
        FlanlabError: it is not a finite number.
    """
    if task.gold_value is None:
        return None
    value = _evaluate(task, row.index, "gold_value", task.gold_value, row.fields, row.columns)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise FlanlabError(
            f"{task.path}, row {row.index}: `gold_value` gives {value!r}, which is not a number.",
            hint="Write an expression that gives a number, or leave out such rows with `filter`.",
        )
    return number


def shorten_longest_field(row: PreparedRow, characters: int, where: Truncation = "end") -> PreparedRow | None:
    """Cut `characters`, and the rest of a word, from the longest text field. None if there is nothing to cut.

    It keeps at least half the length of the next longest field. If the prompt is still too long, a second cut shortens that
    one. Instruction and OPTIONS stay whole: only an input of the task loses its end or its middle.
    """
    texts = {name: value.strip() for name, value in row.shown.items() if isinstance(value, str)}
    if not texts:
        return None
    longest = max(texts, key=lambda name: len(texts[name]))
    next_longest = max((len(text) for name, text in texts.items() if name != longest), default=0)
    keep = max(len(texts[longest]) - characters, next_longest // 2)
    if keep < _SHORTEST_FIELD:
        return None
    # From the whole text, so that a second cut also leaves one gap.
    whole = row.fields[longest].strip()
    if where == "end":
        cut = _words_at_start(whole[:keep])
    else:
        half = (keep - len(_GAP)) // 2
        cut = _words_at_start(whole[:half]) + _GAP + whole[-half:].split(maxsplit=1)[-1]
    return replace(row, cut={**row.cut, longest: cut})


def _words_at_start(text: str) -> str:
    """A text without its last word, which may be incomplete."""
    return text.rsplit(maxsplit=1)[0].rstrip()


_GAP = " [...] "
"""Marks the place where the middle of a text was cut out."""
_SHORTEST_FIELD = 40
"""Characters. An input that is cut to less than this does not represent the row."""


THE_ANSWER: str = Template.model_fields["target"].default


def _template(task: Task, number: int) -> Template | Baseline:
    if number != BASELINE:
        return task.templates[number - 1]
    if task.baseline is None:
        raise FlanlabError(
            f"{task.path}: the task {task.name} has no baseline prompt.", hint="Write `baseline` in the task file."
        )
    return task.baseline


def _option_texts(task: Task, index: int, source: Options, *layers: Mapping[str, Any]) -> tuple[str, ...]:
    """The options of a row: the fixed list, or the value of the expression."""
    if isinstance(source, list):
        return tuple(source)
    values = _evaluate(task, index, "options", source, *layers)
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise FlanlabError(
            f"{task.path}, row {index}: `options` gives {values!r}, which is not a list.",
            hint='Write one expression that gives a list, such as "{{ choices }}" or "{{ [first, second] }}".',
        )
    options = tuple(_text(value, task, index, "options") for value in values)
    if len(options) < 2 or len(set(options)) != len(options) or not all(options):
        raise FlanlabError(
            f"{task.path}, row {index}: the options {list(options)!r} must be at least two, all different and not empty.",
            hint="Filter such rows out with `filter`.",
        )
    return options


def _references(task: Task, row: PreparedRow, *layers: Mapping[str, Any]) -> tuple[str, ...]:
    assert task.references is not None
    values = _evaluate(task, row.index, "references", task.references, *layers)
    if isinstance(values, str):
        values = [values]
    if values is None or not isinstance(values, Sequence):
        raise FlanlabError(
            f"{task.path}, row {row.index}: `references` gives {values!r}, which is not a list.",
            hint='Write one expression that gives a list of texts, such as "{{ answers }}".',
        )
    return tuple(dict.fromkeys(text for value in values if (text := _text(value, task, row.index, "references"))))


def _evaluate(task: Task, index: int, what: str, source: str, *layers: Mapping[str, Any]) -> Any:
    try:
        return compile_source(source)(*layers)
    except _RowError:
        raise  # from a field that the source needs, and reported for that field
    except TemplatingError as error:
        raise _RowError(f"{task.path}, row {index}, {what}: {error.message}", hint=error.hint) from error


class _RowError(TemplatingError):
    """The error with file, row and field."""


def _evaluate_text(task: Task, index: int, what: str, source: str, *layers: Mapping[str, Any]) -> str:
    return _text(_evaluate(task, index, what, source, *layers), task, index, what)


def _text(value: Any, task: Task, index: int, what: str) -> str:
    try:
        return "" if value is None else str(printable(value)).strip()
    except TemplatingError as error:
        raise _RowError(f"{task.path}, row {index}, {what}: {error.message}", hint=error.hint) from error
