"""Freed memory is kept while training, and given back at the end."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest
import torch

from flanlab.training.memory import kept_memory

BLOCK = 16 * 2**20
PAGES = BLOCK // resource.getpagesize()


def faults_of_a_block() -> int:
    """Page faults of making a block and filling it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(BLOCK, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def check(large: bool) -> None:
    with kept_memory(torch.device("cpu"), large=large):
        # Mostly none at all. In some processes glibc finds no room to extend its heap, and nothing is gained.
        assert min(faults_of_a_block() for _ in range(4)) <= PAGES + 64
    assert min(faults_of_a_block() for _ in range(3)) >= PAGES // 2, "memory is returned to the system again"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
@pytest.mark.parametrize("large", [True, False])
def test_freed_memory_is_returned_to_the_system_after_training(large: bool) -> None:
    """In a process of its own: what other tests have freed would be used first."""
    subprocess.run([sys.executable, "-c", f"from tests.training.test_memory import check; check({large})"], check=True)
