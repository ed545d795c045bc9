"""Find n-grams of words in a stream of text. Only the wanted n-grams are kept, and the text is read once.

Words are as in GPT-3's analysis (Brown et al. 2020, appendix C): lower case, split at white space, without punctuation. Chinese
characters are words of their own, because no spaces stand between Chinese and Japanese words; so are, in Thai, Lao, Khmer and
Burmese, a letter with the vowels and signs around it. An n-gram is identified by a
64-bit hash, a polynomial in the hashes of its words. So all n-grams of a text are a few sums of arrays:

    word hashes   a    b    c    d               M: an odd number
    2-grams       aM+b bM+c cM+d                 = (1-grams) x M + the next word
    3-grams       (aM+b)M+c  (bM+c)M+d           = (2-grams) x M + the next word

Two different n-grams have the same hash with probability 2^-64. Searching a million of them in a thousand million words gives
about one false match in ten thousand such searches.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Integers = NDArray[np.int64]

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_WORDS_AT_ONCE = 200_000
_FILTER_BITS = 22
"""Hashes are first looked up by this many bits in a table of 4 MB. Only the few that pass are searched among all."""

_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_PUNCTUATION = re.compile(
    "[" + re.escape("".join(c for c in map(chr, range(0x10000)) if unicodedata.category(c)[0] in "PS")) + "]+"
)
_CHINESE = "[\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_SOUTHEAST_ASIAN = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Thai and Lao, Burmese, Khmer."""
_MARKS = "".join(
    c
    for c in map(chr, (*range(0xE00, 0xF00), *range(0x1000, 0x10A0), *range(0x1780, 0x1800)))
    if unicodedata.category(c)[0] == "M"
)
_WITHOUT_SPACES = re.compile(
    f"{_CHINESE}|[\u0e40-\u0e44\u0ec0-\u0ec4]*[{_SOUTHEAST_ASIAN}][{_MARKS}\u0e30\u0e32\u0e33\u0eb0\u0eb2\u0eb3]*"
)


def words(text: str) -> list[str]:
    """The words of a text: lower case, split at white space and around characters of scripts without spaces, no punctuation and
    symbols."""
    text = text.lower()
    if text.isascii():
        return text.translate(_ASCII_PUNCTUATION).split()
    # A letter and its accent may be one character or two.
    text = _PUNCTUATION.sub("", unicodedata.normalize("NFC", text))
    return _WITHOUT_SPACES.sub(r" \g<0> ", text).split()


