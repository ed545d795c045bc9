"""A row seen through a template: an example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jinja2 import Undefined

from flanlab.errors import FlanlabError
from flanlab.tasks.schema import Task
from flanlab.tasks.templating import TemplatingError, compile_source


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt with its target. `template` counts from 1, `row` from 0 within the split's kept rows."""

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
    """Every acceptable answer; the target alone unless the task lists more."""


@dataclass(frozen=True, slots=True)
class PreparedRow:
    """A row with its fields worked out, so that ten templates do not work them out ten times."""

    index: int
    columns: Mapping[str, Any]
    fields: Mapping[str, Any]
    cut: Mapping[str, str] = field(default_factory=dict)
    """Fields that a prompt shows without their end. Options, answer and target are always made from whole fields."""

    @property
    def shown(self) -> Mapping[str, Any]:
        """The fields as a prompt shows them."""
        return {**self.fields, **self.cut}


def prepare_row(task: Task, row: Mapping[str, Any], index: int) -> PreparedRow:
    """Work out a row's fields.

    Raises:
        TemplatingError: names task file, row and field.
    """
    if not task.fields:
        return PreparedRow(index, row, row)
    fields = {}
    for name, source in task.fields.items():
        fields[name] = _evaluate(task, index, f"field {name}", source, row)
    return PreparedRow(index, row, fields)


def render(task: Task, template_number: int, row: PreparedRow, option_order: Sequence[int] | None = None) -> Example:
    """Fill a template (numbered from 1) with a row.

    Args:
        task: the row's task.
        template_number: which of its templates.
        row: the row, prepared.
        option_order: order in which the OPTIONS block lists the options (positions in the task's own order); None leaves
            the block out. Ignored where there is nothing to choose from: generation and inverted templates.

    Raises:
        FlanlabError: an undefined name, an empty prompt or target, an answer that is not among the options.
    """
    template = task.templates[template_number - 1]
    where = f"template {template_number}"
    variables = {**row.columns, **row.fields}
    options = _options(task, row.index, variables)
    if options:
        variables["options"] = _OptionList(options)
    answer = _text(_evaluate(task, row.index, "answer", task.answer, variables))
    if options and answer not in options:
        raise FlanlabError(
            f"{task.path}, row {row.index}, {where}: the answer {answer!r} is not among the options {list(options)!r}.",
            mend="Check `answer`, `options` and the label ids of the data; filter out rows without a label.",
        )
    if template.options is not None:
        # Other words for the same answers: they correspond by position.
        answer = template.options[options.index(answer)]
        options = tuple(template.options)
    beside_fields: dict[str, Any] = {"answer": answer}
    if options:
        beside_fields["options"] = list(options)
    prompt = _text(_evaluate(task, row.index, f"{where}, prompt", template.prompt, {**row.shown, **beside_fields}))
    target = _text(_evaluate(task, row.index, f"{where}, target", template.target, {**row.fields, **beside_fields}))
    for part, text in (("prompt", prompt), ("target", target)):
        if not text:
            raise FlanlabError(
                f"{task.path}, row {row.index}, {where}: the {part} is empty.",
                mend="Filter out rows with empty text, for example with `filter`.",
            )
    forward = template.direction == "forward"
    if forward and options:
        if target not in options:
            raise FlanlabError(
                f"{task.path}, row {row.index}, {where}: the target {target!r} is none of the options {list(options)!r}.",
                mend="Leave the template's `target` out, or give the template `options` in those words.",
            )
        if option_order is not None:
            prompt += "\n\nOPTIONS:\n" + "\n".join(f"- {options[position]}" for position in option_order)
        return Example(
            task.name,
            task.clusters[0],
            template_number,
            row.index,
            prompt,
            target,
            options,
            options.index(target),
            (target,),
        )
    references: tuple[str, ...] = (target,)
    # A template with a target of its own (the other translation direction, an inverted one) has only that reference.
    if forward and task.references is not None and template.target == type(template).model_fields["target"].default:
        references = _references(task, row, variables | {"answer": answer}) or references
    return Example(task.name, task.clusters[0], template_number, row.index, prompt, target, references=references)


def option_count(task: Task, row: PreparedRow) -> int:
    """How many options the row has; 0 for generation."""
    return len(_options(task, row.index, {**row.columns, **row.fields}))


def shorten_longest_field(row: PreparedRow, characters: int) -> PreparedRow | None:
    """Cut at least `characters` off the end of the longest text field, at a word; None where nothing is left to cut.

    Instruction and OPTIONS stay whole: only an input of the task loses its end.
    """
    texts = {name: value.strip() for name, value in row.shown.items() if isinstance(value, str)}
    if not texts:
        return None
    longest = max(texts, key=lambda name: len(texts[name]))
    keep = len(texts[longest]) - characters
    if keep < _SHORTEST_FIELD:
        return None
    cut = texts[longest][:keep].rsplit(maxsplit=1)[0].rstrip()
    return replace(row, cut={**row.cut, longest: cut})


_SHORTEST_FIELD = 40
"""Characters: an input cut to less than this says too little to stand for the row."""


class _OptionList(list[str]):
    """Options as expressions see them: a label of -1 ("no label") is an error, not the last option."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, Undefined):
            str(index)  # raises, and names what is undefined
        if not isinstance(index, slice) and index not in range(len(self)):
            raise TemplatingError(
                f"options[{index!r}] is no option: a label counts from 0 to {len(self) - 1} here",
                mend='Leave rows without a label out, for example with `filter: "{{ label >= 0 }}"`.',
            )
        return super().__getitem__(index)


def _options(task: Task, index: int, variables: Mapping[str, Any]) -> tuple[str, ...]:
    if task.options is None:
        return ()
    if isinstance(task.options, list):
        return tuple(task.options)
    values = _evaluate(task, index, "options", task.options, variables)
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise FlanlabError(
            f"{task.path}, row {index}: `options` gives {values!r}, which is not a list.",
            mend='Write one expression that gives a list, such as "{{ choices }}" or "{{ [first, second] }}".',
        )
    options = tuple(_text(value) for value in values)
    if len(options) < 2 or len(set(options)) != len(options) or not all(options):
        raise FlanlabError(
            f"{task.path}, row {index}: the options {list(options)!r} must be two or more, different and not empty.",
            mend="Filter such rows out with `filter`.",
        )
    return options


def _references(task: Task, row: PreparedRow, variables: Mapping[str, Any]) -> tuple[str, ...]:
    assert task.references is not None
    values = _evaluate(task, row.index, "references", task.references, variables)
    if isinstance(values, str):
        values = [values]
    if values is None or not isinstance(values, Sequence):
        raise FlanlabError(
            f"{task.path}, row {row.index}: `references` gives {values!r}, which is not a list.",
            mend='Write one expression that gives a list of texts, such as "{{ answers }}".',
        )
    return tuple(dict.fromkeys(text for value in values if (text := _text(value))))


def _evaluate(task: Task, index: int, what: str, source: str, variables: Mapping[str, Any]) -> Any:
    try:
        return compile_source(source)(variables)
    except TemplatingError as error:
        raise TemplatingError(f"{task.path}, row {index}, {what}: {error.message}", mend=error.mend) from error


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()
