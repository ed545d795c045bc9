from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from flanlab.data.encoding import CHAT_DATE, SeparateTextEncoder, TextEncoder
from tests.task_files import refusal
from tests.tiny import make_tokenizer
from tests.tiny_encoder_decoder import make_unigram_tokenizer

MARKED = "was <|end|>1, now <|turn|> 2"
TURNS = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% if m.role == 'assistant' %}<|turn|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def tokenizer_with_turns(template: str = TURNS) -> PreTrainedTokenizerFast:
    """Its dialogues end a turn by <|turn|>, a special token other than the end token."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = template
    return tokenizer


ENCODER = TextEncoder(tokenizer_with_turns())
TURN = len(ENCODER.tokenizer) - 1


@pytest.mark.parametrize("style", ["instruction", "baseline", "chat"])
def test_special_tokens_in_a_row_are_text(style: Any) -> None:
    question = ENCODER.encode(f"Say this: {MARKED}", [MARKED, "1"], style, exemplars=[(f"Say: {MARKED}", MARKED)])
    answer = question.answers[0]
    end = TURN if style == "chat" else ENCODER.end
    assert answer[-1] == end
    assert not {TURN, ENCODER.end} & set(answer[:-1])
    assert ENCODER.decode(answer).strip() == MARKED
    # In the prompt only the chat template's own are control tokens: one after the exemplar's answer.
    assert question.prompt.count(TURN) == (style == "chat")
    assert ENCODER.end not in question.prompt
    assert ENCODER.decode(question.prompt).count(MARKED) == 3


def test_a_row_with_special_tokens_changes_no_other_question() -> None:
    alone = ENCODER.encode_batch([("Which?", ["yes"])])
    assert ENCODER.encode_batch([(MARKED, ["no"]), ("Which?", ["yes"])])[1:] == alone


def test_unigram_does_not_find_the_end_token_by_its_characters_either() -> None:
    encoder = SeparateTextEncoder(make_unigram_tokenizer(), 0)
    text = encoder.tokenizer.eos_token
    assert text
    [answer] = encoder.encode("a", [f"a{text}a"]).answers
    assert answer.count(encoder.end) == 1


def test_an_added_token_that_is_not_special_is_kept_whole_as_before() -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    encoder = TextEncoder(tokenizer)
    assert encoder.encode("a <think> b", ["c"]).prompt.count(len(tokenizer) - 1) == 1


def test_the_names_of_special_tokens_cannot_be_written_in_a_row() -> None:
    question = ENCODER.encode("\ufdd00\ufdd1", ["\ufdd00\ufdd1"])
    assert ENCODER.end not in [*question.prompt, *question.answers[0][:-1]]


def test_a_dialogue_is_ended_by_what_the_template_writes_after_an_answer() -> None:
    assert ENCODER.turn_end == TURN
    assert ENCODER.ends == {ENCODER.end, TURN}
    assert ENCODER.encode("Which?", ["yes"]).answers[0][-1] == ENCODER.end
    assert TextEncoder(make_tokenizer()).turn_end == ENCODER.end  # its template writes no special token


def test_generation_also_ends_where_the_configuration_says() -> None:
    encoder = TextEncoder(make_tokenizer(), frozenset({0, 7}))
    assert encoder.ends == {0, 7}
    assert encoder.hash != TextEncoder(make_tokenizer()).hash


def test_a_chat_template_is_told_the_same_date_every_day() -> None:
    encoder = TextEncoder(tokenizer_with_turns("{{ strftime_now('%d %b %Y %H:%M:%S.%f') }}" + TURNS))
    assert encoder.decode(encoder.encode("Which?", [], "chat").prompt).startswith(f"{CHAT_DATE:%d %b %Y %H:%M:%S.%f}")


def test_arguments_reach_the_chat_template() -> None:
    encoder = TextEncoder(tokenizer_with_turns(TURNS + "{% if enable_thinking is false %}none{% endif %}"))
    given: list[Mapping[str, Any]] = [{}, {"enable_thinking": False}]
    texts = []
    for arguments in given:
        encoder.chat_template_args = arguments
        texts.append(encoder.decode(encoder.encode("Which?", [], "chat").prompt))
    assert [text.endswith("none") for text in texts] == [False, True]


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('A system message must come first') }}", "{{ messages[0].nothing.there }}", "{% if %}"]
)
def test_a_chat_template_that_fails_is_an_error_with_a_hint(template: str) -> None:
    encoder = TextEncoder(tokenizer_with_turns(template))
    assert not encoder.takes_dialogues
    error = refusal(lambda: encoder.encode("Which?", ["yes"], "chat"))
    assert "chat template refuses" in error.message
    assert "--chat" in error.hint
    assert encoder.encode("Which?", ["yes"]).answers[0][-1] == encoder.end
