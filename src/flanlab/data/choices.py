"""Random choices as pure functions of a key. No generator runs, so each choice can be repeated, alone and in any order.

A key is everything the choice depends on, such as (seed, task, row, epoch). The bytes come from SHAKE-256 of the key, so
choices are the same on every machine, Python and numpy version, and for any number of workers.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np
from numpy.typing import NDArray

Key = tuple[int | str, ...]


def permutation(length: int, key: Key) -> NDArray[np.int64]:
    """A uniformly random order of range(length)."""
    return np.argsort(np.frombuffer(_bytes(length, key), dtype="<u8"), kind="stable")


def short_permutation(length: int, key: Key) -> list[int]:
    """The same order as `permutation`, many times as fast for short lengths, such as templates or options."""
    return sorted(range(length), key=struct.unpack(f"<{length}Q", _bytes(length, key)).__getitem__)


def choose(length: int, key: Key) -> int:
    """A number from range(length)."""
    return int.from_bytes(_bytes(1, key), "little") % length


def fraction(key: Key) -> float:
    """A number from 0 to below 1, uniformly."""
    return (int.from_bytes(_bytes(1, key), "little") >> 11) / 2**53


def rotating_choice(length: int, turn: int, key: Key) -> int:
    """A number from range(length) for each turn. Each run of `length` turns has every number once."""
    return short_permutation(length, (*key, turn // length))[turn % length]


def _bytes(count: int, key: Key) -> bytes:
    """Eight random bytes for each of `count` numbers."""
    return hashlib.shake_256(repr(key).encode()).digest(8 * count)
