"""`kill -9` at random moments, again and again, changes nothing of what training ends with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import write_tasks
from tests.training.jobs import REPOSITORY
from tests.training.killed import STEPS
from tests.training.stream import assert_same_training

pytestmark = pytest.mark.slow

KILLS = 10


@pytest.mark.parametrize("seed", [1])
def test_killed_ten_times_ends_bit_for_bit_as_never(seed: int, tiny_folder: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    arguments = [tiny_folder, tmp_path / "tasks", tmp_path / "killed", seed, KILLS]
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "src")])
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.killed", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    print(f"seed {seed}\n{done.stdout}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("sitting ") == KILLS
    assert done.stdout.count(f"saved step-{STEPS:06}") < KILLS / 2, "most were killed in the midst of it"
    assert_same_training(tmp_path / "whole", tmp_path / "killed")
