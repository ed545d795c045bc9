"""Rank classification and generation against the plain way: one option, one prompt at a time, transformers' own attention."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from flanlab.data.encoding import ANSWER_SEPARATOR, TextEncoder
from flanlab.errors import FlanlabError
from flanlab.models import scoring
from flanlab.models.answering import Question
from flanlab.models.loading import load_model
from flanlab.models.packed_attention import PackedBatch
from flanlab.models.scoring import TokenAnswer, answer_questions
from tests.tiny import WINDOWED, make_tokenizer, stock_model

KINDS = ["llama", "qwen2", "gpt_neox"]
BUDGETS = [1, 64, 100_000]
CASES = [*((kind, budget) for kind in KINDS for budget in BUDGETS), *((kind, 120) for kind in WINDOWED)]
END = 0


def plain_scores(model: PreTrainedModel, prompt: Sequence[int], option: Sequence[int]) -> tuple[float, float]:
    """Log-probability of an option, with and without its last token, from a full forward pass of its own."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*prompt, *option]])).logits[0].log_softmax(-1)
    each = [logits[len(prompt) - 1 + place, token].item() for place, token in enumerate(option)]
    return sum(each), sum(each[:-1])


def plain_generation(model: PreTrainedModel, question: Question) -> list[int]:
    """What `generate` says greedily, its stop token left out."""
    output = model.generate(
        torch.tensor([question.prompt]),
        do_sample=False,
        max_new_tokens=question.max_new_tokens,
        eos_token_id=sorted(question.stop_tokens) or None,
        pad_token_id=END,
    )
    new: list[int] = output[0, len(question.prompt) :].tolist()
    return new[:-1] if new and new[-1] in question.stop_tokens else new


def answers_in_order(model: PreTrainedModel, questions: Sequence[Question], budget: int) -> list[TokenAnswer]:
    answers = dict(answer_questions(model, questions, budget))
    assert sorted(answers) == list(range(len(questions))), "every question is answered once"
    return [answers[position] for position in range(len(questions))]


def random_questions(seed: int = 3) -> list[Question]:
    """2 to 20 options of 1 to 7 tokens, some the beginning of others, over prompts of 1 to 40 tokens."""
    draw = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [draw.randrange(1, 330) for _ in range(count)]

    questions = [
        Question(tokens(12), [[40, 41, END], [40, 41, 42, END]]),
        Question(tokens(5), [[40, END], [40, 41, END], [40, 41, 42, END], [END]]),
        Question(tokens(1), [[77, END], [78, END]]),
        Question(tokens(9), [[50, END]]),
    ]
    for count in (2, 3, 5, 11, 20):
        options = [[*tokens(draw.randrange(0, 7)), END] for _ in range(count)]
        questions.append(Question(tokens(draw.randrange(1, 40)), options))
    return questions


@pytest.mark.parametrize(("kind", "budget"), CASES)
def test_scores_are_those_of_one_option_at_a_time(kind: str, budget: int, windowed_folders: dict[str, Path]) -> None:
    reference = stock_model(windowed_folders[kind])
    model = load_model(str(windowed_folders[kind]), device="cpu").model
    questions = random_questions()
    for question, answer in zip(questions, answers_in_order(model, questions, budget), strict=True):
        expected = [plain_scores(reference, question.prompt, option) for option in question.options]
        assert answer.scores == pytest.approx([whole for whole, _ in expected], abs=1e-4)
        assert answer.scores_without_end == pytest.approx([part for _, part in expected], abs=1e-4)
        assert answer.generated == []


def alike_questions() -> list[Question]:
    """Prompts that begin alike: by templates, by passages within them, wholly, one the beginning of another; out of order."""
    draw = random.Random(11)

    def tokens(count: int) -> list[int]:
        return [draw.randrange(1, 330) for _ in range(count)]

    head, other_head = tokens(20), tokens(13)
    passage = [*head, *tokens(25)]
    prompts = [
        *([*head, *tokens(6)] for _ in range(3)),
        *([*passage, *tokens(9)] for _ in range(3)),
        *([*other_head, *tokens(draw.randrange(1, 30))] for _ in range(4)),
        passage,
        head,
        head,
        [*passage[:30], *tokens(12)],
        head[:5],
    ]
    start = tokens(3)
    options = [[[*start, *tokens(count), END] for count in (0, 2, 2)] + [[*tokens(1), END], [END]] for _ in prompts]
    questions = [Question(prompt, found) for prompt, found in zip(prompts, options, strict=True)]
    draw.shuffle(questions)
    return questions


