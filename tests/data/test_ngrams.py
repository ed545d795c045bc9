"""N-grams of words: what a word is, that the search finds what plain sets of tuples find, and says where."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanlab.data import ngrams
from flanlab.data.ngrams import Found, Piece, ngram_hashes, search, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat's  HAT -- well-known,\nno?", ["the", "cats", "hat", "wellknown", "no"]),
        ("“Élan”… naïve\u00a0Ünder_score", ["élan", "naïve", "ünderscore"]),
        ("$5.00 + 1 = 6 € ", ["500", "1", "6"]),
        ("2024年我们学GPT、学外语。", ["2024", "年", "我", "们", "学", "gpt", "学", "外", "语"]),
        ("私は学生です。人々", ["私", "は", "学", "生", "です", "人", "々"]),
        ("우리는 배운다.", ["우리는", "배운다"]),
        (" \n\t ", []),
        ("ประเทศไทย 2020 abc!", ["ป", "ระ", "เท", "ศ", "ไท", "ย", "2020", "abc"]),
        ("ພາສາລາວ ແມ່ນ", ["ພາ", "ສາ", "ລາ", "ວ", "ແມ່", "ນ"]),
        ("ភាសាខ្មែរ", ["ភា", "សា", "ខ្", "មែ", "រ"]),
        ("မြန်မာဘာသာ", ["မြ", "န်", "မာ", "ဘာ", "သာ"]),
    ],
)
def test_words_are_lower_case_and_without_punctuation(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_an_accent_is_written_either_way() -> None:
    assert words("caf\u00e9 ni\u00f1o") == words("cafe\u0301 nin\u0303o") == ["caf\u00e9", "ni\u00f1o"]


def test_punctuation_goes_whether_or_not_there_is_other_than_ascii() -> None:
    text = "a!b\"c#d$e%f&g'h(i)j*k+l,m-n.o/p:q;r<s=t>u?v@w[x\\y]z^a_b`c{d|e}f~g"
    assert words(text + " é") == [*words(text), "é"]


def plain_search(wanted: Sequence[Sequence[str]], documents: Sequence[Sequence[str]]) -> dict[tuple[str, ...], list[int]]:
    """For each n-gram the documents that hold it, the slow way."""
    places = defaultdict(list)
    for gram in {tuple(gram) for gram in wanted}:
        for number, document in enumerate(documents):
            if any(tuple(document[at : at + len(gram)]) == gram for at in range(len(document))):
                places[gram].append(number)
    return places


few_words = st.lists(st.sampled_from("abc"), max_size=14)


@given(
    texts=st.lists(few_words, min_size=1, max_size=4),
    documents=st.lists(st.lists(few_words, min_size=1, max_size=3), max_size=5),
    lengths=st.sets(st.integers(1, 4), min_size=1),
    at_once=st.sampled_from([1, 7, 1_000]),
    filter_bits=st.sampled_from([1, 22]),
)
def test_finds_what_a_search_through_all_tuples_finds(
    texts: list[list[str]], documents: list[list[list[str]]], lengths: set[int], at_once: int, filter_bits: int
) -> None:
    """However the corpus is cut into pieces and batches: counts of documents, and the first place."""
    wanted: dict[int, list[np.ndarray]] = defaultdict(list)
    grams: list[tuple[str, ...]] = []
    hashes: list[np.uint64] = []
    for text in texts:
        for length, found in ngram_hashes(text, lengths):
            wanted[length].append(found)
            grams += [tuple(text[at : at + length]) for at in range(len(found))]
            hashes += list(found)
    pieces = [
        Piece("file", str(number), " ".join(part), continues=place > 0)
        for number, parts in enumerate(documents)
        for place, part in enumerate(parts)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngrams, "_WORDS_AT_ONCE", at_once)
        patch.setattr(ngrams, "_FILTER_BITS", filter_bits)
        read = search({length: np.concatenate(parts) for length, parts in wanted.items()}, pieces)
    expected = plain_search(grams, [[word for part in parts for word in part] for parts in documents])
    assert read.documents == len(documents)
    assert read.words == sum(len(part) for parts in documents for part in parts)
    for gram, hashed in zip(grams, hashes, strict=True):
        held, first = of_one(read.found[len(gram)], hashed)
        assert held == len(expected[gram])
        assert first == (("file", str(expected[gram][0])) if expected[gram] else None)


def of_one(found: Found, hashed: np.uint64) -> tuple[int, tuple[str, str] | None]:
    (position,) = found.positions(np.array([hashed]))
    return int(found.documents[position]), found.first[position]


def lines(text: str, first: int) -> Iterator[Piece]:
    yield Piece("a.txt", "", text, first_line=first)


def test_place_in_lines_is_where_the_ngram_begins() -> None:
    text = "zero one\n\n two -- three\nfour five\nsix"
    for gram, line in (("zero one", 7), ("one two", 7), ("two three", 9), ("three four", 9), ("five six", 10)):
        [(_, hashes)] = ngram_hashes(gram.split(), [2])
        read = search({2: hashes}, lines(text, 7))
        assert of_one(read.found[2], hashes[0]) == (1, ("a.txt", f"line {line}"))


def test_nothing_looked_for_finds_nothing() -> None:
    read = search({}, lines("some words here", 1))
    assert (dict(read.found), read.words) == ({}, 3)
