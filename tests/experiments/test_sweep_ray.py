"""The Ray engine: the same results as one after another, and a sweep that survives the death of a worker."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from flanlab.errors import FlanlabError
from flanlab.experiments.folders import LOG_FILE
from flanlab.experiments.on_ray import on_ray
from flanlab.experiments.steps import Step
from flanlab.experiments.sweep import plan_sweep
from tests.experiments.test_sweep import base_recipe, carry_through, scores, states

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'flanlab[ray]'")


@pytest.fixture(autouse=True)
def quiet_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # Else its workers wait for whatever else the machine does.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    # Sums of other threads differ in their last digits.
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    # Workers import the tests' own copy of flanlab.
    root = Path(__file__).parents[2]
    paths = [str(root / "src"), str(root), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    yield
    ray.shutdown()


def kill_first_worker(step: Step, killed: list[int]) -> None:
    """Signal 9 to the process that has the step's lock, once its first checkpoint is there."""
    lock = str(step.folder / ".lock")
    while not killed:
        if list((step.folder / "training").glob("step-*")):
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    if any(file.path == lock for file in process.open_files()):
                        killed.append(process.pid)
                        process.kill()
        time.sleep(0.02)


def test_a_worker_is_killed_and_a_job_fails_and_all_else_ends_complete_and_equal(tmp_path: Path, tiny_folder: Path) -> None:
    training = {
        "steps": 200, "compute_dtype": "float32", "tokens_per_step": 200,
        "micro_batch_tokens": 2048, "learning_rate": 1e-3, "checkpoint_minutes": 1e-9,
    }  # fmt: skip
    recipe = base_recipe(tmp_path, tiny_folder, training=training)
    alone = plan_sweep("clusters", recipe, tmp_path / "alone", points=["1"])
    carry_through(alone)
    sweep = plan_sweep("clusters", recipe, tmp_path / "ray", points=["1"])
    fails = base_recipe(tmp_path, tiny_folder, training=training | {"micro_batch_tokens": 20})
    failing = plan_sweep("clusters", fails, tmp_path / "failing", points=["1"])
    step = sweep.cells["clusters-1"][0]
    killed: list[int] = []
    watcher = threading.Thread(target=kill_first_worker, args=(step, killed), daemon=True)
    watcher.start()
    # One cluster does both.
    told = {step.folder: error for step, error in on_ray([*sweep.to_do(), *failing.to_do()])}
    assert set(states(sweep).values()) == {"done"}, told
    assert killed
    assert scores(sweep) == scores(alone)
    # The second worker went on from a checkpoint of the first.
    assert "Resuming from step" in (step.folder / LOG_FILE).read_text(encoding="utf-8")
    # A job that fails is told with its error, and stops what needs it.
    assert states(failing) == {"untuned": "done", "clusters-1": "failed"}
    trained, evaluated = failing.cells["clusters-1"]
    assert "micro_batch_tokens" in told[trained.folder]
    assert told[evaluated.folder] == "its training failed"


def test_no_cluster_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FlanlabError, match="no Ray cluster"):
        list(on_ray([], "127.0.0.1:1"))
