"""Encoder-decoder models against the plain way: one option at a time, by the model's own loss of labels."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from flanlab.data.encoding import SeparateTextEncoder
from flanlab.models import encoder_decoder
from flanlab.models.answering import Question
from flanlab.models.encoder_decoder import answer_from_encoder, check_padding
from flanlab.models.loading import LoadedModel, load_model
from flanlab.models.scoring import TokenAnswer
from tests.task_files import refusal
from tests.tiny_encoder_decoder import KINDS, make_encoder_decoder, stock_encoder_decoder

BUDGETS = [1, 300, 1_000_000]
"""One prompt at a time, a few, and all 64."""
TOKENS = range(3, 90)


@pytest.fixture(params=KINDS, scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def loaded(kind: str, encoder_decoders: dict[str, Path]) -> LoadedModel:
    found = load_model(str(encoder_decoders[kind]), device="cpu")
    assert isinstance(found.encoder, SeparateTextEncoder)
    return found


@pytest.fixture(scope="module")
def reference(kind: str, encoder_decoders: dict[str, Path]) -> PreTrainedModel:
    return stock_encoder_decoder(encoder_decoders[kind])


def draw_questions(end: int, count: int = 64, **changes: Any) -> list[Question]:
    """Prompts of 1 to 40 tokens with 0 to 5 options of 1 to 7, some the beginning of others."""
    draw = random.Random(3)

    def tokens(number: int) -> list[int]:
        return [draw.choice(TOKENS) for _ in range(number)]

    questions = [
        Question(tokens(12), [[40, 41, end], [40, 41, 42, end], [40, end], [end]], **changes),
        Question(tokens(1), [[77, end]], **changes),
        Question(tokens(30), [], **changes),
    ]
    while len(questions) < count:
        options = [[*tokens(draw.randrange(7)), end] for _ in range(draw.randrange(1, 6))]
        questions.append(Question(tokens(draw.randrange(1, 41)), options, **changes))
    return questions


def answers_in_order(loaded: LoadedModel, questions: Sequence[Question], budget: int) -> list[TokenAnswer]:
    answers = dict(answer_from_encoder(loaded.model, loaded.encoder.answer_start, questions, budget))
    assert sorted(answers) == list(range(len(questions))), "every question is answered once"
    return [answers[position] for position in range(len(questions))]


@torch.inference_mode()
def plain_score(model: PreTrainedModel, prompt: Sequence[int], labels: Sequence[int]) -> float:
    """Log-probability of labels, which the model itself shifts behind its start token."""
    if not labels:
        return 0.0
    loss = model(input_ids=torch.tensor([prompt]), labels=torch.tensor([labels])).loss
    return -float(loss) * len(labels)


@pytest.fixture(scope="module")
def plain_scores(kind: str, reference: PreTrainedModel) -> list[list[tuple[float, float]]]:
    """With the end token and without, of each option of the questions that are drawn."""
    before, end = ([0], 2) if kind == "bart" else ([], 1)
    expected = []
    for question in draw_questions(end):
        of_start = plain_score(reference, question.prompt, before)
        scores = [
            [plain_score(reference, question.prompt, before + part) - of_start for part in (option, option[:-1])]
            for option in question.options
        ]
        expected.append([(with_end, without) for with_end, without in scores])
    return expected


@pytest.mark.parametrize("budget", BUDGETS)
def test_scores_are_those_of_the_models_own_loss(
    budget: int, loaded: LoadedModel, plain_scores: list[list[tuple[float, float]]]
) -> None:
    answers = answers_in_order(loaded, draw_questions(loaded.encoder.end), budget)
    for answer, expected in zip(answers, plain_scores, strict=True):
        assert answer.scores == pytest.approx([with_end for with_end, _ in expected], abs=1e-4)
        assert answer.scores_without_end == pytest.approx([without for _, without in expected], abs=1e-4)
        assert answer.generated == []


@pytest.mark.parametrize("budget", BUDGETS)
def test_generation_is_that_of_transformers(budget: int, loaded: LoadedModel, reference: PreTrainedModel) -> None:
    # BART's own setting, which makes the last token an end whatever the model says.
    reference.generation_config.forced_eos_token_id = None
    end, start = loaded.encoder.end, loaded.encoder.answer_start

    def plain_generation(question: Question, ends: Sequence[int]) -> list[int]:
        output = reference.generate(  # type: ignore[operator]
            torch.tensor([question.prompt]),
            decoder_input_ids=torch.tensor([start]),
            do_sample=False,
            num_beams=1,
            max_new_tokens=question.max_new_tokens,
            eos_token_id=list(ends),
            pad_token_id=end,
        )
        new: list[int] = output[0, len(start) :].tolist()
        return new[:-1] if new and new[-1] in ends else new

    free = draw_questions(end, 12, max_new_tokens=9)
    unstopped = [plain_generation(question, [89]) for question in free]
    # Tokens that the model really says, at first and later, so that answers end at different steps.
    stop_tokens = [unstopped[1][0], unstopped[2][3], end]
    questions = draw_questions(end, 12, max_new_tokens=9, stop_tokens=frozenset(stop_tokens))
    expected = [plain_generation(question, stop_tokens) for question in questions]
    assert len({len(tokens) for tokens in expected}) > 1
    assert [answer.generated for answer in answers_in_order(loaded, questions, budget)] == expected


def test_order_and_company_change_no_answer(loaded: LoadedModel) -> None:
    questions = draw_questions(loaded.encoder.end, 20, max_new_tokens=4)
    order = random.Random(1).sample(range(20), 20)
    shuffled = answers_in_order(loaded, [questions[place] for place in order], 400)
    for number, answer in zip(order, shuffled, strict=True):
        alone = answers_in_order(loaded, [questions[number]], 400)[0]
        assert answer.scores == pytest.approx(alone.scores, abs=1e-4)
        assert answer.generated == alone.generated


@pytest.mark.parametrize("budget", BUDGETS)
def test_each_prompt_is_encoded_once_and_no_logit_is_computed_in_vain(budget: int, loaded: LoadedModel) -> None:
    encoded: list[int] = []
    rows: list[int] = []
    loaded.model.get_encoder().register_forward_hook(lambda _, __, output: encoded.append(len(output[0])))
    head: nn.Module = loaded.model.get_output_embeddings()
    head.register_forward_hook(lambda _, __, output: rows.append(output.shape[:-1].numel()))
    questions = draw_questions(loaded.encoder.end)
    answers_in_order(loaded, questions, budget)
    assert sum(encoded) == len(questions)
    assert sum(rows) == sum(question.logit_rows for question in questions)


def test_budget_bounds_what_is_computed_at_once(loaded: LoadedModel) -> None:
    """Prompts stand beside each option, so options count, too."""
    sizes: list[int] = []
    decoder: nn.Module = loaded.model.get_decoder()
    decoder.register_forward_pre_hook(
        lambda _, __, given: sizes.append(given["encoder_hidden_states"].shape[:2].numel()), with_kwargs=True
    )
    answers_in_order(loaded, draw_questions(loaded.encoder.end), 300)
    assert len(sizes) > 10
    assert max(sizes) <= 300


def test_a_question_asked_twice_is_computed_once(loaded: LoadedModel) -> None:
    encoded: list[int] = []
    loaded.model.get_encoder().register_forward_hook(lambda _, __, output: encoded.append(len(output[0])))
    question = draw_questions(loaded.encoder.end)[0]
    one, other = answers_in_order(loaded, [question, question], 4096)
    assert one == other
    assert encoded == [1]


def test_too_little_memory_is_answered_with_smaller_batches(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = draw_questions(loaded.encoder.end, 20)
    expected = answers_in_order(loaded, questions, 4096)
    original = encoder_decoder._answer_batch

    def small_memory(model: Any, start: Any, batch: Sequence[Question], budget: int) -> list[TokenAnswer]:
        if len(batch) > 3 or budget > 300:
            raise torch.OutOfMemoryError("planted")
        return original(model, start, batch, budget)

    monkeypatch.setattr(encoder_decoder, "_answer_batch", small_memory)
    for answer, other in zip(answers_in_order(loaded, questions, 4096), expected, strict=True):
        assert answer.scores == pytest.approx(other.scores, abs=1e-4)


def test_no_question_gives_no_answer(loaded: LoadedModel) -> None:
    assert answers_in_order(loaded, [], 64) == []


def test_prompt_beyond_the_models_positions_is_told(encoder_decoders: dict[str, Path]) -> None:
    loaded = load_model(str(encoder_decoders["bart"]), device="cpu")
    error = refusal(lambda: list(loaded.answer([Question([5] * 257, [[5, 2]])], 4096)))
    assert "257 tokens is longer than the 256" in error.message
    assert "prompt_tokens" in error.hint
    assert list(loaded.answer([Question([5] * 256, [[5, 2]])], 4096))


def test_a_model_that_reads_its_padding_is_refused(kind: str) -> None:
    model = make_encoder_decoder(kind, 99)
    check_padding(model, [0])

    def see_all(_: object, inputs: Any, given: dict[str, Any]) -> Any:
        return inputs, {**given, "attention_mask": torch.ones_like(given["attention_mask"])}

    model.get_encoder().register_forward_pre_hook(see_all, with_kwargs=True)
    assert "padding" in refusal(lambda: check_padding(model, [0])).message


def test_a_model_that_does_not_read_its_prompt_is_refused(kind: str) -> None:
    model = make_encoder_decoder(kind, 99)
    model.get_encoder().register_forward_hook(
        lambda _, __, output: SimpleNamespace(last_hidden_state=torch.zeros_like(output.last_hidden_state))
    )
    refusal(lambda: check_padding(model, [0]))


@pytest.mark.parametrize("head", [nn.Embedding(99, 32), nn.Linear(32, 99)])
def test_a_model_without_one_output_layer_is_refused(head: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """As FSMT, whose output layer is its embedding; and a layer that the logits do not come from."""
    model = make_encoder_decoder("t5", 99)
    monkeypatch.setattr(model, "get_output_embeddings", lambda: head)
    assert "one output layer" in refusal(lambda: check_padding(model, [0])).message
