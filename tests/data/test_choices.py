from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from flanlab.data.choices import choose, permutation, rotating_choice, short_permutation

keys = st.tuples(st.integers(0, 9), st.text(max_size=4), st.integers(0, 9))


def test_choices_are_pinned() -> None:
    # These decide what every model is trained on: a change here changes every stream ever made.
    assert permutation(8, (0, "task", 3)).tolist() == [1, 4, 7, 3, 0, 5, 2, 6]
    assert [choose(10, (0, "task", row)) for row in range(8)] == [4, 7, 6, 3, 8, 0, 2, 8]
    assert [rotating_choice(4, turn, (0, "task", 3)) for turn in range(8)] == [2, 0, 1, 3, 0, 3, 2, 1]


@given(st.integers(0, 50), keys)
def test_a_permutation_holds_every_number_once_and_is_always_the_same(length: int, key: tuple[int, str, int]) -> None:
    found = permutation(length, key).tolist()
    assert sorted(found) == list(range(length))
    assert permutation(length, key).tolist() == found
    assert short_permutation(length, key) == found


@given(st.integers(1, 12), st.integers(0, 5), keys)
def test_each_number_comes_once_in_a_round_of_turns(length: int, round_: int, key: tuple[int, str, int]) -> None:
    turns = range(round_ * length, (round_ + 1) * length)
    assert sorted(rotating_choice(length, turn, key) for turn in turns) == list(range(length))


def test_any_part_of_the_key_changes_the_choice() -> None:
    base = permutation(50, (1, "a", 2)).tolist()
    for key in [(2, "a", 2), (1, "b", 2), (1, "a", 3), (1, "a"), (1, "a", 2, 0), (1, "a", "2")]:
        assert permutation(50, key).tolist() != base


def test_choices_are_even() -> None:
    first = Counter(int(permutation(6, (0, key))[0]) for key in range(3_000))
    single = Counter(choose(6, (0, key)) for key in range(3_000))
    for counts in (first, single):
        assert all(400 < counts[number] < 600 for number in range(6))
