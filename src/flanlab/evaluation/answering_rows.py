"""What a model answers to given rows, by one template or a vote: the option ranked first, as in evaluation, or a text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from flanlab.errors import FlanlabError
from flanlab.evaluation.given import GivenUnit
from flanlab.evaluation.metrics.answers import normalize_answer, option_said
from flanlab.evaluation.questions import Asked, ask
from flanlab.evaluation.setup import Setup
from flanlab.models.answering import Answer


def ask_rows(setup: Setup, unit: GivenUnit, rows: Sequence[int]) -> Iterator[list[tuple[Asked, Answer]]]:
    """Ask some rows through each of the unit's templates; yields the questions and answers of one row after the other.

    Raises:
        FlanlabError: a row that cannot be asked, or a model that computes no number.
    """
    asked = [ask(setup, unit, row, template) for row in rows for template in unit.templates]
    answers = dict(setup.model.answer([one.question for one in asked], setup.settings.token_budget))
    for place, one in enumerate(asked):
        if answers[place].failed:
            raise FlanlabError(
                f"{unit.task.name}, row {one.example.row}, template {one.example.template}: the model computes no number (NaN"
                " or infinity) for this question.",
                hint="It is a fault of the model: check its weights, or load it in float32 or bfloat16 if it overflows.",
            )
    count = len(unit.templates)
    for start in range(0, len(asked), count):
        yield [(asked[place], answers[place]) for place in range(start, start + count)]


def probabilities(answer: Answer, end_token: bool) -> list[float]:
    """Each option's share of the probability of all options (softmax of their summed log-probabilities), [options]."""
    scores = answer.scores if end_token else answer.scores_without_end
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    return [weight / sum(weights) for weight in weights]


def answer_row(unit: GivenUnit, row: int, answers: Sequence[tuple[Asked, Answer]], end_token: bool) -> dict[str, Any]:
    """The answer to a row, from its answers through each template.

    Options are answered by the highest mean of their probabilities over templates (of equals, the first in the task's order);
    texts, and options that a server cannot rank, by the answer that most templates give (of equals, the first one's).

    Returns:
        `prediction`, in the task's own words (None where a generated text is none of the options), its `probability` and the
        `probabilities` of all options (None where nothing was ranked), `agreement`: the share of templates that alone would
        say the same, and `gold`: the answer that the row itself gives (None where it gives none). Where several options are
        right and the prediction is one of them, that one.
    """
    options = unit.prepare(row).options
    shares = None
    if options and answers[0][1].scores:
        by_template = [probabilities(answer, end_token) for _, answer in answers]
        means = [math.fsum(column) / len(by_template) for column in zip(*by_template, strict=True)]
        said: list[str | None] = [options[shares.index(max(shares))] for shares in by_template]
        prediction: str | None = options[means.index(max(means))]
        shares = dict(zip(options, means, strict=True))
        agreement = said.count(prediction) / len(said)
    elif options:
        places = [option_said(answer.text, one.example.options) for one, answer in answers]
        said = [None if place is None else options[place] for place in places]
        prediction, agreement = _most_said(said, said)
    else:
        texts = [answer.text for _, answer in answers]
        prediction, agreement = _most_said(texts, [normalize_answer(text) for text in texts])
    gold = unit.gold(row)
    return {
        "prediction": prediction,
        "probability": shares[prediction] if shares is not None and prediction is not None else None,
        "probabilities": shares,
        "agreement": agreement,
        "gold": None if gold is None else prediction if prediction in gold[1] else gold[0],
    }


def _most_said(texts: Sequence[str | None], forms: Sequence[str | None]) -> tuple[str | None, float]:
    """The text whose form occurs most often, and its share. What is no answer counts only where nothing else was said."""
    counts = Counter(form for form in forms if form is not None)
    if not counts:
        return None, 1.0
    form = max(counts, key=lambda one: (counts[one], -list(forms).index(one)))
    return texts[list(forms).index(form)], counts[form] / len(forms)
