"""Trainings of the tiny model in a process of their own, or several: `python -m tests.training.jobs FILE`, or torchrun."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from flanlab.models.loading import load_model
from flanlab.processes import is_first, together
from flanlab.training import trainer
from flanlab.training.parallel import whole_weights
from tests.training.stream import make_settings, read_mixture, train_tiny

REPOSITORY = Path(__file__).parents[2]


def start(processes: int, module: str, *arguments: object) -> list[subprocess.Popen[str]]:
    """Start a module in several processes that find each other as torchrun's do."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "src")])
    common = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]


def run_jobs(processes: int, model: Path, tasks: Path, jobs: list[dict[str, Any]], folder: Path) -> None:
    """Carry out trainings, one after the other; each is a name, settings, and where to stop as if by Ctrl-C.

    Log and checkpoints are left in folder/<name>, the whole weights in folder/<name>.safetensors.
    """
    if processes == 1:
        carry_out_all(jobs, model, tasks, folder)
        return
    path = folder / "jobs.json"
    path.write_text(json.dumps({"model": str(model), "tasks": str(tasks), "jobs": jobs}), encoding="utf-8")
    started = start(processes, "tests.training.jobs", path)
    ended = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0] * processes, "\n\n".join(err[-3000:] for _, err in ended)


def _carry_out(job: dict[str, Any], model: str, tasks: Path, folder: Path) -> None:
    original = trainer.train_step
    stop_at = job.get("stop_at")

    def stopping(*args: Any) -> tuple[float, float]:
        if stop_at is not None and args[-1] == settings.learning_rate_at(stop_at):
            raise KeyboardInterrupt
        return original(*args)

    settings = make_settings(**{"checkpoint_minutes": 1e6, **job["settings"]})
    loaded = load_model(model, device="cpu")
    if job.get("bfloat16"):
        loaded.model.bfloat16()
    trainer.train_step = stopping
    try:
        trained = train_tiny(loaded, read_mixture(tasks), settings, folder / job["name"])
    except KeyboardInterrupt:
        assert (folder / job["name"] / f"step-{stop_at:06d}").is_dir()
        return
    finally:
        trainer.train_step = original
    weights = whole_weights(trained)
    if weights is None:
        weights = trained.state_dict()
    if is_first():
        # The output layer is tied to the embedding.
        untied = {name: value.contiguous() for name, value in weights.items() if not name.endswith("lm_head.weight")}
        save_file(untied, folder / f"{job['name']}.safetensors")


def carry_out_all(jobs: list[dict[str, Any]], model: Path, tasks: Path, folder: Path) -> None:
    for job in jobs:
        with together():
            _carry_out(job, str(model), tasks, folder)


def main() -> None:
    torch.set_num_threads(1)
    path = Path(sys.argv[1])
    content = json.loads(path.read_text(encoding="utf-8"))
    carry_out_all(content["jobs"], content["model"], Path(content["tasks"]), path.parent)


if __name__ == "__main__":
    main()
