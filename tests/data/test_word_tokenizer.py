from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken

from flanlab.data import word_tokenizer
from flanlab.data.word_tokenizer import WordTokenizer
from tests.data.test_joins import CLEAN, PIECES, byte_level, with_tokens, wrapped
from tests.tiny import make_tokenizer

TOKENIZERS = {name: WordTokenizer(wrapped(tokenizer)) for name, tokenizer in CLEAN.items()}
BY_WORDS = sorted(name for name, tokenizer in TOKENIZERS.items() if tokenizer.pieces)
texts = st.lists(st.sampled_from([*PIECES, ".", ",", ")", " a", "\r\n"]), max_size=12).map("".join)


def test_only_tokenizers_that_split_at_words_are_given_pieces() -> None:
    assert BY_WORDS == ["digits", "gpt2", "llama3", "qwen2"]


@pytest.mark.parametrize("content", ["two words", "a."])
def test_an_added_token_that_would_be_cut_through_forbids_pieces(content: str) -> None:
    tokenizer = with_tokens(byte_level(), AddedToken(content, normalized=False))
    assert WordTokenizer(wrapped(tokenizer)).pieces is None


@pytest.mark.parametrize("name", BY_WORDS)
@given(st.lists(texts, max_size=5))
@example(["a.\n\nno", "a .\n no", "((\n \n1", "It's a (no), isn't it?"])
def test_what_is_put_together_from_pieces_is_what_would_be_tokenized_whole(name: str, several: list[str]) -> None:
    tokenizer = TOKENIZERS[name]
    # "<end>" among the texts is meant as the token here.
    named = [tokenizer.special.named(text) for text in several]
    assert tokenizer.tokens(named) == tokenizer.tokens_of_whole(several)


def test_pieces_are_forgotten_when_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_tokenizer, "_MOST_WORDS", 3)
    tokenizer = WordTokenizer(make_tokenizer())
    for text in ("Is it so?", "It is not so.", "Is it not so?"):
        assert tokenizer.tokens([text, "so it is"]) == tokenizer.tokens_of_whole([text, "so it is"])
        assert len(tokenizer._words) <= 3 + 8
