"""Runs started by torchrun: the same as by one process, and one that dies ends all with one message."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from flanlab.experiments.recipe import Recipe
from flanlab.experiments.run import run_recipe, train_recipe
from flanlab.results.files import read_results
from tests.tiny import recipe_content, write_recipe
from tests.training.stream import read_log

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]


def recipe_of(home: Path, model: Path, **training: Any) -> Recipe:
    return write_recipe(home, recipe_content(model, **{"checkpoint_minutes": 1e-9, **training}))


def torchrun(command: str, recipe: Path, out: Path) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "src")])
    arguments = ["--nproc-per-node", "2", "--standalone", "-m", "flanlab", command, str(recipe), "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *arguments],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_run_by_two_processes_is_the_run_by_one(tmp_path: Path, tiny_folder: Path) -> None:
    """By FSDP, whose weights must be put together; that of DDP is a sweep's (test_sweep_processes)."""
    home, recipe = tmp_path, recipe_of(tmp_path, tiny_folder, parallel="fsdp")
    run = torchrun("run", home / "recipe.yaml", home / "two")
    output, errors = run.communicate()
    assert run.returncode == 0, errors
    assert output.count("Report: ") == 1
    assert errors.count("to train and") == 1
    expected = run_recipe(recipe, home / "one")
    found = read_results(home / "two")
    for variant, score in expected.main_scores("comments").items():
        assert found.main_scores("comments")[variant].mean == pytest.approx(score.mean, abs=1e-3)
    assert_near(home / "two" / "training", home / "one" / "training")
    ours, theirs = (load_file(home / name / "model" / "model.safetensors") for name in ("two", "one"))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-4)
    assert json.loads((home / "two/model/config.json").read_text()) == json.loads((home / "one/model/config.json").read_text())


def test_killed_process_ends_the_job_with_one_message_and_the_run_goes_on(tmp_path: Path, tiny_folder: Path) -> None:
    home, recipe = tmp_path, recipe_of(tmp_path, tiny_folder, steps=60)
    run = torchrun("train", home / "recipe.yaml", home / "killed")
    log = home / "killed" / "training" / "log.jsonl"
    while run.poll() is None and not (log.exists() and len(log.read_text().splitlines()) >= 5):
        time.sleep(0.05)
    second = next(one for one in psutil.Process(run.pid).children(recursive=True) if one.environ().get("RANK") == "1")
    second.send_signal(signal.SIGKILL)
    _, errors = run.communicate()
    assert run.returncode != 0
    assert errors.count("process 1 died") == 1
    assert errors.count("Run the same command again") == 1
    done = len(log.read_text().splitlines())
    assert 5 <= done < 60, "it was still under way"
    # By one process, for a change.
    train_recipe(recipe, home / "killed")
    train_recipe(recipe, home / "whole")
    # Two processes add up in another order; over sixty steps what that rounds grows.
    assert_near(home / "killed" / "training", home / "whole" / "training", within=1e-3)


def test_sigterm_saves_though_workers_render(tmp_path: Path, tiny_folder: Path) -> None:
    """torchrun passes it on to each process's whole group, the rendering workers among it."""
    recipe_of(tmp_path, tiny_folder, steps=100_000, workers=2)
    run = torchrun("train", tmp_path / "recipe.yaml", tmp_path / "ended")
    log = tmp_path / "ended" / "training" / "log.jsonl"
    while run.poll() is None and not (log.exists() and len(log.read_text().splitlines()) >= 5):
        time.sleep(0.05)
    run.terminate()
    _, errors = run.communicate()
    assert "DataLoader" not in errors
    assert "Saved after step" in errors


def test_refusal_is_told_once(tmp_path: Path) -> None:
    recipe_of(tmp_path, tmp_path / "no-such-model")
    run = torchrun("train", tmp_path / "recipe.yaml", tmp_path / "out")
    _, errors = run.communicate()
    assert run.returncode != 0
    assert errors.count("There is no model folder") == 1
    (tmp_path / "recipe.yaml").write_text("name: [")
    _, errors = torchrun("run", tmp_path / "recipe.yaml", tmp_path / "out").communicate()
    assert errors.count("recipe.yaml, line") == 1


def assert_near(left: Path, right: Path, within: float = 1e-5) -> None:
    ours, theirs = read_log(left), read_log(right)
    assert [one["step"] for one in ours] == [other["step"] for other in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=within), one["step"]
