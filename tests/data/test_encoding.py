from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, processors
from transformers import PreTrainedTokenizerFast

from flanlab.data.encoding import ANSWER_SEPARATOR, PromptStyle, SeparateTextEncoder, TextEncoder
from tests.task_files import refusal
from tests.tiny import make_tokenizer
from tests.tiny_encoder_decoder import make_bart_tokenizer, make_unigram_tokenizer

ENCODER = TextEncoder(make_tokenizer())


def plain(text: str, encoder: TextEncoder = ENCODER) -> list[int]:
    ids: list[int] = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Splits nothing beforehand and merges the separator with a following y, and letters as in `no` and `yes`."""
    assert ANSWER_SEPARATOR == "\n"
    tokens = ["<end>", "<start>", *"abcdenosy:", "\n", "\ny", "es", "no", ":\n"]
    merges = [("\n", "y"), ("e", "s"), ("n", "o"), (":", "\n")]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


texts = st.text(st.sampled_from("abc yesno.\n\té中😀-:1"), max_size=20)


@given(texts, st.lists(texts, min_size=1, max_size=4))
def test_prompt_and_answer_are_the_encoding_of_the_joined_text_and_the_end(prompt: str, answers: list[str]) -> None:
    question = ENCODER.encode(prompt, answers)
    for answer, ids in zip(answers, question.answers, strict=True):
        assert question.prompt + ids == [*plain(prompt + ANSWER_SEPARATOR + answer), ENCODER.end]


@given(texts, st.lists(texts, min_size=1, max_size=4))
def test_the_prompt_is_never_empty_and_never_more_than_the_prompt_alone(prompt: str, answers: list[str]) -> None:
    question = ENCODER.encode(prompt, answers)
    alone = plain(prompt + ANSWER_SEPARATOR)
    assert 0 < len(question.prompt) <= len(alone)
    assert question.prompt == alone[: len(question.prompt)]
    assert all(ids[-1] == ENCODER.end for ids in question.answers)


@given(texts, texts)
def test_a_pair_is_a_question_with_one_answer(prompt: str, target: str) -> None:
    question = ENCODER.encode(prompt, [target])
    assert ENCODER.encode_pair(prompt, target) == (question.prompt, question.answers[0])


def test_merges_exist_and_the_usual_boundary_is_clean() -> None:
    prompt, target = ENCODER.encode_pair("Is this comment about a film positive or negative?", "positive")
    assert len(prompt) < len("Is this comment about a film positive or negative?")
    assert prompt == plain("Is this comment about a film positive or negative?\n")
    assert target == [*plain("positive"), ENCODER.end]


def test_a_token_across_the_join_counts_to_the_answer() -> None:
    encoder = TextEncoder(merging_tokenizer())
    question = encoder.encode("ab", ["yes", "no"])
    words = encoder.tokenizer.convert_ids_to_tokens
    assert words(question.prompt) == ["a", "b"]
    assert [words(ids) for ids in question.answers] == [["\ny", "es", "<end>"], ["\n", "no", "<end>"]]
    assert encoder.encode("ab", ["no"]).prompt == plain("ab\n", encoder)


def test_a_token_across_prompt_and_separator_stays_with_the_prompt() -> None:
    encoder = TextEncoder(merging_tokenizer())
    question = encoder.encode("ab:", ["no", "a"])
    words = encoder.tokenizer.convert_ids_to_tokens
    assert words(question.prompt) == ["a", "b", ":\n"] or words(question.prompt) == ["a", "b", ":", "\n"]
    for answer, ids in zip(["no", "a"], question.answers, strict=True):
        assert question.prompt + ids == [*plain("ab:\n" + answer, encoder), encoder.end]


def test_an_answer_may_begin_as_another_does() -> None:
    question = ENCODER.encode("Which?", ["no", "no one", "no one at all"])
    assert question.prompt == plain("Which?\n")
    assert question.answers[0] == [*plain("no"), ENCODER.end]
    assert len({tuple(ids) for ids in question.answers}) == 3


def test_an_answer_without_tokens_still_has_its_end() -> None:
    question = ENCODER.encode("Which?", ["", "yes"])
    assert question.answers == [[ENCODER.end], [*plain("yes"), ENCODER.end]]


def test_the_answers_do_not_change_one_another_when_the_boundary_is_clean() -> None:
    together = ENCODER.encode("Which?", ["yes", "no", "maybe"]).answers
    assert together == [ENCODER.encode("Which?", [answer]).answers[0] for answer in ("yes", "no", "maybe")]


def test_a_start_token_stands_first_where_the_tokenizer_has_one() -> None:
    backend = merging_tokenizer().backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(single="<start> $A", special_tokens=[("<start>", 1)])
    encoder = TextEncoder(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", bos_token="<start>"))
    words = encoder.tokenizer.convert_ids_to_tokens
    question = encoder.encode("ab", ["no"])
    assert words(question.prompt) == ["<start>", "a", "b", "\n"]
    assert words(question.answers[0]) == ["no", "<end>"]


def test_the_chat_style_uses_the_tokenizers_own_template() -> None:
    question = ENCODER.encode("Which?", ["yes", "no"], style="chat")
    context = "<|user|>\nWhich?\n<|assistant|>\n"
    assert question.prompt == plain(context)
    for answer, ids in zip(["yes", "no"], question.answers, strict=True):
        assert question.prompt + ids == [*plain(context + answer), ENCODER.end]


def test_the_chat_style_needs_a_template() -> None:
    encoder = TextEncoder(merging_tokenizer())
    assert not encoder.has_chat_template
    assert "no chat template" in refusal(lambda: encoder.encode("a", ["b"], style="chat")).message


def test_a_tokenizer_without_an_end_is_refused() -> None:
    backend = merging_tokenizer().backend_tokenizer
    error = refusal(lambda: TextEncoder(PreTrainedTokenizerFast(tokenizer_object=backend)))
    assert "end-of-sequence" in error.message


def test_the_hash_follows_everything_that_shapes_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    same, other_chat = copy.deepcopy(tokenizer), copy.deepcopy(tokenizer)
    other_chat.chat_template = "{{ messages }}"
    added = copy.deepcopy(tokenizer)
    added.add_tokens(["zzz"])
    hashes = [TextEncoder(each).hash for each in (tokenizer, same, other_chat, added, merging_tokenizer())]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 4


def test_newline_tokens_and_decoding() -> None:
    assert set(plain("\n")) <= ENCODER.newline_tokens
    assert not ENCODER.newline_tokens & set(plain("positive"))
    assert ENCODER.decode([*plain("a fox\nand"), ENCODER.end]) == "a fox\nand"


T5, BART = SeparateTextEncoder(make_unigram_tokenizer(), 0), SeparateTextEncoder(make_bart_tokenizer(), 2)
BOTH = pytest.mark.parametrize("encoder", [T5, BART], ids=["t5", "bart"])


@BOTH
@given(prompt=texts, answers=st.lists(texts, min_size=1, max_size=4), style=st.sampled_from(["instruction", "baseline"]))
def test_apart_both_are_encoded_as_the_tokenizer_encodes_a_text(
    encoder: SeparateTextEncoder, prompt: str, answers: list[str], style: PromptStyle
) -> None:
    """As transformers' own examples train T5 and BART; the start tokens of an answer stand before the decoder's input."""
    question = encoder.encode(prompt, answers, style)
    assert question.prompt == encoder.tokenizer(prompt)["input_ids"]
    for answer, ids in zip(answers, question.answers, strict=True):
        assert encoder.answer_start[1:] + ids == encoder.tokenizer(answer)["input_ids"]


def test_apart_special_tokens_stand_where_such_models_are_trained_with_them() -> None:
    words = T5.tokenizer.convert_ids_to_tokens
    prompt, target = T5.encode_pair("Which number comes after seven?", "eight")
    assert (words(prompt)[0], words(prompt)[-1]) == ("▁Which", "</s>")
    assert (words(target), words(T5.answer_start)) == (["▁eight", "</s>"], ["<pad>"])
    words = BART.tokenizer.convert_ids_to_tokens
    prompt, target = BART.encode_pair("yes", "no")
    assert (words(prompt)[0], words(prompt)[-1]) == ("<s>", "</s>")
    assert (words(target)[-1], words(BART.answer_start)) == ("</s>", ["</s>", "<s>"])
    assert BART.decode(target) == "no"


def test_apart_a_start_token_of_the_tokenizer_that_is_the_decoders_own_stands_once() -> None:
    assert SeparateTextEncoder(make_bart_tokenizer(), 0).answer_start == [0]


def test_apart_there_is_always_something_to_read() -> None:
    encoder = SeparateTextEncoder(make_tokenizer(), 0)
    assert encoder.encode("", [""]).prompt == [encoder.end]
    assert encoder.encode("a", [""]).prompt == plain("a")


@BOTH
def test_apart_dialogues_are_refused(encoder: SeparateTextEncoder) -> None:
    assert not encoder.has_chat_template
    assert "no chat template" in refusal(lambda: encoder.encode("a", ["b"], style="chat")).message


def test_apart_exemplars_stand_in_the_prompt() -> None:
    given = T5.encode("Which?", ["yes"], exemplars=[("Why?", "no")])
    assert given == T5.encode("Why?\nno\n\nWhich?", ["yes"])
    assert BART.encode("Which?", [], "baseline", [("Why?", "no")]) == BART.encode("Why? no\n\nWhich?", [])


def test_apart_is_another_encoding() -> None:
    tokenizer = make_bart_tokenizer()
    encoders = [TextEncoder(tokenizer), SeparateTextEncoder(tokenizer, 2), SeparateTextEncoder(tokenizer, 0)]
    assert len({encoder.hash for encoder in encoders}) == 3
    assert SeparateTextEncoder(make_bart_tokenizer(), 2).hash == BART.hash
