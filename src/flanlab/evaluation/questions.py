"""A row and a template made into the question that a model is asked: exemplars before it, its input cut to fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from flanlab.data.exemplars import Pool, put_exemplars_before
from flanlab.data.mixture import option_order
from flanlab.data.rendering import (
    Example,
    PreparedRow,
    Truncation,
    render,
    shorten_longest_field,
)
from flanlab.errors import FlanlabError
from flanlab.evaluation.planning import EvaluationSettings, PlannedTask, Setup
from flanlab.models.answering import Answer, Question, no_number
from flanlab.tasks.schema import Task

EXTRA_TOKENS = 4
"""A generated answer may be this much longer than the longest option before it is cut: it cannot equal an option then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuestion(Question):
    """A question, and what it was made of."""

    example: Example
    shortened: bool
    """Whether the input lost its end or middle."""
    exemplars: tuple[int, ...]
    """Rows of the train split that stand before it, in order."""


def ask(setup: Setup, planned: PlannedTask, row_index: int, template: int) -> TaskQuestion:
    """The question for a row and a template: a pure function of its arguments, the settings being one arm of an evaluation's.

    Raises:
        FlanlabError: the row cannot be rendered, or nothing is left to shorten of a prompt that is too long.
    """
    task, settings, style, encoder = planned.task, setup.settings, setup.style, setup.model.encoder
    row = planned.prepare(row_index)
    order = evaluation_order(task, row, settings, setup.seed)
    shortened = False
    for example in _ever_shorter(task, template, row, order, settings.truncate):
        answers = example.options or [example.target]
        encoded = encoder.encode(example.prompt, answers, style)
        if len(encoded.prompt) <= settings.prompt_tokens:
            break
        shortened = True
    else:
        raise FlanlabError(
            f"{task.path}, row {row_index}, template {template}: the prompt is longer than {settings.prompt_tokens} tokens"
            " and has no field left to shorten.",
            hint="Raise prompt_tokens: evaluation.prompt_tokens in a recipe, --prompt-tokens of `flan eval`.",
        )
    exemplars: tuple[int, ...] = ()
    if settings.shot_count and planned.exemplars is not None:
        encoded, (exemplars, _) = put_exemplars_before(
            example,
            answers,
            encoded,
            task=task,
            row=row,
            pool=Pool(planned.exemplars, range(len(planned.exemplars))),
            count=settings.shot_count,
            tokens=settings.shot_tokens,
            order=lambda drawn: evaluation_order(task, drawn, settings, setup.seed),
            key=(setup.seed, task.name, row.index),
            encoder=encoder,
            style=style,
        )
    # Where the answer is one line, a model that goes on after its first line has answered.
    # One that is not known may have any number of lines.
    known = example.references or example.options
    one_line = style == "baseline" or (bool(known) and not any("\n" in text for text in known))
    if example.options:
        new_tokens = max(map(len, encoded.answers)) + EXTRA_TOKENS if settings.generate else 0
    else:
        new_tokens = settings.new_tokens
        if example.references:
            [longest_reference] = encoder.encode(example.prompt, [planned.longest_reference], style).answers
            new_tokens = min(new_tokens, len(longest_reference) * 3 // 2 + EXTRA_TOKENS)
    return TaskQuestion(
        encoded.prompt,
        encoded.answers if example.options else [],
        new_tokens,
        encoder.ends,
        encoder.newline_tokens if one_line else frozenset(),
        example=example,
        shortened=shortened,
        exemplars=exemplars,
    )


def evaluation_order(task: Task, row: PreparedRow, settings: EvaluationSettings, seed: int) -> list[int] | None:
    """Order in which a row's options are shown, the same through every template; None shows none."""
    # The epoch -1 keeps evaluation's orders apart from those of any training epoch.
    return option_order(settings.order, len(row.options), (seed, task.name, row.index, -1)) if row.options else None


def _ever_shorter(
    task: Task, template: int, row: PreparedRow, order: Sequence[int] | None, where: Truncation
) -> Iterator[Example]:
    """The example, and then with ever more cut off its longest field."""
    current: PreparedRow | None = row
    while current is not None:
        example = render(task, template, current, order)
        yield example
        current = shorten_longest_field(current, max(40, len(example.prompt) // 8), where)


def refuse_failed(task: Task, questions: Sequence[Question], answers: Mapping[int, Answer], more: str = "") -> None:
    """Refuse answers that mean nothing.

    Args:
        task: that the questions are of.
        questions: those of a row and template, and others: options without their question, for accuracy by PMI.
        answers: by the places of the questions.
        more: what else to do about it.

    Raises:
        FlanlabError: the model has computed NaN or infinity.
    """
    for position in sorted(place for place, answer in answers.items() if answer.failed):
        question = questions[position]
        where = "options without their question (for accuracy by PMI)"
        if isinstance(question, TaskQuestion):
            where = f"row {question.example.row}, template {question.example.template}"
        raise no_number(f"{task.name}, {where}: the model", f"this question of {question.length} tokens", more)
