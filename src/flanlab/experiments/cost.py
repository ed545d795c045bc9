"""What work costs on this machine: a speed measured on the spot, and what training and answering cost beside scoring."""

from __future__ import annotations

import time

from flanlab.models.answering import Question
from flanlab.models.loading import LoadedModel

TRAINING_COST = 3.3
"""Computing a training token costs about this many times a scored one (forward, backward, update)."""
ANSWERING_COST = 1.3
"""Answering a question, a generated answer with it, to scoring its tokens once."""


def scoring_speed(loaded: LoadedModel) -> float:
    """Tokens per second of a forward pass on this machine, measured on the spot."""
    # Unlike from the first token on: what prompts have in common is computed once.
    prompts = [[5 + number, *range(5, 68)] for number in range(128 if loaded.model.device.type == "cuda" else 8)]
    questions = [Question(prompt, [[5]]) for prompt in prompts]
    tokens = sum(question.length for question in questions)
    list(loaded.answer(questions, tokens))
    started = time.monotonic()
    list(loaded.answer(questions, tokens))
    return tokens / (time.monotonic() - started)