@pytest.mark.parametrize(("kind", "budget"), CASES)
def test_scores_of_questions_that_begin_alike(kind: str, budget: int, windowed_folders: dict[str, Path]) -> None:
    reference = stock_model(windowed_folders[kind])
    model = load_model(str(windowed_folders[kind]), device="cpu").model
    questions = alike_questions()
    for question, answer in zip(questions, answers_in_order(model, questions, budget), strict=True):
        expected = [plain_scores(reference, question.prompt, option) for option in question.options]
        assert answer.scores == pytest.approx([whole for whole, _ in expected], abs=1e-4)
        assert answer.scores_without_end == pytest.approx([part for _, part in expected], abs=1e-4)


def test_what_questions_have_in_common_is_computed_once(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(str(tiny_folder), device="cpu").model
    computed: list[int] = []
    original = scoring.packed_forward

    def counting(model: PreTrainedModel, batch: PackedBatch, *args: Any, **kwargs: Any) -> Any:
        computed.append(len(batch.input_ids))
        return original(model, batch, *args, **kwargs)

    monkeypatch.setattr(scoring, "packed_forward", counting)
    head, options = list(range(100, 130)), [[40, 41, 50, END], [40, 41, 60, END], [70, END]]
    answers_in_order(model, [Question([*head, number, 9], options) for number in range(1, 5)], 4096)
    # The head, four times two tokens of a prompt's own, and the tokens that options read, 40 and 41 once for two of them.
    assert computed == [30 + 4 * 2 + 4 * (4 + 1)]


@pytest.mark.parametrize(("kind", "budget"), [case for case in CASES if case[0] not in ("qwen2", "gpt_neox")])
def test_generation_after_prompts_that_begin_alike(kind: str, budget: int, windowed_folders: dict[str, Path]) -> None:
    reference = stock_model(windowed_folders[kind])
    model = load_model(str(windowed_folders[kind]), device="cpu").model
    prompts = {tuple(question.prompt) for question in alike_questions()}
    questions = [Question(list(prompt), [[40, END]], 12) for prompt in sorted(prompts, key=len)]
    expected = [plain_generation(reference, question) for question in questions]
    assert [answer.generated for answer in answers_in_order(model, questions, budget)] == expected


@pytest.mark.parametrize("style", ["instruction", "chat"])
@pytest.mark.parametrize("budget", BUDGETS)
def test_scores_of_texts_in_both_prompt_styles(style: str, budget: int, tiny_folder: Path) -> None:
    """From text on: the tokens of prompt and option are those of the whole text, up to the end token."""
    loaded, reference = load_model(str(tiny_folder), device="cpu"), stock_model(tiny_folder)
    asked = [
        ("Is this comment positive or negative?", ["positive", "negative"]),
        ("Which one?", ["yes", "yes, often", "no", "maybe"]),
        ("How many?", [str(number) for number in range(20)]),
    ]
    encoder: TextEncoder = loaded.encoder
    questions = []
    for prompt, options in asked:
        encoded = encoder.encode(prompt, options, style)  # type: ignore[arg-type]
        questions.append(Question(encoded.prompt, encoded.answers))
    for (prompt, options), answer in zip(asked, answers_in_order(loaded.model, questions, budget), strict=True):
        context = prompt + ANSWER_SEPARATOR if style == "instruction" else f"<|user|>\n{prompt}\n<|assistant|>\n"
        expected = []
        for option in options:
            whole = make_tokenizer()(context + option)["input_ids"] + [END]
            before = make_tokenizer()(context)["input_ids"]
            assert whole[: len(before)] == before, "this tokenizer keeps the line break apart from what follows"
            expected.append(plain_scores(reference, before, whole[len(before) :])[0])
        assert answer.scores == pytest.approx(expected, abs=1e-4)


def generation_questions(stop_tokens: Sequence[int] = ()) -> list[Question]:
    draw = random.Random(5)
    return [
        Question(
            [draw.randrange(1, 330) for _ in range(length)],
            [[40, END], [41, 42, END]] if length % 2 else [],
            max_new_tokens=limit,
            stop_tokens=frozenset(stop_tokens),
        )
        for length, limit in ((3, 12), (17, 1), (8, 20), (30, 2), (1, 20), (12, 7), (13, 20))
    ]


@pytest.mark.parametrize(("kind", "budget"), CASES)
def test_generation_is_that_of_transformers(kind: str, budget: int, windowed_folders: dict[str, Path]) -> None:
    reference = stock_model(windowed_folders[kind])
    model = load_model(str(windowed_folders[kind]), device="cpu").model
    free = generation_questions()
    unstopped = [plain_generation(reference, question) for question in free]
    assert [len(tokens) for tokens in unstopped] == [question.max_new_tokens for question in free]
    # Tokens that the model really says, at first, in the middle, at last: so that every way to stop is met.
    stop_tokens = [unstopped[2][0], unstopped[0][4], unstopped[6][-1], END]
    for questions in (free, generation_questions(stop_tokens)):
        expected = [plain_generation(reference, question) for question in questions]
        assert [answer.generated for answer in answers_in_order(model, questions, budget)] == expected
    assert expected[2] == []
    assert len(expected[0]) <= 4


@pytest.mark.parametrize("budget", BUDGETS)
def test_generated_answer_is_the_first_line_with_text(budget: int, tiny_folder: Path) -> None:
    """Line breaks before the answer are passed over but read by the model; the first one after it ends it."""
    reference, model = stock_model(tiny_folder), load_model(str(tiny_folder), device="cpu").model
    free = generation_questions()
    said = [plain_generation(reference, question) for question in free]
    # Some answers begin with a break, some meet one later, some never.
    breaks = frozenset({said[0][0], said[2][0], said[2][1], said[6][5]})
    expected = []
    for tokens in said:
        text = list(tokens)
        while text and text[0] in breaks:
            text.pop(0)
        ends = [place for place, token in enumerate(text) if token in breaks]
        expected.append(text[: ends[0] + 1] if ends else text)
    assert expected != said
    questions = [Question(q.prompt, q.options, q.max_new_tokens, q.stop_tokens, breaks) for q in free]
    assert [answer.generated for answer in answers_in_order(model, questions, budget)] == expected


def test_generation_and_scores_do_not_disturb_each_other(tiny_folder: Path) -> None:
    model = load_model(str(tiny_folder), device="cpu").model
    prompt, options = [5, 6, 7, 8], [[40, 41, END], [42, END]]
    both = answers_in_order(model, [Question(prompt, options, 6)], 4096)[0]
    scored = answers_in_order(model, [Question(prompt, options)], 4096)[0]
    generated = answers_in_order(model, [Question(prompt, [], 6)], 4096)[0]
    assert both.scores == pytest.approx(scored.scores, abs=1e-5)
    assert both.generated == generated.generated
    assert generated.scores == []


def test_no_question_gives_no_answer(tiny_folder: Path) -> None:
    assert list(answer_questions(load_model(str(tiny_folder), device="cpu").model, [])) == []


def test_a_question_asked_twice_is_computed_once(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(str(tiny_folder), device="cpu").model
    questions = random_questions()
    expected = answers_in_order(model, questions, 256)
    batches: list[int] = []
    original = scoring._answer_batch
    monkeypatch.setattr(scoring, "_answer_batch", lambda model, batch: batches.append(len(batch)) or original(model, batch))
    assert answers_in_order(model, [*questions, *questions], 256) == [*expected, *expected]
    assert sum(batches) == len(questions)


def test_a_batch_too_large_for_the_memory_is_halved(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(str(tiny_folder), device="cpu").model
    questions = random_questions()
    expected = answers_in_order(model, questions, 10_000)
    original = scoring._answer_batch
    computed: list[int] = []

    def small_memory(model: PreTrainedModel, batch: Sequence[Question]) -> list[TokenAnswer]:
        if sum(question.length for question in batch) > 130:
            raise torch.OutOfMemoryError("planted")
        computed.append(len(batch))
        return original(model, batch)

    monkeypatch.setattr(scoring, "_answer_batch", small_memory)
    for one, other in zip(answers_in_order(model, questions, 10_000), expected, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-4)
        assert one.generated == other.generated
    assert sum(computed) == len(questions)


def test_one_question_too_large_for_the_memory_is_told(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> list[TokenAnswer]:
        raise torch.OutOfMemoryError("planted")

    monkeypatch.setattr(scoring, "_answer_batch", no_memory)
    model = load_model(str(tiny_folder), device="cpu").model
    with pytest.raises(FlanlabError, match="is too small for a question of"):
        answers_in_order(model, random_questions(), 10_000)
