"""Exemplars: solved rows of the train split before a question (Wei et al. 2022, section 4.4).

Training and evaluation both choose and write them here, so a model is asked in the form that it was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flanlab.data.choices import Key, choose
from flanlab.data.encoding import EncodedQuestion, Encoder, PromptStyle
from flanlab.data.rendering import Example, PreparedRow, prepare_row, render
from flanlab.data.sources import Rows
from flanlab.tasks.schema import Task

MOST_SHOTS = 16
"""Largest number of exemplars before a question, as in the paper."""
_DRAWS_PER_SHOT = 4
"""Draws for each wanted exemplar. A row that is drawn twice, or is the question itself, is skipped."""


class Pool(NamedTuple):
    """The rows of a train split, from which exemplars are drawn."""

    rows: Rows
    indices: Sequence[int] | NDArray[np.int64]


class Exemplars(NamedTuple):
    """The exemplars before a question, in order."""

    rows: tuple[int, ...]
    texts: tuple[tuple[str, str], ...]
    """Prompt and target of each."""


NO_EXEMPLARS = Exemplars((), ())


def put_exemplars_before(
    example: Example,
    answers: Sequence[str],
    alone: EncodedQuestion,
    *,
    task: Task,
    row: PreparedRow,
    pool: Pool,
    count: int,
    tokens: int,
    order: Callable[[PreparedRow], Sequence[int] | None],
    key: Key,
    encoder: Encoder,
    style: PromptStyle = "instruction",
) -> tuple[EncodedQuestion, Exemplars]:
    """The question after up to `count` exemplars in the same template, as many as fit.

    Exemplars keep the order in which they were drawn. None is drawn twice, and none shows the same as the question. With an
    inverted template they are inverted too.

    Args:
        example: the question as text.
        answers: the answers that are encoded with it: the target, or all options.
        alone: the encoded question without exemplars.
        task: the task of question and pool.
        row: the question's row.
        pool: where exemplars come from.
        count: number of exemplars.
        tokens: limit for exemplars and question together.
        order: order in which an exemplar's options are shown; None shows none.
        key: the key that determines the draws.
        encoder: the model's encoder.
        style: how the model is asked.

    Raises:
        FlanlabError: a row that was drawn cannot be rendered.
    """
    encoded, shown = alone, NO_EXEMPLARS
    for draw in range(count * _DRAWS_PER_SHOT if len(pool.indices) else 0):
        if len(shown.rows) == count:
            break
        index = int(pool.indices[choose(len(pool.indices), (*key, "shot", draw))])
        if index in shown.rows:
            continue
        drawn = prepare_row(task, pool.rows[index], index)
        if dict(drawn.fields) == dict(row.fields):
            continue
        exemplar = render(task, example.template, drawn, order(drawn))
        longer = Exemplars((*shown.rows, index), (*shown.texts, (exemplar.prompt, exemplar.target)))
        found = encoder.encode(example.prompt, answers, style, longer.texts)
        if len(found.prompt) > tokens:
            break
        encoded, shown = found, longer
    return encoded, shown
