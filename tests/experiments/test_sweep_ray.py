"""The Ray engine: the same results as one after another, and a sweep that survives the death of a worker."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from flanlab.errors import FlanlabError
from flanlab.experiments.sweep import Sweep, run_sweep
from flanlab.experiments.sweep_jobs import read_record
from flanlab.experiments.sweep_planning import plan_sweep
from tests.experiments.test_sweep import base_recipe, carry_through, chains, scores, states

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


def carry_out_on_ray(sweep: Sweep) -> list[tuple[str, str, str]]:
    from flanlab.experiments.sweep_ray import ray_engine

    told: list[tuple[str, str, str]] = []
    run_sweep(sweep, ray_engine(None, 1, None), lambda job, state, error: told.append((job.title, state, error)))
    return told


def kill_first_worker(sweep: Sweep, key: str, killed: list[int]) -> None:
    """Signal 9 to the process that trains, once its first checkpoint is there."""
    job = sweep.jobs[key]
    while not killed:
        record = read_record(job)
        if record.get("state") == "running" and list((job.folder / "training").glob("step-*")):
            os.kill(record["process"], signal.SIGKILL)
            killed.append(record["process"])
        time.sleep(0.02)


def test_a_worker_is_killed_and_the_sweep_ends_complete_and_equal(tmp_path: Path, tiny_folder: Path) -> None:
    training = {
        "steps": 200, "compute_dtype": "float32", "tokens_per_step": 200,
        "micro_batch_tokens": 2048, "learning_rate": 1e-3, "checkpoint_minutes": 1e-9,
    }  # fmt: skip
    recipe = base_recipe(tmp_path, tiny_folder, training=training)
    alone = plan_sweep("clusters", recipe, tmp_path / "alone", points=["1"])
    carry_through(alone)
    sweep = plan_sweep("clusters", recipe, tmp_path / "ray", points=["1"])
    key = chains(sweep)["clusters-1"][0]
    killed: list[int] = []
    watcher = threading.Thread(target=kill_first_worker, args=(sweep, key, killed), daemon=True)
    watcher.start()
    told = carry_out_on_ray(sweep)
    assert set(states(sweep).values()) == {"done"}, told
    assert killed
    assert read_record(sweep.jobs[key])["process"] != killed[0]
    assert scores(sweep) == scores(alone)
    # The second worker went on from a checkpoint of the first.
    assert "Resuming from step" in sweep.jobs[key].log_file.read_text(encoding="utf-8")


def test_a_job_that_fails_is_told_with_its_error_and_stops_what_needs_it(tmp_path: Path, tiny_folder: Path) -> None:
    training = {"steps": 2, "compute_dtype": "float32", "tokens_per_step": 200, "micro_batch_tokens": 20, "learning_rate": 1e-3}
    sweep = plan_sweep("clusters", base_recipe(tmp_path, tiny_folder, training=training), tmp_path / "out", points=["1"])
    told = carry_out_on_ray(sweep)
    assert states(sweep) == {"untuned": "done", "clusters-1": "failed"}
    [error] = [error for title, state, error in told if state == "failed"]
    assert "micro_batch_tokens" in error
    assert ("evaluate 1 training cluster, 2 tasks", "skipped", "") in told


def test_no_cluster_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    from flanlab.experiments.sweep_ray import ray_engine

    with pytest.raises(FlanlabError, match="no Ray cluster"):
        ray_engine("127.0.0.1:1", None, None)
