"""A workplace with the sampler's tasks, two made-up runs, and a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from flanlab.ui.setup import open_workplace
from flanlab.ui.workplace import Workplace
from tests.report.synthetic import HOSTILE, make_run
from tests.tiny import tiny_folder, tiny_folders  # noqa: F401

HUGE = HOSTILE + "x" * 5_000_000


@pytest.fixture(scope="session")
def run_folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs over the same questions; the prompts of the second are hostile and 5 MB long... in one task of few rows."""
    root = tmp_path_factory.mktemp("runs")
    return [
        make_run(root / "first", {"untuned_instruction": 5, "tuned": 7}),
        make_run(root / "second", {"untuned_instruction": 5, "tuned": 4}, prompt=HOSTILE),
    ]


@pytest.fixture
def workplace(tmp_path: Path, run_folders: list[Path], tiny_folder: Path) -> Workplace:  # noqa: F811
    """What the app would show of them; nothing is loaded yet."""
    return open_workplace(run_folders, [str(tiny_folder)], ["sampler"], None, tmp_path / "saved")
