"""One question to a model: a text of one's own, or a task's template filled in with values of one's own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flanlab.data.encoding import CharacterEncoder, PromptStyle
from flanlab.errors import FlanlabError
from flanlab.evaluation.given import GivenTask, ask_rows, counted_scores, given_task, table_of
from flanlab.evaluation.metrics.options import option_shares
from flanlab.evaluation.planning import EvaluationSettings, Setup
from flanlab.experiments.evaluate_model import CHARACTERS_PER_TOKEN, opened
from flanlab.models.answering import Model, Question, no_number
from flanlab.models.completions import Endpoint
from flanlab.tasks.loading import find_task
from flanlab.tasks.schema import Task

NEW_TOKENS = 256
"""Longest answer to a text of one's own, in tokens."""
PROMPT_TOKENS = 1024
"""Earlier turns are shown while they and the question stay within this number of tokens."""


@dataclass(frozen=True)
class RankedOption:
    """A possible answer, and what the model gives it."""

    option: str
    """In the template's words."""
    probability: float
    """Its share of the probability of all options, 0 to 1."""
    log_probability: float
    """Natural log, summed over its tokens."""


@dataclass(frozen=True)
class ModelAnswer:
    """What a model was asked and what it made of it."""

    prompt: str
    """As the template gives it, or as it was typed; without chat template and earlier turns."""
    text: str
    """The answer that the model generates."""
    options: tuple[RankedOption, ...] = ()
    """The likeliest first; empty where the question has none, or where a server gives no log-probabilities."""
    turns_dropped: int = 0
    """Earliest turns of `history` for which there was no room."""


def ask(
    model: str | Path | Model,
    question: str | None = None,
    *,
    task: str | Path | Task | None = None,
    row: Mapping[str, Any] | None = None,
    template: int | None = None,
    history: Sequence[tuple[str, str]] = (),
    chat: bool = False,
    new_tokens: int = NEW_TOKENS,
    seed: int = 0,
    collections: Sequence[str | Path] | None = None,
    endpoint: Endpoint | None = None,
) -> ModelAnswer:
    """Ask a model a question: a text, or a row of a task through one of its templates.

    Prompt and options are encoded, ranked and generated exactly as in an evaluation.

    Args:
        model: a name as for `load_model`, a model from it, or with `endpoint` a name that the server knows.
        question: a text. Without it, give `task` and `row`.
        task: the task whose template is filled in; a name, a YAML file or a task.
        row: the task's fields, or columns of its data, by name. The answer is not needed.
        template: number of a forward template. Default: the first.
        history: earlier questions and answers, oldest first: turns of the dialogue with `chat`, else exemplars before the
            question. Only for a text.
        chat: ask through the model's chat template.
        new_tokens: longest generated answer to a text, in tokens.
        seed: determines the order of OPTIONS, as in `evaluate`.
        collections: where to look up names: `library`, `extra`, `sampler`, or folders. Default: all three.
        endpoint: server that knows `model` by its name.

    Raises:
        FlanlabError: neither text nor task, a field that is missing or not known, no such model, or a model that computes
            NaN.

    Examples:
        >>> import flanlab as fl
        >>> answer = fl.ask(example_model, task="visitor_comments", row={"comment": "We loved every room."})
        >>> sorted(one.option for one in answer.options)
        ['negative', 'positive']
    """
    if question is None and task is None:
        raise FlanlabError("There is no question.", hint="Give a text, or a task with its row.")
    if task is None and (row or template is not None):
        raise FlanlabError("A text has no fields and no template.", hint="Name the task that they are of, or leave them out.")
    style: PromptStyle = "chat" if chat else "instruction"
    given = None
    if task is not None:
        # Looked at before a model is loaded.
        asked = task if isinstance(task, Task) else find_task(task, collections)
        numbers = [] if template is None else [template]
        if question is not None:
            names = given_task(asked, table_of([{}]), numbers, complete=False).lacking()
            raise FlanlabError(
                f"{question!r} stands beside the task {asked.name}, but names none of its fields.",
                hint=f"Give each by its name: {' '.join(f'{name}=TEXT' for name in names)} (in Python: row=). Put a text with"
                " spaces in quotes. To ask a text of your own, leave the task out.",
            )
        given = given_task(asked, table_of([row or {}]), numbers, only_known=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        opened(model, endpoint, EvaluationSettings(pmi=False), [style], Path(folder)) as (found, settings),
    ):
        setup = Setup(found, settings, seed, style)
        return _ask_text(setup, question or "", history, new_tokens) if given is None else _ask_row(setup, given)


def _ask_row(setup: Setup, given: GivenTask) -> ModelAnswer:
    [[(asked, answer)]] = ask_rows(setup, given, [0])
    ranked = []
    if asked.example.options and answer.scores:
        scores = counted_scores(setup, answer)
        shares = option_shares(scores).tolist()
        ranked = [RankedOption(*one) for one in zip(asked.example.options, shares, scores, strict=True)]
    # Stable, so that of equals the first in the task's order stays the first, as in an evaluation.
    return ModelAnswer(asked.example.prompt, answer.text, tuple(sorted(ranked, key=lambda one: -one.log_probability)))


def _ask_text(setup: Setup, question: str, history: Sequence[tuple[str, str]], new_tokens: int) -> ModelAnswer:
    if not question.strip():
        raise FlanlabError("The question is empty.", hint="Write a text.")
    encoder, style = setup.model.encoder, setup.style
    limit = PROMPT_TOKENS * (CHARACTERS_PER_TOKEN if isinstance(encoder, CharacterEncoder) else 1)
    kept = list(history)
    prompt = encoder.encode(question, [], style, kept).prompt
    while kept and len(prompt) > limit:
        del kept[0]
        prompt = encoder.encode(question, [], style, kept).prompt
    [(_, answer)] = setup.model.answer([Question(prompt, [], new_tokens, encoder.ends)], 4096)
    if answer.failed:
        raise no_number("The model", "this question")
    return ModelAnswer(question, answer.text, turns_dropped=len(history) - len(kept))
