"""Tokenizing texts word by word, each word once, where the tokenizer is known to allow it (see joins.py).

Words come back, within a text and from one to the next, so putting a text together from the tokens of its words is many times
as fast as tokenizing it. The tokens are the same.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence, Set
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from flanlab.data.joins import pieces_pattern

_OTHER_WHITE_SPACE = re.compile(r"[^\S \n\r\t]")
_MOST_PIECES = 300_000
"""Pieces whose tokens are kept, some 60 MB."""


class WordTokenizer:
    """Turns texts into token ids, without special tokens of its own."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self.pieces = pieces_pattern(self._backend.to_str()) if self._backend is not None else None
        """What finds the pieces that a text is tokenized by, each apart; None where only the whole text will do."""
        self._remembered: dict[str, tuple[int, ...]] = {}

    def tokens(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text."""
        if self.pieces is None:
            return self.tokens_of_whole(texts)
        by_pieces = [None if _OTHER_WHITE_SPACE.search(text) else self.pieces.findall(text) for text in texts]
        self._remember(set().union(*filter(None, by_pieces)))
        tokens_of = self._remembered.__getitem__
        whole = iter(self.tokens_of_whole([text for text, pieces in zip(texts, by_pieces, strict=True) if pieces is None]))
        return [
            next(whole) if pieces is None else list(itertools.chain.from_iterable(map(tokens_of, pieces)))
            for pieces in by_pieces
        ]

    def tokens_of_whole(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, tokenized whole."""
        if not texts:
            return []
        if not self._tokenizer.is_fast:
            ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
            return ids
        self._set_defaults()
        # Straight from the backend, as transformers would ask it, but without the offsets that nobody reads here.
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def _remember(self, pieces: Set[str]) -> None:
        if len(self._remembered) > _MOST_PIECES:
            self._remembered.clear()
        new = pieces - self._remembered.keys()
        # Between a word and a blank is a cut, so words with a blank before them can be tokenized as one text.
        words = [piece for piece in new if piece[0] == " " and piece[-1] not in " \n\r\t"]
        others = list(new.difference(words))
        # Tuples of numbers, unlike lists, do not slow the garbage collector down.
        self._remembered.update(zip(others, map(tuple, self.tokens_of_whole(others)), strict=True))
        self._remembered.update(zip(words, self._tokens_side_by_side(words), strict=True))

    def _tokens_side_by_side(self, words: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of each word, from the one text that they make together."""
        self._set_defaults()
        encoding = self._backend.encode("".join(words), add_special_tokens=False)
        starts = [start for start, _ in encoding.offsets]
        bounds = [0, *np.searchsorted(starts, np.cumsum([len(word) for word in words])).tolist()]
        ids = encoding.ids
        return [tuple(ids[first:last]) for first, last in itertools.pairwise(bounds)]

    def _set_defaults(self) -> None:
        """An ordinary call sets truncation, padding and the like to their defaults."""
        self._tokenizer("", add_special_tokens=False)
