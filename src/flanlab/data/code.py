"""The version of the code that makes examples. It is part of the cache keys."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import flanlab


@functools.cache
def code_hash() -> str:
    """Hash of the code that finds, renders and encodes rows: all of the packages `tasks` and `data`."""
    digest = hashlib.blake2b(digest_size=16)
    root = Path(flanlab.__file__).parent
    for path in sorted([*(root / "tasks").rglob("*.py"), *(root / "data").rglob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
