"""What work costs on this machine: a speed measured on the spot, and what training and answering cost beside scoring."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flanlab.data.encoding import PromptStyle
from flanlab.data.mixture import Mixture
from flanlab.evaluation.planning import PlannedTask
from flanlab.evaluation.questions import ask
from flanlab.evaluation.setup import Setup
from flanlab.experiments.recipe import Plan, Recipe
from flanlab.models.answering import Question
from flanlab.models.loading import LoadedModel
from flanlab.processes import world_size
from flanlab.training.precision import computing, settle
from flanlab.training.settings import TrainingSettings

_TRAINING_COST = 3.3
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


def training_speed(loaded: LoadedModel, settings: TrainingSettings, scoring: float) -> float:
    """Tokens per second of training on this machine. `scoring` is the speed of a forward pass in the model's own number type;
    training computes in the settings' one, which may be faster.
    """
    if settings.compute_dtype == "auto":
        settings = settle(settings, loaded.model)
    if settings.compute_dtype != loaded.dtype:
        with computing(settings, loaded.model.device):
            scoring = scoring_speed(loaded)
    return scoring / _TRAINING_COST


def mean_question_length(units: Sequence[PlannedTask], recipe: Recipe, loaded: LoadedModel) -> float:
    """Tokens of a question with its options, on average over some of each unit."""
    setup = Setup(loaded, recipe.evaluation, recipe.seed)
    lengths = [ask(setup, unit, *pair).length for unit in units for pair in unit.pairs[:20]]
    return sum(lengths) / len(lengths)


@dataclass(frozen=True)
class Prices:
    """What the parts of a run cost on this machine."""

    training: float
    """Seconds of one training."""
    question: float
    """Seconds of one question, averaged over tasks."""
    arms: Mapping[PromptStyle, int]
    """In how many ways the untuned model is asked, by prompt style; the tuned one as many as `instruction` says."""


def run_prices(
    plan: Plan,
    loaded: LoadedModel,
    units: Sequence[PlannedTask],
    mixture: Mixture,
    per_step: int,
    styles: Sequence[PromptStyle],
) -> Prices:
    """What a recipe's training and questions cost, from a speed measured on the spot."""
    recipe, speed = plan.recipe, scoring_speed(loaded)
    tokens = per_step * recipe.training.steps * mixture.mean_length(loaded.encoder, 200)
    return Prices(
        tokens / training_speed(loaded, recipe.training, speed) / world_size(),
        mean_question_length(units, recipe, loaded) * ANSWERING_COST / speed / world_size(),
        {style: len(recipe.evaluation.arms(style)) for style in styles},
    )
