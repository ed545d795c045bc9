"""A workplace with the sampler's tasks, a hostile task of the user's, two made-up runs, and a tiny model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flanlab.ui.workplace import Workplace, open_workplace
from tests.report.synthetic import HOSTILE, make_run
from tests.task_files import task_content, write_task_file
from tests.tiny import tiny_folder, tiny_folders

__all__ = ["tiny_folder", "tiny_folders"]
HUGE = HOSTILE + " and so on" * 500_000
"""Five million characters."""


@pytest.fixture(scope="session")
def run_folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs over the same questions; the second's prompts are hostile."""
    root = tmp_path_factory.mktemp("runs")
    return [
        make_run(root / "first", {"untuned_instruction": 5, "tuned": 7}),
        make_run(root / "second", {"untuned_instruction": 5, "tuned": 4}, prompt=HOSTILE),
    ]


@pytest.fixture(scope="session")
def hostile_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one task, of hostile words and a huge row; not to be written to."""
    rows = [{"text": HUGE, "label": 0}, {"text": "It was fine.", "label": 1}]
    return write_task_file(tmp_path_factory.mktemp("own"), task_content(name="hostile", description=HOSTILE), rows).parent


@pytest.fixture
def workplace(tmp_path: Path, run_folders: list[Path], hostile_tasks: Path, tiny_folder: Path) -> Workplace:
    """What the app would show of them; nothing is loaded yet."""
    return open_workplace(run_folders, [str(tiny_folder)], ["sampler", str(hostile_tasks)], None, tmp_path / "saved")


@pytest.fixture
def address(workplace: Workplace) -> Iterator[str]:
    """The app, served on a free port."""
    uvicorn = pytest.importorskip("uvicorn", reason="needs flanlab[ui]")
    from flanlab.ui.app import make_app, open_port

    opened = open_port(0)
    server = uvicorn.Server(uvicorn.Config(make_app(workplace), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    yield f"http://127.0.0.1:{opened.getsockname()[1]}"
    server.should_exit = True
    thread.join()
