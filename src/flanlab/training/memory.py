"""Keep freed memory in the process while it trains on a CPU.

glibc returns each large block to the system when it is freed. Its next use gets pages that must be zeroed first, for each
gradient and activation of each micro-batch. docs/benchmarks.md says what that costs.

Blocks above 32 MiB are still returned: logits and the gradients of embeddings. They are few, but of another size in each
micro-batch, so the gaps that they leave do not fit the next ones. Memory would grow from step to step.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""As in glibc's malloc.h."""
_LARGEST_KEPT = 32 * 2**20
"""The largest threshold that glibc accepts."""
_USUAL_THRESHOLD = 128 * 1024
"""The initial value of both."""


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Keep freed memory for the next use. It is returned to the system at the end.

    Does nothing on a GPU, whose memory torch keeps itself, or with a C library other than glibc.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
    library.mallopt(_M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        library.mallopt(_M_MMAP_THRESHOLD, _USUAL_THRESHOLD)
        library.mallopt(_M_TRIM_THRESHOLD, _USUAL_THRESHOLD)
        library.malloc_trim(0)
