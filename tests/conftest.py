"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from transformers import PreTrainedTokenizerFast

from flanlab.data.encoding import TextEncoder
from flanlab.models.loading import load_model
from flanlab.tasks.loading import load_task
from flanlab.tasks.schema import Task
from tests.task_files import REVIEWS, task_content, write_task_file
from tests.tiny import make_tokenizer, save_tiny

# The same examples every time, however slow the machine is at the moment.
settings.register_profile("flanlab", deadline=None, derandomize=True)
settings.load_profile("flanlab")


def pytest_configure() -> None:
    """What programs that the tests start are to find."""
    # What is started in the background of a script ignores Ctrl-C, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The cores are shared among the processes that test: each, and all that it starts, would take them all.
    if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        threads = max(1, (os.cpu_count() or 1) // int(workers))
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)


@pytest.fixture
def write_task(tmp_path: Path) -> Callable[..., Path]:
    """Writes a task and its rows into the test's folder: `write_task(rows, field=value, ...)` gives the path."""
    return lambda rows=REVIEWS, **changes: write_task_file(tmp_path, task_content(**changes), rows)


@pytest.fixture
def make_task(write_task: Callable[..., Path]) -> Callable[..., Task]:
    """As `write_task`, but gives the task read from the file."""

    def make(rows: Any = REVIEWS, **changes: Any) -> Task:
        return load_task(write_task(rows, **changes))

    return make


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A small byte-level BPE with merges, an end token and a chat template."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def encoder(tokenizer: PreTrainedTokenizerFast) -> TextEncoder:
    """Encodes with the small tokenizer."""
    return TextEncoder(tokenizer)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that can read the sampler's longest prompts."""
    return save_tiny(tmp_path_factory.mktemp("model"), max_position_embeddings=2048)


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Any:
    """It, loaded."""
    return load_model(str(model_folder), device="cpu")
