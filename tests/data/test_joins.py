from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from flanlab.data import joins
from flanlab.data.encoding import EncodedQuestion, TextEncoder
from flanlab.data.joins import cuts_after_line_breaks
from tests.tiny import make_tokenizer

_LINES = ["Is it so?", "yes", "no", "It's 12 o'clock, isn't it?\n\nOPTIONS:\n- yes\n- no", "café!\n\n  in 1990", "((?\n"] * 3
_GPT2, _LLAMA3, _QWEN2 = sorted(joins._SPLITTING, key=lambda pattern: ("(?i" in pattern, "1,3" not in pattern))
_O200K = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def trained(model: Any, normalizer: Any, splitter: Any, alphabet: list[str], **settings: Any) -> Tokenizer:
    """A byte-pair encoding trained on lines that show every kind of join."""
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if splitter is not None:
        tokenizer.pre_tokenizer = splitter
    lines = [line + "\n" + other for line in _LINES for other in _LINES]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False, **settings
    )
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def byte_level(*splitters: Any, normalizer: Any = None) -> Tokenizer:
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not splitters)
    tokenizer = trained(
        models.BPE(), normalizer, pre_tokenizers.Sequence([*splitters, level]), pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def split(pattern: str, behavior: str = "isolated") -> Any:
    return pre_tokenizers.Split(Regex(pattern), behavior)


def digits() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), split(_GPT2)])


def sentencepiece(normalizer: Any, splitter: Any, **changes: Any) -> Tokenizer:
    """As Llama 2 and Gemma have them: merges over whole lines, characters not known as bytes."""
    lines = trained(models.BPE(), None, pre_tokenizers.Split("\n", "isolated"), ["▁", *"abcdeinorsty?!.'-"])
    content = json.loads(lines.to_str())["model"]
    names = dict.fromkeys([*(f"<0x{byte:02X}>" for byte in range(256)), *content["vocab"]])
    vocab = {name: number for number, name in enumerate(name for name in names if name != "\n")}
    merges = [tuple(pair) for pair in content["merges"]]
    settings = {"byte_fallback": True, "fuse_unk": True, "unk_token": "<end>", **changes}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, **settings))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if splitter is not None:
        tokenizer.pre_tokenizer = splitter
    return tokenizer


def llama2() -> Tokenizer:
    return sentencepiece(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None)


def with_tokens(tokenizer: Tokenizer, *tokens: AddedToken) -> Tokenizer:
    tokenizer.add_tokens(list(tokens))
    return tokenizer


CLEAN = {
    "gpt2": byte_level(),
    "digits": byte_level(digits()),
    "llama3": byte_level(split(_LLAMA3)),
    "qwen2": byte_level(split(_QWEN2), normalizer=normalizers.NFC()),
    "llama2": llama2(),
    "metaspace": sentencepiece(None, pre_tokenizers.Metaspace(prepend_scheme="first")),
    "gemma": sentencepiece(normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous")),
    "added": with_tokens(byte_level(), AddedToken("<|im|>", special=True), AddedToken("  ", normalized=False)),
}


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


ENCODERS = {name: TextEncoder(wrapped(tokenizer)) for name, tokenizer in CLEAN.items()}


def as_one_text(encoder: TextEncoder, prompt: str, answers: list[str]) -> EncodedQuestion:
    """What `encode` promises, the plain way: prompt and prompt + answer encoded whole, and their common beginning."""
    texts = [prompt + "\n", *(prompt + "\n" + answer for answer in answers)]
    encoded = encoder.tokenizer(texts, add_special_tokens=False)["input_ids"]
    if any(encoder._special.stand_in(text) for text in texts):
        encoded = encoder._special.tokens(texts)
    boundary = 0
    while all(len(ids) > boundary and ids[boundary] == encoded[0][boundary] for ids in encoded):
        boundary += 1
    boundary = max(boundary, 1)
    return EncodedQuestion(encoded[0][:boundary], [[*ids[boundary:], encoder.end] for ids in encoded[1:]])


PIECES = [
    "\n",
    "\r",
    " ",
    "  ",
    "\t",
    "\u00a0",
    "\u0085",
    "\x1c",
    "\u3000",
    "a",
    "no",
    "yes",
    "It's",
    "'",
    "?",
    "((",
    "/",
    "-",
    "1",
    "23",
    "é",
    "e\u0301",
    "\u0301",
    "中",
    "😀",
    "\u200b",
    "▁",
    "<0x0A>",
    "<end>",
    "<|im|>",
    "<|endoftext|>",
    "\x00",
]
texts = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


@pytest.mark.parametrize("name", CLEAN)
@given(texts, st.lists(texts, min_size=1, max_size=3))
@example("Is it so?", ["/no"])
@example("Is it so?", ["\u0301no", "yes"])
@example("1990", ["12"])
@example("a ", ["no"])
def test_what_is_encoded_apart_is_what_would_be_encoded_as_one_text(name: str, prompt: str, answers: list[str]) -> None:
    encoder = ENCODERS[name]
    assert cuts_after_line_breaks(encoder.tokenizer.backend_tokenizer.to_str())
    assert encoder.encode(prompt, answers) == as_one_text(encoder, prompt, answers)


@given(st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=3)), max_size=5), st.sampled_from(sorted(CLEAN)))
def test_many_questions_are_encoded_as_one_by_one(questions: list[tuple[str, list[str]]], name: str) -> None:
    encoder = ENCODERS[name]
    assert encoder.encode_batch(questions) == [encoder.encode(prompt, answers) for prompt, answers in questions]


