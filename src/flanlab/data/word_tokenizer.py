"""Tokenizing texts word by word, each word once, where the tokenizer is known to allow it (see joins.py).

Words come back, within a text and from one to the next, so putting a text together from the tokens of its words is many times
as fast as tokenizing it. The tokens are the same. The words of many texts are cut, told apart and put together again as arrays,
since a Python object for every word would cost more than all else.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from flanlab.data.joins import cuts_before_line_breaks, pieces_pattern
from flanlab.data.special_tokens import SpecialTokens

_CUT, _NEXT_TEXT = "\0", "\1"
_CANNOT_BE_CUT = re.compile(r"[^\S \n]")
"""White space other than blanks and line breaks."""
_MOST_WORDS = 500_000
"""Words, and pieces of words, whose tokens are kept: some 100 MB each."""


class WordTokenizer:
    """Turns texts into token ids, without special tokens but those written by their names (see `special_tokens`)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, special: SpecialTokens | None = None) -> None:
        self._tokenizer = tokenizer
        self.special = special or SpecialTokens(tokenizer)
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        content = self._backend.to_str() if self._backend is not None else None
        self.pieces = pieces_pattern(content) if content is not None else None
        """What finds the pieces that a text is tokenized by, each apart; None where only the whole text will do."""
        self._cuts_before_line_breaks = content is not None and cuts_before_line_breaks(content)
        self._words: dict[str, bytes] = {}
        """Tokens of each word, with the blank or line breaks before it."""
        self._uncuttable: set[str] = set()
        """Words whose texts must be tokenized whole."""
        self._pieces: dict[str, bytes] = {}

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        odd = [place for place, text in enumerate(texts) if self.special.stand_in(text)]
        if odd:
            # Rare, and slow: texts that hold the characters of a special token, as text.
            found = dict(zip(odd, self.special.tokens([texts[place] for place in odd]), strict=True))
            others = iter(self.tokens([text for place, text in enumerate(texts) if place not in found]))
            return [found[place] if place in found else next(others) for place in range(len(texts))]
        return self._tokens([self.special.unnamed(text) for text in texts])

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts in which every special token is meant as such."""
        if self.pieces is None:
            return self.tokens_of_whole(texts)
        plain = [text for text in texts if _CUT not in text and _NEXT_TEXT not in text]
        by_words = iter(self._tokens_by_words(plain) if plain else [])
        found = [next(by_words) if _CUT not in text and _NEXT_TEXT not in text else None for text in texts]
        whole = iter(self.tokens_of_whole([text for text, ids in zip(texts, found, strict=True) if ids is None]))
        return [next(whole) if ids is None else ids for ids in found]

    def tokens_of_whole(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, tokenized whole."""
        if not texts:
            return []
        if not self._tokenizer.is_fast:
            encoded = self._tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)
            return list(encoded["input_ids"])
        self._set_defaults()
        # Straight from the backend, as transformers would ask it, but without the offsets that nobody reads here.
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def _tokens_by_words(self, texts: Sequence[str]) -> list[list[int] | None]:
        """Token ids of each text; None for those that cannot be cut."""
        whole = self._cut(texts)
        as_array = pa.LargeStringArray.from_buffers(1, pa.py_buffer(np.array([0, len(whole)])), pa.py_buffer(whole))
        occurrences = pc.split_pattern(as_array, _CUT).values.dictionary_encode()
        words = occurrences.dictionary.to_pylist()
        which = occurrences.indices.to_numpy()
        tokens = self._look_up(words)
        counts = np.fromiter(map(len, tokens), np.int64, len(tokens)) // _TOKEN.itemsize
        starts = np.cumsum(counts) - counts
        lengths = counts[which]
        ends = np.cumsum(lengths)
        places = np.repeat(starts[which] - (ends - lengths), lengths) + np.arange(ends[-1])
        ids: list[int] = np.frombuffer(b"".join(tokens), _TOKEN)[places].tolist()
        closing = np.flatnonzero(which == words.index(_NEXT_TEXT))
        bounds = [0, *ends[closing].tolist()]
        found: list[list[int] | None] = [ids[first:last] for first, last in itertools.pairwise(bounds)]
        for word in self._uncuttable.intersection(words):
            for place in np.searchsorted(closing, np.flatnonzero(which == words.index(word))).tolist():
                found[place] = None
        return found

    def _cut(self, texts: Sequence[str]) -> bytes:
        """All texts as one in UTF-8, marked between words (before white space after something else) and after each text."""
        # As bytes, since one rare character would make every character of the string four bytes wide.
        text = _NEXT_TEXT.join([*texts, ""]).encode().replace(b" ", b"\0 ")
        if self._cuts_before_line_breaks:
            text = text.replace(b"\n", b"\0\n")
        return text.replace(b" \0", b" ").replace(b"\n\0", b"\n").replace(b"\1", b"\0\1\0")

    def _look_up(self, words: Sequence[str]) -> list[bytes]:
        """Tokens of each word; none of those that cannot be tokenized apart from their text."""
        if len(self._words) > _MOST_WORDS:
            self._words.clear()
            self._uncuttable.clear()
        found = list(map(self._words.get, words))
        if None in found:
            new = [place for place, tokens in enumerate(found) if tokens is None]
            self._learn([words[place] for place in new])
            for place in new:
                found[place] = self._words[words[place]]
        return found  # type: ignore[return-value]

    def _learn(self, words: Sequence[str]) -> None:
        assert self.pieces is not None
        by_pieces = dict(zip(words, map(self.pieces.findall, words), strict=True))
        by_pieces[_NEXT_TEXT] = []
        if _CANNOT_BE_CUT.search("".join(words)):
            whole = [word for word in words if _CANNOT_BE_CUT.search(word)]
            self._uncuttable.update(whole)
            by_pieces.update((word, []) for word in whole)
        self._learn_pieces(set(itertools.chain.from_iterable(by_pieces.values())))
        tokens_of = self._pieces.__getitem__
        self._words.update((word, b"".join(map(tokens_of, pieces))) for word, pieces in by_pieces.items())

    def _learn_pieces(self, pieces: set[str]) -> None:
        if len(self._pieces) > _MOST_WORDS:
            self._pieces.clear()
        new = pieces - self._pieces.keys()
        # Between a word and a blank is a cut, so words with a blank before them can be tokenized as one text.
        words = [piece for piece in new if piece[0] == " " and " " not in piece[1:] and "\n" not in piece]
        others = list(new.difference(words))
        self._pieces.update(zip(others, _packed(self.tokens_of_whole(others)), strict=True))
        self._pieces.update(zip(words, self._tokens_side_by_side(words), strict=True))

    def _tokens_side_by_side(self, words: Sequence[str]) -> Iterable[bytes]:
        """Tokens of each word, from the one text that they make together; each word has a blank at its beginning only."""
        if not words:
            return []
        [ids] = self.tokens_of_whole(["".join(words)])
        packed = np.array(ids, _TOKEN)
        starts = np.flatnonzero(self._begins_with_blank[packed])
        if len(starts) != len(words):
            return _packed(self.tokens_of_whole(words))
        bounds = [*(starts * _TOKEN.itemsize).tolist(), packed.nbytes]
        content = packed.tobytes()
        return [content[first:last] for first, last in itertools.pairwise(bounds)]

    @functools.cached_property
    def _begins_with_blank(self) -> NDArray[np.bool_]:
        """Which tokens of the vocabulary begin with a blank, in the byte-level alphabet or as it is."""
        vocabulary = self._backend.get_vocab()
        begins = np.zeros(max(vocabulary.values()) + 1, bool)
        begins[[number for token, number in vocabulary.items() if token.startswith(("Ġ", " "))]] = True
        return begins

    def _set_defaults(self) -> None:
        """An ordinary call sets truncation, padding and the like to their defaults."""
        self._tokenizer("", add_special_tokens=False)


_TOKEN = np.dtype(np.uint32)


def _packed(sequences: Iterable[Sequence[int]]) -> Iterable[bytes]:
    return (np.array(ids, _TOKEN).tobytes() for ids in sequences)
