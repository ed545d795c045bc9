"""Best-fit packing: examples of different lengths in few rows of a given size."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from flanlab.errors import FlanlabError


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Positions of `lengths`, grouped into rows whose lengths add up to at most `capacity`.

    Longest first, each into the fullest row that still has room (best-fit decreasing): at most 11/9 of the smallest possible
    number of rows. The result depends only on the arguments.

    Raises:
        FlanlabError: an example is longer than a row.
    """
    rows: list[list[int]] = []
    # (room left, row) in ascending order, so that bisection finds the fullest row with room enough.
    room: list[tuple[int, int]] = []
    for position in sorted(range(len(lengths)), key=lambda position: (-lengths[position], position)):
        length = lengths[position]
        if length > capacity:
            raise FlanlabError(
                f"An example of {length} tokens does not fit into a row of {capacity}.",
                hint="Raise training.micro_batch_tokens, or lower mixture.prompt_tokens and target_tokens.",
            )
        found = bisect.bisect_left(room, (length, -1))
        if found == len(room):
            rows.append([])
            left, row = capacity, len(rows) - 1
        else:
            left, row = room.pop(found)
        rows[row].append(position)
        bisect.insort(room, (left - length, row))
    return rows


def owners(costs: Sequence[float], count: int) -> list[int]:
    """The process that does each piece of work: longest first, each to the process with the least work so far.

    A pure function, so all processes compute the same result without communication. The longest share is at most 4/3 of the
    shortest possible (Graham 1969).
    """
    load = [0.0] * count
    owner = [0] * len(costs)
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        owner[place] = min(range(count), key=load.__getitem__)
        load[owner[place]] += costs[place]
    return owner
