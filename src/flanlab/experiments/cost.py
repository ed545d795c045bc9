"""What work costs on this machine: some of it is done on the spot, and its time is scaled to the whole."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flanlab.data.encoding import PromptStyle
from flanlab.evaluation.planning import EvaluationSettings, PlannedTask, Setup
from flanlab.evaluation.predict import in_shards, neutral_questions
from flanlab.evaluation.questions import TaskQuestion, ask
from flanlab.experiments.recipe import Plan
from flanlab.models.answering import Question
from flanlab.models.loading import LoadedModel
from flanlab.processes import world_size
from flanlab.training.precision import computing, settle
from flanlab.training.settings import TrainingSettings

_TRAINING_COST = 3.3
"""Computing a training token costs about this many times a scored one (forward, backward, update)."""
_KL_COST = 1.4
"""With `training.kl_weight`, a step takes about this many times as long (measured with Gemma 3 270M)."""
_QUESTIONS_OF_A_TASK = 20
"""To know how long its questions are."""


class TokenCosts:
    """Seconds that a token takes a model on this machine, measured when they are first needed."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], float] = {}

    def training(self, loaded: LoadedModel, settings: TrainingSettings) -> float:
        """Seconds of a training by one process, in the number type of its settings."""
        key = (loaded.name, settings.compute_dtype)
        if key not in self._known:
            if settings.compute_dtype == "auto":
                settings = settle(settings, loaded.model)
            # Unlike from the first token on: what prompts have in common is computed once.
            questions = [Question([5 + number, *range(5, 68)], [[5]]) for number in range(_timed_questions(loaded))]
            tokens = sum(question.length for question in questions)
            with computing(settings, loaded.model.device):
                self._known[key] = _TRAINING_COST * _seconds(loaded, questions, tokens) / tokens
        return settings.steps * settings.tokens_per_step * self._known[key] * (_KL_COST if settings.kl_weight else 1)

    def question(self, setup: Setup, planned: Sequence[PlannedTask]) -> float:
        """Seconds of a question with all that is computed for it, on average over what the tasks are asked.

        Some questions of the tasks are timed, unless others have been that were asked in the same way.
        """
        loaded, settings, seconds = setup.model, setup.settings, 0.0
        assert isinstance(loaded, LoadedModel)
        # Writing a text takes many times as long as ranking options of as many tokens.
        for ranked in (True, False):
            own = [one for one in planned if one.task.is_classification == ranked]
            if not own:
                continue
            asked = [_sample(setup, one) for one in own]
            at_once = _timed_questions(loaded)
            if settings.generate or not ranked:
                # Each step of writing reads all weights, however few questions are answered together.
                shards = sum(len(list(in_shards(one.pairs))) for one in own)
                at_once = min(at_once, -(-sum(len(one.pairs) for one in own) // max(1, shards)))
            key = (loaded.name, loaded.dtype, settings.generate, settings.pmi, ranked, at_once)
            if key not in self._known:
                self._known[key] = _timed(setup, loaded, [one for some in asked for one in some], at_once)
            for one, some in zip(own, asked, strict=True):
                seconds += len(one.pairs) * self._known[key] * _tokens(some) / len(some)
        return seconds / sum(len(one.pairs) for one in planned)


def _sample(setup: Setup, own: PlannedTask) -> list[TaskQuestion]:
    pairs = random.Random(0).sample(own.pairs, min(_QUESTIONS_OF_A_TASK, len(own.pairs)))
    return [ask(setup, own, *pair) for pair in pairs]


def _tokens(asked: Sequence[TaskQuestion]) -> int:
    return sum(one.length for one in asked)


def _timed(setup: Setup, loaded: LoadedModel, asked: Sequence[TaskQuestion], at_once: int) -> float:
    """Seconds for each token of such questions, with what is asked beside them for accuracy by PMI."""
    asked = random.Random(0).sample(asked, min(_timed_questions(loaded), len(asked)))
    questions = [*asked, *neutral_questions(setup, asked).values()]
    return _seconds(loaded, questions, setup.settings.token_budget, at_once) / _tokens(asked)


def _timed_questions(loaded: LoadedModel) -> int:
    return 256 if loaded.model.device.type == "cuda" else 32


def _seconds(loaded: LoadedModel, questions: Sequence[Question], token_budget: int, at_once: int | None = None) -> float:
    groups = [questions[start:][:at_once] for start in range(0, len(questions), at_once or len(questions))]
    # The first time takes longer; on a GPU with every shape, because kernels are compiled.
    for group in groups if loaded.model.device.type == "cuda" else [questions[:2]]:
        list(loaded.answer(group, token_budget))
    started = time.monotonic()
    for group in groups:
        list(loaded.answer(group, token_budget))
    return time.monotonic() - started


def count_questions(planned: Sequence[PlannedTask], settings: EvaluationSettings, styles: Sequence[PromptStyle]) -> int:
    """How many questions a model is asked in these prompt styles."""
    return sum(len(one.asked(style)) * len(settings.arms(style)) for one in planned for style in styles)


@dataclass(frozen=True)
class Prices:
    """What the parts of a run cost on this machine."""

    training: float
    """Seconds of one training."""
    question: float
    """Seconds of one question, averaged over tasks."""
    arms: Mapping[PromptStyle, int]
    """In how many ways the untuned model is asked, by prompt style; the tuned one as many as `instruction` says."""


def run_prices(plan: Plan, loaded: LoadedModel, scored: LoadedModel, styles: Sequence[PromptStyle]) -> Prices:
    """What a recipe's training costs with the model as `loaded`, and its questions with the model as it is `scored`."""
    recipe, costs = plan.recipe, TokenCosts()
    return Prices(
        costs.training(loaded, recipe.training) / world_size(),
        costs.question(Setup(scored, recipe.evaluation, recipe.seed), plan.planned) / world_size(),
        {style: len(recipe.evaluation.arms(style)) for style in styles},
    )
