"""A row and a template made into the question that a model is asked: exemplars before it, its input cut to fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flanlab.data.choices import choose
from flanlab.data.encoding import EncodedQuestion
from flanlab.data.mixture import option_order
from flanlab.data.rendering import (
    Example,
    PreparedRow,
    Truncation,
    option_count,
    prepare_row,
    render,
    shorten_longest_field,
)
from flanlab.errors import FlanlabError
from flanlab.evaluation.planning import EvaluationSettings, EvaluationUnit
from flanlab.evaluation.setup import Setup
from flanlab.models.scoring import Question
from flanlab.tasks.schema import Task

EXTRA_TOKENS = 4
"""A generated answer may be this much longer than the longest option before it is cut: it cannot equal an option then."""
_DRAWS_PER_SHOT = 4
"""Draws for each exemplar wanted: a row drawn twice, or the question itself, is passed over."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, and what it was made of."""

    question: Question
    example: Example
    shortened: bool
    """Whether the input lost its end or middle."""
    exemplars: tuple[int, ...]
    """Rows of the train split that stand before it, in order."""


def ask(setup: Setup, unit: EvaluationUnit, row_index: int, template: int) -> Asked:
    """The question for a row and a template: a pure function of its arguments.

    Raises:
        FlanlabError: the row cannot be rendered, or nothing is left to shorten of a prompt that is too long.
    """
    task, settings, style, encoder = unit.task, setup.settings, setup.style, setup.model.encoder
    row = prepare_row(task, unit.rows[row_index], row_index)
    order = evaluation_order(task, row, settings, setup.seed)
    shortened = False
    for example in _ever_shorter(task, template, row, order, settings.truncate):
        encoded = encoder.encode(example.prompt, example.options or [example.target], style)
        if len(encoded.prompt) <= settings.prompt_tokens:
            break
        shortened = True
    else:
        raise FlanlabError(
            f"{task.path}, row {row_index}, template {template}: the prompt is longer than {settings.prompt_tokens} tokens"
            " and has no field left to shorten.",
            hint="Raise evaluation.prompt_tokens.",
        )
    encoded, exemplars = _after_exemplars(setup, unit, row, example, encoded)
    stop = frozenset({encoder.end})
    # Where the answer is one line, a model that goes on after its first line has answered.
    one_line = style == "baseline" or not any("\n" in reference for reference in example.references)
    line_breaks = encoder.newline_tokens if one_line else frozenset()
    if example.options:
        longest = max(len(option) for option in encoded.answers)
        new_tokens = longest + EXTRA_TOKENS if settings.generate else 0
        question = Question(encoded.prompt, encoded.answers, new_tokens, stop, line_breaks)
    else:
        [longest_reference] = encoder.encode(example.prompt, [unit.longest_reference], style).answers
        new_tokens = min(settings.new_tokens, len(longest_reference) * 3 // 2 + EXTRA_TOKENS)
        question = Question(encoded.prompt, [], new_tokens, stop, line_breaks)
    return Asked(question, example, shortened, exemplars)


def _after_exemplars(
    setup: Setup, unit: EvaluationUnit, row: PreparedRow, example: Example, alone: EncodedQuestion
) -> tuple[EncodedQuestion, tuple[int, ...]]:
    """The question after up to `settings.shots` exemplars through the same template, as many as fit (section 4.4).

    Exemplars are rows of the train split, drawn for each question anew and kept in the order drawn; never the question itself.
    """
    task, settings, seed = unit.task, setup.settings, setup.seed
    if not settings.shots or unit.exemplars is None:
        return alone, ()
    shown: list[tuple[str, str]] = []
    rows: list[int] = []
    encoded = alone
    for draw in range(settings.shots * _DRAWS_PER_SHOT):
        if len(rows) == settings.shots:
            break
        index = choose(len(unit.exemplars), (seed, task.name, row.index, "shot", draw))
        if index in rows:
            continue
        drawn = prepare_row(task, unit.exemplars[index], index)
        if dict(drawn.fields) == dict(row.fields):
            continue
        exemplar = render(task, example.template, drawn, evaluation_order(task, drawn, settings, seed))
        longer = [*shown, (exemplar.prompt, exemplar.target)]
        found = setup.model.encoder.encode(example.prompt, example.options or [example.target], setup.style, longer)
        if len(found.prompt) > settings.shot_tokens:
            break
        shown, encoded = longer, found
        rows.append(index)
    return encoded, tuple(rows)


def evaluation_order(task: Task, row: PreparedRow, settings: EvaluationSettings, seed: int) -> list[int] | None:
    """Order in which a row's options are shown, the same through every template; None shows none."""
    count = option_count(task, row)
    # The epoch -1 keeps evaluation's orders apart from those of any training epoch.
    return option_order(settings.options, count, (seed, task.name, row.index, -1)) if count else None


def _ever_shorter(
    task: Task, template: int, row: PreparedRow, order: Sequence[int] | None, where: Truncation
) -> Iterator[Example]:
    """The example, and then with ever more cut off its longest field."""
    current: PreparedRow | None = row
    while current is not None:
        example = render(task, template, current, order)
        yield example
        current = shorten_longest_field(current, max(40, len(example.prompt) // 8), where)
