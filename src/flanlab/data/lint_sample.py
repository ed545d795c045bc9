"""What the linter's rules check, how they are declared, and how they report findings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from jinja2 import Environment, nodes

from flanlab.data.rendering import BASELINE, Example, PreparedRow
from flanlab.tasks.schema import Baseline, Task, Template
from flanlab.tasks.templating import variables_in

Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of a task. `template` counts from 1 (0: the baseline prompt), `row` from 0 within its split. None means all
    or none in particular.
    """

    level: Level
    rule: str
    message: str
    hint: str
    template: int | None = None
    row: int | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """A row seen through one template, without the OPTIONS block."""

    split: str
    row: PreparedRow
    example: Example


@dataclass(frozen=True, slots=True)
class Answered:
    """Only a row's inputs and answer, counted over many more rows than are rendered."""

    inputs: str
    """The fields that forward prompts show, and the row's own options, as one comparable text."""
    option: int | None
    """Position of the answer among the options; None for generation."""


@dataclass(frozen=True)
class Sample:
    """What the rules check: a task and its rendered rows."""

    task: Task
    rows: Sequence[tuple[str, PreparedRow]]
    """Split and row."""
    by_template: Mapping[int, Sequence[Shown]]
    answered: Mapping[str, Sequence[Answered]]
    lengths: Mapping[int, Sequence[tuple[int, int]]]
    """Template to (prompt tokens, target tokens) of its rows; empty without an encoder."""
    merged: Mapping[str, Sequence[Shown]] = field(default_factory=dict)
    """Tokenizer to the rows whose prompt ends and whose answer begins with one token; empty without an encoder."""
    label_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Column to the names of its label ids, if the data has them."""


class Problem(NamedTuple):
    """What a rule has found, and where."""

    message: str
    template: int | None = None
    row: int | None = None
    level: Level | None = None
    rule: str | None = None
    hint: str | None = None


Check = Callable[[Sample], Iterator[Problem]]


RULES: list[Callable[[Sample], Iterator[Finding]]] = []
"""All rules. Their modules declare them."""


def rule(level: Level, name: str, hint: str) -> Callable[[Check], Check]:
    """Declare a function to be a rule, whose findings have this level, name and hint unless the problem has its own."""

    def declare(check: Check) -> Check:
        def findings(sample: Sample) -> Iterator[Finding]:
            for one in check(sample):
                yield Finding(one.level or level, one.rule or name, one.message, one.hint or hint, one.template, one.row)

        RULES.append(findings)
        return check

    return declare


FEW = 0.02
"""Up to this share of rows, some problems are part of the text (abbreviations, gaps left by its author)."""


def in_rows(
    sample: Sample, find: Callable[[Shown], Any], message: Callable[[Any], str], *, more_than: float = 0
) -> Iterator[Problem]:
    """A problem for each template in which `find` finds something in more than a share of the rows.

    `message` says what is wrong, from what was found first.
    """
    for number, shown in sample.by_template.items():
        hits = [(item, found) for item in shown if (found := find(item))]
        if len(hits) > more_than * len(shown):
            yield problem_of(message(hits[0][1]), number, [item for item, _ in hits], len(shown))


def problem_of(what: str, template: int, hits: Sequence[Shown], total: int, level: Level | None = None) -> Problem:
    """A problem in rows of one template: in how many of `total`, and in which one first."""
    first = hits[0]
    return Problem(f"{what} in {count_of(len(hits), total, first.split, first.row.index)}.", template, first.row.index, level)


def count_of(hits: int, total: int, split: str, row: int) -> str:
    """A phrase with the number of rows, and one of them."""
    return f"{hits} of {total} rows (first: {split} row {row})"


def template_list(numbers: Sequence[int]) -> str:
    """A phrase such as "template 1" or "templates 1, 3"."""
    templates = [str(number) for number in numbers if number != BASELINE]
    parts = [f"template{'s' if len(templates) > 1 else ''} {', '.join(templates)}"] if templates else []
    return " and ".join([*parts, *(["the baseline"] if BASELINE in numbers else [])])


def numbered_prompts(task: Task) -> list[tuple[int, Template | Baseline]]:
    """Every prompt of the task under its number: the templates from 1, the baseline as 0 at the end."""
    numbered: list[tuple[int, Template | Baseline]] = list(enumerate(task.templates, 1))
    return [*numbered, (BASELINE, task.baseline)] if task.baseline is not None else numbered


def input_variables(task: Task, source: str) -> frozenset[str]:
    """The task's inputs that a template source uses, without answer and options."""
    names = variables_in(source) - {"answer", "options"}
    return names & frozenset(task.fields) if task.fields else names


@functools.lru_cache(maxsize=1024)
def unguarded_variables_in(source: str) -> frozenset[str]:
    """Names that a template source prints unconditionally: outside of any `if` that checks them."""
    return frozenset(_printed(Environment().parse(source), frozenset()))


def _printed(node: nodes.Node, asked: frozenset[str]) -> Iterator[str]:
    if isinstance(node, nodes.Name):
        if node.ctx == "load" and node.name not in asked:
            yield node.name
        return
    if isinstance(node, nodes.If | nodes.CondExpr):
        asked |= {name.name for name in node.test.find_all(nodes.Name)} | (
            {node.test.name} if isinstance(node.test, nodes.Name) else set()
        )
    elif isinstance(node, nodes.Or) or (isinstance(node, nodes.Filter) and node.name in ("default", "d")):
        # `a or b` and `a | default(b)` handle an empty a.
        return
    for child in node.iter_child_nodes():
        yield from _printed(child, asked)
