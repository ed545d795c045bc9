"""Keep freed memory in the process while it trains on a CPU.

glibc returns each large block to the system when it is freed. Its next use gets pages that must be zeroed first, for each
gradient and activation of each micro-batch. docs/benchmarks.md says what that costs.

Where the embeddings are not trained, blocks above 32 MiB are still returned: these are the logits, of another size in each
micro-batch. The gaps that they leave do not fit the next ones, so memory would grow from step to step. Gradients of embeddings
are larger, but all of one size, and to return them costs a third of the speed.

Smaller blocks have other sizes in each step too, so gaps between them add up over hundreds of steps. Now and then they are
returned, which costs their pages once.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
"""As in glibc's malloc.h."""
_LARGEST_THRESHOLD = 32 * 2**20
"""The largest that glibc accepts."""
_USUAL_THRESHOLD, _USUAL_MMAP_MAX = 128 * 1024, 65536


@contextmanager
def kept_memory(device: torch.device, *, large: bool) -> Iterator[Callable[[], object]]:
    """Keep freed memory for the next use; blocks above 32 MiB only if `large`. It is returned to the system at the end.

    Yields:
        A function that returns what is free now.

    Does nothing on a GPU, whose memory torch keeps itself, or with a C library other than glibc.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        yield lambda: None
        return
    library = ctypes.CDLL(None)
    library.mallopt(_M_TRIM_THRESHOLD, -1)
    if large:
        library.mallopt(_M_MMAP_MAX, 0)
    else:
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
    try:
        yield lambda: library.malloc_trim(0)
    finally:
        library.mallopt(_M_MMAP_MAX, _USUAL_MMAP_MAX)
        library.mallopt(_M_MMAP_THRESHOLD, _USUAL_THRESHOLD)
        library.mallopt(_M_TRIM_THRESHOLD, _USUAL_THRESHOLD)
        library.malloc_trim(0)
