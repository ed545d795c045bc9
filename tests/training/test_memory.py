"""Freed memory is kept while training, and given back at the end."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest
import torch

from flanlab.training.memory import kept_memory


def faults_of_a_large_block() -> int:
    """Page faults of making a block of 64 MiB and filling it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def check() -> None:
    usual = min(faults_of_a_large_block() for _ in range(3))
    assert usual > 0
    with kept_memory(torch.device("cpu")):
        # Mostly none at all. In some processes glibc finds no room to extend its heap, and nothing is gained.
        assert min(faults_of_a_large_block() for _ in range(4)) <= usual
    assert min(faults_of_a_large_block() for _ in range(3)) >= usual // 2, "memory is returned to the system again"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_freed_memory_is_returned_to_the_system_after_training() -> None:
    """In a process of its own: what other tests have freed would be used first."""
    subprocess.run([sys.executable, "-c", "from tests.training.test_memory import check; check()"], check=True)
