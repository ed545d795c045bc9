"""Freed memory is kept while training, and given back at the end."""

from __future__ import annotations

import os
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
    with kept_memory(torch.device("cpu"), large=large) as return_memory:
        # Mostly none at all. In some processes glibc finds no room to extend its heap, and nothing is gained.
        assert min(faults_of_a_block() for _ in range(4)) <= PAGES + 64
        return_memory()
        assert faults_of_a_block() >= PAGES // 2, "it is returned when asked"
    assert min(faults_of_a_block() for _ in range(3)) >= PAGES // 2, "memory is returned to the system again"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
@pytest.mark.parametrize("large", [True, False])
def test_freed_memory_is_returned_to_the_system_after_training(large: bool) -> None:
    """In a process of its own: what other tests have freed would be used first."""
    subprocess.run([sys.executable, "-c", f"from tests.training.test_memory import check; check({large})"], check=True)


def test_programs_for_matrices_of_a_size_are_not_kept_by_the_thousand() -> None:
    """oneDNN reads its limit once, so it is set before torch computes; a limit that a user has set stays."""
    program = "import os, flanlab.models.loading; print(os.environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY'])"
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    usual = {key: value for key, value in os.environ.items() if key != name}
    for given, expected in ((usual, "64"), ({**usual, name: "7"}, "7")):
        ran = subprocess.run([sys.executable, "-c", program], env=given, capture_output=True, text=True, check=True)
        assert ran.stdout.split() == [expected]
