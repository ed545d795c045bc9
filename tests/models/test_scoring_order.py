"""An answer depends on its question alone: not on the batch, the order, or what is asked beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from flanlab.models.loading import load_model
from flanlab.models.scoring import TokenAnswer, answer_questions
from tests.models.test_scoring import KINDS, random_questions

QUESTIONS = [
    dataclasses.replace(question, max_new_tokens=number % 4 * 2, stop_tokens=frozenset({0}))
    for number, question in enumerate(random_questions())
]


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tiny_folders: Mapping[str, Path]) -> PreTrainedModel:
    return load_model(str(tiny_folders[request.param]), device="cpu").model


@pytest.fixture(scope="module")
def alone(model: PreTrainedModel) -> list[TokenAnswer]:
    """Each question asked by itself."""
    return [answer for question in QUESTIONS for _, answer in answer_questions(model, [question])]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(range(len(QUESTIONS))), min_size=1, max_size=14), st.integers(1, 700))
def test_order_and_company_change_no_answer(
    model: PreTrainedModel, alone: list[TokenAnswer], asked: list[int], budget: int
) -> None:
    together = dict(answer_questions(model, [QUESTIONS[number] for number in asked], budget))
    assert sorted(together) == list(range(len(asked)))
    for position, number in enumerate(asked):
        expected = alone[number]
        assert together[position].scores == pytest.approx(expected.scores, abs=1e-4)
        assert together[position].scores_without_end == pytest.approx(expected.scores_without_end, abs=1e-4)
        assert together[position].generated == expected.generated