def test_the_prompt_is_not_tokenized_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextEncoder(make_tokenizer())
    encoder.encode("Which?", ["yes"])
    seen: list[str] = []
    tokens = encoder._tokens
    monkeypatch.setattr(encoder, "_tokens", lambda texts: seen.extend(texts) or tokens(texts))
    encoder.encode_batch([("Which?", ["yes", "no"]), ("Why?", ["no"])])
    assert seen == ["Which?\n", "\nyes", "\nno", "Why?\n"]


@pytest.mark.parametrize(
    "tokenizer",
    [
        byte_level(split(_O200K)),
        byte_level(split(_LLAMA3, "removed")),
        byte_level(split(r"\S+|\s+")),
        byte_level(normalizer=normalizers.Lowercase()),
        byte_level(normalizer=normalizers.Strip()),
        with_tokens(byte_level(), AddedToken("<mask>", lstrip=True)),
        with_tokens(byte_level(), AddedToken("<mask>", rstrip=True)),
        with_tokens(byte_level(), AddedToken("mask", single_word=True)),
        with_tokens(byte_level(), AddedToken("\nno")),
        sentencepiece(None, None, byte_fallback=False),
        sentencepiece(None, None, ignore_merges=True),
        sentencepiece(None, None, dropout=0.1),
        sentencepiece(None, None, end_of_word_suffix="</w>"),
        sentencepiece(None, pre_tokenizers.Whitespace()),
        sentencepiece(normalizers.Replace("\n", " "), None),
        Tokenizer(models.BPE(vocab={"\n": 0, "n": 1, "\nn": 2}, merges=[("\n", "n")])),
        Tokenizer(models.Unigram([("?", -1.0), ("\n", -1.0)], unk_id=0)),
        Tokenizer(models.WordPiece({"[UNK]": 0, "n": 1})),
    ],
)
def test_of_other_tokenizers_nothing_is_assumed(tokenizer: Tokenizer) -> None:
    assert not cuts_after_line_breaks(tokenizer.to_str())
    encoder = TextEncoder(wrapped(copy.deepcopy(tokenizer)))
    assert not encoder._line_break


@pytest.mark.parametrize("prompt", ["Is it so?", "((", "a", "1", "é"])
@pytest.mark.parametrize("answer", ["/no", "no", "1", "(", "é"])
def test_where_nothing_is_assumed_the_boundary_is_the_common_beginning(prompt: str, answer: str) -> None:
    encoder = TextEncoder(wrapped(byte_level(split(_O200K))))
    assert encoder.encode(prompt, [answer]) == as_one_text(encoder, prompt, [answer])
