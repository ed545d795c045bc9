"""Exemplars: solved rows of the train split that stand before a question (Wei et al. 2022, section 4.4).

Training and evaluation both choose and write them here, so a model is asked just as it was trained.
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
"""Exemplars before a question at most, as in the paper."""
_DRAWS_PER_SHOT = 4
"""Draws for each exemplar wanted: a row drawn twice, or the question itself, is passed over."""


class Pool(NamedTuple):
    """The rows of a train split that exemplars are drawn from."""

    rows: Rows
    indices: Sequence[int] | NDArray[np.int64]


class Exemplars(NamedTuple):
    """What stands before a question, in order."""

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
    """The question after up to `count` exemplars through its own template, as many as fit.

    Exemplars are kept in the order drawn; none is drawn twice, and none shows what the question shows. Through an inverted
    template they are inverted too.

    Args:
        example: the question as text.
        answers: what it is encoded with: the target, or all options.
        alone: the question encoded so, without exemplars.
        task: of the question and of the pool.
        row: the question's row.
        pool: where exemplars come from.
        count: exemplars wanted.
        tokens: the prompt stays within this number, exemplars and question together.
        order: order in which the options of an exemplar are shown; None shows none.
        key: what the draws follow from.
        encoder: the model's.
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
