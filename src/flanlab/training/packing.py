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
