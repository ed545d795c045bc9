"""Cells of several processes: the same scores as by one, one message where they fail, and an end when their parent ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from flanlab.cli.main import app
from flanlab.experiments import steps as steps_module
from flanlab.experiments.folders import ERROR_FILE, LOG_FILE
from flanlab.experiments.sweep import plan_sweep
from tests.experiments.test_sweep import base_recipe, carry_through, scores, states

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes import the tests' own copy of flanlab."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "src")]))


def test_two_processes_come_to_the_scores_of_one(tmp_path: Path, tiny_folder: Path) -> None:
    recipe = base_recipe(tmp_path, tiny_folder)
    chosen = {"points": ["1"], "only": ["clusters-1"]}
    one = plan_sweep("clusters", recipe, tmp_path / "one", **chosen)
    carry_through(one)
    command = ["ablate", "clusters", str(tmp_path / "base.yaml"), "--out", str(tmp_path / "two"), "--points", "1"]
    told = CliRunner().invoke(app, [*command, "--only", "clusters-1", "--processes", "2"])
    assert told.exit_code == 0, told.output
    # The work has the same keys, whatever the number of processes: what two have done, one need not do.
    two = plan_sweep("clusters", recipe, tmp_path / "two", **chosen)
    assert states(two) == {"clusters-1": "done"}
    found, expected = scores(two)["clusters-1"], scores(one)["clusters-1"]
    apart = {"identity": None}
    for ours, theirs in zip(found.variants.values(), expected.variants.values(), strict=True):
        assert ours.model_copy(update=apart) == theirs.model_copy(update=apart), "weights are the same to rounding"
    assert (found.name, list(found.variants), list(found.tasks)) == (
        expected.name,
        list(expected.variants),
        list(expected.tasks),
    )
    for ours, theirs in zip(found.scores, expected.scores, strict=True):
        assert ours.mean == pytest.approx(theirs.mean, abs=1e-3)
    for step in two.cells["clusters-1"]:
        assert (step.folder / LOG_FILE).stat().st_size
        assert not (step.folder / ERROR_FILE).exists()


def test_processes_that_fail_are_told_in_one_message(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two that fail alike, here one after the other in this process."""

    def launch_here(module: str, arguments: Sequence[str], processes: int, *_: Any, **settings: Any) -> int:
        return max(import_module(module).main(arguments[0]) for _ in range(processes))

    monkeypatch.setattr(steps_module, "launch", launch_here)
    monkeypatch.setattr(steps_module, "end_with_launcher", lambda: None)
    training = {"steps": 2, "compute_dtype": "float32", "tokens_per_step": 200, "micro_batch_tokens": 20, "learning_rate": 1e-3}
    recipe = base_recipe(tmp_path, tiny_folder, training=training)
    sweep = plan_sweep("clusters", recipe, tmp_path / "out", points=["1"], only=["clusters-1"], processes=2)
    [(_, error), (_, skipped)] = carry_through(sweep)
    assert skipped == "its training failed"
    assert error.count("micro_batch_tokens") == error.count("Hint:") == 1
    assert (sweep.cells["clusters-1"][0].folder / ERROR_FILE).read_text(encoding="utf-8") == error
    assert f"flan: {error}" in capfd.readouterr().err


def test_processes_that_die_without_a_word_are_told(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps_module, "launch", lambda *_, **settings: 137)
    recipe = base_recipe(tmp_path, tiny_folder)
    sweep = plan_sweep("clusters", recipe, tmp_path / "out", points=["1"], only=["untuned"], processes=2)
    [(_, error)] = carry_through(sweep)
    assert "2 processes ended with status 137" in error
    assert str(sweep.cells["untuned"][0].folder / LOG_FILE) in error


WAITS = """
import os, signal, sys, time
from pathlib import Path
from flanlab.experiments.torchrun import end_with_launcher

def stop(*_):
    mine.write_text("saved")
    os._exit(0)

mine = Path(sys.argv[1], str(os.getpid()))
signal.signal(signal.SIGTERM, stop)
end_with_launcher()
mine.touch()
time.sleep(300)
"""
LAUNCHES = """
import sys
from pathlib import Path
from flanlab.experiments.torchrun import launch

launch("waits", sys.argv[1:], 2, Path("waits.log"))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_processes_save_and_end_with_their_parent(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS, encoding="utf-8")
    started = tmp_path / "started"
    started.mkdir()
    parent = subprocess.Popen([sys.executable, "-c", LAUNCHES, str(started)], cwd=tmp_path, stderr=subprocess.PIPE)
    while parent.poll() is None and len(list(started.iterdir())) < 2:
        time.sleep(0.05)
    children = [psutil.Process(int(path.name)) for path in started.iterdir()]
    parent.send_signal(number)
    _, left = psutil.wait_procs(children, timeout=60)
    assert not left
    assert [path.read_text(encoding="utf-8") for path in started.iterdir()] == ["saved"] * 2
    _, errors = parent.communicate()
    assert parent.returncode != 0
    assert (b"KeyboardInterrupt" in errors) == (number == signal.SIGINT)
