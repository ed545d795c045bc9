from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanlab.training.packing import best_fit, owners
from tests.task_files import refusal

lengths_and_capacity = st.integers(1, 60).flatmap(
    lambda capacity: st.tuples(st.lists(st.integers(1, capacity), max_size=40), st.just(capacity))
)


def first_fit(lengths: list[int], capacity: int) -> int:
    rows: list[int] = []
    for length in lengths:
        for row, used in enumerate(rows):
            if used + length <= capacity:
                rows[row] += length
                break
        else:
            rows.append(length)
    return len(rows)


@given(lengths_and_capacity)
def test_every_example_stands_in_one_row_and_no_row_overflows(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    rows = best_fit(lengths, capacity)
    assert sorted(position for row in rows for position in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[position] for position in row) <= capacity for row in rows)


@given(lengths_and_capacity)
def test_the_same_arguments_give_the_same_rows(case: tuple[list[int], int]) -> None:
    assert best_fit(*case) == best_fit(*case)


@given(lengths_and_capacity)
def test_rows_are_few(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    rows = best_fit(lengths, capacity)
    # First-fit in a lucky order can be optimal, and best-fit decreasing is within 11/9 of that, and 6/9 of a row.
    assert len(rows) <= 11 / 9 * first_fit(lengths, capacity) + 6 / 9
    used = sorted(sum(lengths[position] for position in row) for row in rows)
    assert len(used) < 2 or used[0] + used[1] > capacity


@pytest.mark.parametrize("seed", range(5))
def test_not_worse_than_first_fit_on_lengths_as_they_come(seed: int) -> None:
    lengths = np.clip(np.random.default_rng(seed).lognormal(4.5, 0.8, 2_000), 5, 1_024).astype(int).tolist()
    rows = best_fit(lengths, 1_024)
    assert len(rows) <= first_fit(lengths, 1_024)
    assert len(rows) <= math.ceil(sum(lengths) / 1_024) + 1


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ([], []),
        ([10], [[0]]),
        ([10, 10], [[0], [1]]),
        ([2, 7, 3, 8], [[3, 0], [1, 2]]),
        # The 3 goes beside the 6, the fullest row that takes it, and not beside the 5.
        ([5, 6, 3], [[1, 2], [0]]),
        ([5, 5, 5], [[0, 1], [2]]),
    ],
)
def test_small_cases(lengths: list[int], rows: list[list[int]]) -> None:
    assert best_fit(lengths, 10) == rows


def test_an_example_longer_than_a_row_is_refused() -> None:
    message = refusal(lambda: best_fit([3, 11], 10)).message
    assert "11 tokens" in message
    assert "10" in message


@given(st.lists(st.floats(0, 1e6), max_size=60), st.integers(1, 9))
def test_shares_are_balanced(costs: list[float], count: int) -> None:
    owner = owners(costs, count)
    assert owner == owners(costs, count)
    loads = [sum(cost for cost, one in zip(costs, owner, strict=True) if one == rank) for rank in range(count)]
    assert sum(loads) == pytest.approx(sum(costs))
    # Nobody takes anything on who has more to do than another.
    assert max(loads) - min(loads) <= max(costs, default=0) * (1 + 1e-9)


def test_long_work_is_shared_out_first() -> None:
    assert owners([1, 1, 1, 1, 4], 2) == [1, 1, 1, 1, 0]
