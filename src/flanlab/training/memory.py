"""Keeps freed memory in the process while it trains on a CPU.

glibc gives each large block back to the system when it is freed and gets it again as pages that must be zeroed: for every
gradient and activation of every micro-batch. See docs/benchmarks.md for what that costs.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""As in glibc's malloc.h."""
_USUAL_TRIM_THRESHOLD, _USUAL_MMAP_MAX = 128 * 1024, 65536


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Keep what is freed for what is needed next; it goes back to the system at the end.

    Does nothing on a GPU, whose memory torch keeps itself, or with another C library than glibc.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    library.mallopt(_M_MMAP_MAX, 0)
    library.mallopt(_M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        library.mallopt(_M_MMAP_MAX, _USUAL_MMAP_MAX)
        library.mallopt(_M_TRIM_THRESHOLD, _USUAL_TRIM_THRESHOLD)
        library.malloc_trim(0)
