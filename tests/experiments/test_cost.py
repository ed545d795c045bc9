"""What work is said to cost: it is timed as it will be done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from flanlab.data.reader import RowReader
from flanlab.evaluation.evaluate import plan_tasks
from flanlab.evaluation.planning import EvaluationSettings, PlannedTask, Setup
from flanlab.evaluation.questions import ask
from flanlab.experiments import cost, run
from flanlab.experiments.cost import TokenCosts
from flanlab.experiments.sweep import plan_sweep
from flanlab.models import loading
from flanlab.models.answering import Question
from flanlab.models.loading import load_model
from flanlab.tasks.loading import load_collection
from flanlab.training.settings import TrainingSettings
from tests.experiments.test_sweep import base_recipe
from tests.tiny import write_tasks


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool, list[Question]]]:
    """What models are asked: the number type of their weights, whether they compute in bfloat16, and the questions."""
    calls: list[tuple[str, bool, list[Question]]] = []
    original = loading.answer_questions

    def listening(model: Any, questions: Sequence[Question], budget: int) -> Any:
        calls.append((str(model.dtype), torch.is_autocast_enabled("cpu"), list(questions)))
        return original(model, questions, budget)

    monkeypatch.setattr(loading, "answer_questions", listening)
    return calls


def test_training_is_timed_in_its_own_number_type_on_prompts_that_share_nothing(tiny_folder: Path, asked: list[Any]) -> None:
    """What prompts have in common is computed once: a speed measured on such would be too good."""
    loaded, costs = load_model(str(tiny_folder), device="cpu"), TokenCosts()
    for dtype in ("float32", "bfloat16", "bfloat16"):
        assert costs.training(loaded, TrainingSettings(steps=1, learning_rate=1, compute_dtype=dtype)) > 0
    assert [rounded for _, rounded, _ in asked] == [False, False, True, True], "each type once, after a warm-up"
    firsts = [question.prompt[0] for question in asked[-1][2]]
    assert len(set(firsts)) == len(firsts) > 1


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_questions_are_timed_in_the_number_type_that_they_are_scored_in(
    dtype: str, tmp_path: Path, tiny_folder: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"rows": 4, "templates_per_row": 1, "generate": False, "pmi": False, "dtype": dtype}
    recipe = base_recipe(tmp_path, tiny_folder, evaluation=settings)
    assert plan_sweep("clusters", recipe, tmp_path / "out", points=["1"], only=["untuned"]).to_do()[0].seconds > 0
    weights = {"auto": "torch.float32", "bfloat16": "torch.bfloat16"}[dtype]
    assert {kind for kind, _, _ in asked} == {weights}
    planned = len(asked)
    monkeypatch.setattr(run, "evaluate", Mock(side_effect=InterruptedError))
    with pytest.raises(InterruptedError):
        run.run_recipe(recipe, tmp_path / "run")
    # A run announces what training and questions take; each is timed after a warm-up.
    assert [kind for kind, _, _ in asked[planned:]] == ["torch.float32", "torch.float32", weights, weights]


def tasks_of(folder: Path, settings: EvaluationSettings) -> list[PlannedTask]:
    """A task whose options are ranked, and one whose answer is written."""
    write_tasks(folder)
    return plan_tasks(load_collection(folder), settings, 0, RowReader())


@pytest.mark.parametrize(("generate", "ranked"), [(True, [2, 3, 2]), (False, [2, 5])])
def test_written_answers_are_timed_as_many_together_as_in_shards(
    generate: bool, ranked: list[int], tmp_path: Path, tiny_folder: Path, asked: list[Any]
) -> None:
    """Each step of writing reads all weights: many together take less time than the few of a small evaluation's shards."""
    settings = EvaluationSettings(rows=5, templates_per_row=1, pmi=False, generate=generate, new_tokens=4)
    setup = Setup(load_model(str(tiny_folder), device="cpu"), settings)
    assert TokenCosts().question(setup, tasks_of(tmp_path, settings)) > 0
    # Two to warm up; shards of five questions hold two and three.
    assert [len(questions) for *_, questions in asked] == [*ranked, 2, 3, 2]


def test_a_question_costs_what_its_tokens_do_ranked_or_written(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = EvaluationSettings(rows=5, templates_per_row=1, pmi=False, generate=False, new_tokens=4)
    planned = tasks_of(tmp_path, settings)
    assert {one.task.is_classification for one in planned} == {True, False}
    setup = Setup(load_model(str(tiny_folder), device="cpu"), settings)
    price = {True: 2.0, False: 30.0}
    monkeypatch.setattr(
        cost, "_seconds", lambda loaded, questions, *_: sum(price[bool(one.options)] * one.length for one in questions)
    )
    costs = [price[one.task.is_classification] * ask(setup, one, *pair).length for one in planned for pair in one.pairs]
    assert TokenCosts().question(setup, planned) == pytest.approx(sum(costs) / len(costs))
    # What is asked beside the questions for accuracy by PMI costs, too.
    more = Setup(setup.model, settings.model_copy(update={"pmi": True}))
    assert TokenCosts().question(more, planned) > TokenCosts().question(setup, planned)