def ngram_hashes(sequence: Sequence[str], lengths: Iterable[int]) -> Iterator[tuple[int, Hashes]]:
    """For each of the lengths n, in ascending order, the hashes of the n-grams that begin at word 0, 1, 2, ... of `sequence`.

    They are valid only in this process, because Python salts hashes differently in each.
    """
    wanted = sorted(set(lengths))
    single = np.fromiter(map(hash, sequence), dtype=np.int64, count=len(sequence)).view(np.uint64)
    grams, length = single, 1
    for target in wanted:
        for place in range(length, target):
            grams = grams[: max(len(single) - place, 0)] * _MULTIPLIER + single[place:]
        length = target
        yield target, grams


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of a corpus, which ends between two words, and its place."""

    file: str
    place: str
    text: str
    continues: bool = False
    """It continues the document of the piece before it, and n-grams may span both."""
    first_line: int | None = None
    """For text of consecutive lines: the number of the first line. Places are then line numbers."""

    def places(self, numbers: Integers) -> list[str]:
        """The places of the words with these numbers (from 0) in this piece."""
        if self.first_line is None:
            return [self.place] * len(numbers)
        ends = np.cumsum([len(words(line)) for line in self.text.split("\n")])
        return [f"line {line}" for line in self.first_line + np.searchsorted(ends, numbers, side="right")]


class Found:
    """The wanted n-grams of one length that a corpus contains. All arrays are [n-grams], in the order of `hashes`."""

    def __init__(self, length: int, hashes: Hashes) -> None:
        self.length = length
        self.hashes = hashes
        """Sorted."""
        self.documents = np.zeros(len(hashes), dtype=np.int64)
        """In how many documents of the corpus the n-gram occurs."""
        self.first: list[tuple[str, str] | None] = [None] * len(hashes)
        """File and place of its first occurrence."""
        self._last_document = np.full(len(hashes), -1)
        self._filter = np.zeros(1 << _FILTER_BITS, dtype=np.bool_)
        self._filter[self._short(hashes)] = True

    def positions(self, hashes: Hashes) -> Integers:
        """Positions in the arrays of hashes that are all among the wanted ones."""
        return np.searchsorted(self.hashes, hashes)

    def matches(self, grams: Hashes, document: Integers) -> tuple[Integers, Integers]:
        """Positions in `grams` of wanted n-grams within one document, and their numbers, both [matches]."""
        begin, end = document[: len(grams)], document[self.length - 1 :]
        at = np.flatnonzero(self._filter[self._short(grams)] & (begin == end))
        number = np.minimum(np.searchsorted(self.hashes, grams[at]), len(self.hashes) - 1)
        same = self.hashes[number] == grams[at]
        return at[same], number[same]

    def count(self, number: Integers, document: Integers) -> None:
        """Record the documents, in ascending order, that contain n-grams."""
        first = document[0]
        width = document[-1] - first + 1
        number, offset = np.divmod(np.unique(number * width + document - first), width)
        new = first + offset > self._last_document[number]
        np.add.at(self.documents, number[new], 1)
        # Sorted by n-gram, then document, so the last of several documents is written last.
        self._last_document[number] = first + offset

    @staticmethod
    def _short(hashes: Hashes) -> Hashes:
        return hashes >> np.uint64(64 - _FILTER_BITS)


@dataclass(frozen=True)
class Search:
    """The result of reading a corpus."""

    found: Mapping[int, Found]
    """By length of the n-grams."""
    documents: int
    words: int


def search(wanted: Mapping[int, Hashes], pieces: Iterable[Piece]) -> Search:
    """Read a corpus once, and find which of the wanted n-grams it contains, in how many documents, and where first.

    Args:
        wanted: for each length the hashes of the wanted n-grams, in any order, from `ngram_hashes` in this process.
        pieces: the corpus. An n-gram never spans two documents.
    """
    found = {length: Found(length, np.unique(hashes)) for length, hashes in sorted(wanted.items()) if len(hashes)}
    batch: list[_Run] = []
    document, total, waiting = -1, 0, 0
    for piece in pieces:
        document += not piece.continues
        batch.append(_Run(words(piece.text), piece, document))
        total += len(batch[-1].words)
        waiting += len(batch[-1].words)
        if waiting >= _WORDS_AT_ONCE:
            _look_up(batch, found)
            batch, waiting = _tail(batch, max(found, default=1) - 1), 0
    _look_up(batch, found)
    return Search(found, document + 1, total)


class _Run(NamedTuple):
    """Words of a piece that follow each other."""

    words: list[str]
    piece: Piece
    document: int
    first: int = 0
    """The number of the first of them in the piece."""


def _tail(batch: Sequence[_Run], count: int) -> list[_Run]:
    """The last `count` words of a batch, for n-grams that span two batches."""
    kept: list[_Run] = []
    for run in reversed(batch):
        skipped = max(len(run.words) - count, 0)
        kept.insert(0, run._replace(words=run.words[skipped:], first=run.first + skipped))
        count -= len(run.words) - skipped
        if not count:
            break
    return kept


def _look_up(batch: Sequence[_Run], wanted: Mapping[int, Found]) -> None:
    sizes = np.array([len(run.words) for run in batch], dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    run_of = np.repeat(np.arange(len(batch)), sizes)
    document_of = np.array([run.document for run in batch], dtype=np.int64)[run_of]
    for length, grams in ngram_hashes([word for run in batch for word in run.words], wanted):
        found = wanted[length]
        at, number = found.matches(grams, document_of)
        if not len(at):
            continue
        found.count(number, document_of[at])
        new, where = np.unique(number, return_index=True)
        unseen = np.array([found.first[gram] is None for gram in new])
        new, words_at = new[unseen], at[where[unseen]]
        for place in np.unique(run_of[words_at]):
            run, here = batch[place], run_of[words_at] == place
            places = run.piece.places(words_at[here] - starts[place] + run.first)
            for gram, where_first in zip(new[here], places, strict=True):
                found.first[gram] = run.piece.file, where_first
