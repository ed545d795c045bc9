"""Random choices as pure functions of a key: no generator runs, so any choice can be made again, alone and in any order.

A key is everything the choice depends on, such as (seed, task, row, epoch). The bytes come from SHAKE-256 of the key, so
choices are the same on every machine, Python and numpy version, and for any number of workers.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Key = tuple[int | str, ...]


def permutation(length: int, key: Key) -> NDArray[np.int64]:
    """A uniformly random order of range(length)."""
    return np.argsort(_integers(length, key), kind="stable")


def choose(length: int, key: Key) -> int:
    """A number from range(length)."""
    return int(_integers(1, key)[0] % np.uint64(length))


def rotating_choice(length: int, turn: int, key: Key) -> int:
    """A number from range(length) for each turn, such that `length` turns in a row show every number once."""
    return int(permutation(length, (*key, turn // length))[turn % length])


def _integers(count: int, key: Key) -> NDArray[Any]:
    digest = hashlib.shake_256(repr(key).encode()).digest(8 * count)
    return np.frombuffer(digest, dtype="<u8")
