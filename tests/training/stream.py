"""A tiny training stream, and what a training run left behind."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from flanlab.data.mixture import Mixture, MixtureSettings
from flanlab.data.sources import load_rows
from flanlab.models.loading import LoadedModel
from flanlab.tasks.loading import load_task
from flanlab.training.settings import TrainingSettings
from flanlab.training.stream import dev_examples
from flanlab.training.trainer import train
from tests.tiny import tiny_tasks

STAMP = {"tasks": {"comments": {}, "counting": {}}, "note": "a stamp"}
KEY = "key of these settings"


def make_mixture(folder: Path) -> Mixture:
    """The stream over both tiny tasks, written into `folder`."""
    tiny_tasks(folder)
    return read_mixture(folder)


def read_mixture(folder: Path) -> Mixture:
    """The stream over both tiny tasks that `folder` holds."""
    tasks = [load_task(folder / f"{name}.yaml") for name in ("comments", "counting")]
    return Mixture(tasks, {task.name: load_rows(task, "train") for task in tasks}, MixtureSettings(), seed=4)


def make_settings(**changes: Any) -> TrainingSettings:
    """Eight short steps; a checkpoint after each unless changed."""
    values: dict[str, Any] = {
        "steps": 8,
        "tokens_per_step": 160,
        "micro_batch_tokens": 128,
        "learning_rate": 5e-3,
        "warmup_steps": 2,
        "checkpoint_minutes": 1e-9,
        "compute_dtype": "float32",
    }
    return TrainingSettings(**{**values, **changes})


def train_tiny(loaded: LoadedModel, mixture: Mixture, settings: TrainingSettings, folder: Path, key: str = KEY) -> nn.Module:
    """Train with the stamp and key of these tests; the loss on dev, where it is measured, is that of test rows."""
    dev_rows = {task.name: load_rows(task, "test") for task in mixture.tasks}
    dev = dev_examples(mixture.tasks, dev_rows, mixture.rows, mixture.settings, mixture.seed, loaded.encoder, 5)
    return train(loaded, mixture, settings, folder=folder, training_key=key, stamp=STAMP, dev=dev)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The training log without what time it took."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if "seconds" not in name} for line in lines]


def last_checkpoint(folder: Path) -> Path:
    """The newest checkpoint there is."""
    return max(folder.glob("step-*"))


def in_a_child(action: Callable[[], object]) -> int:
    """Do something in a forked process, which may kill itself or limit itself; gives its exit code, or minus its signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        torch.set_num_threads(1)  # a fork does not take others with it
        action()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def weights(folder: Path) -> dict[str, Tensor]:
    """Trained weights in the newest checkpoint of a training folder."""
    return dict(load_file(last_checkpoint(folder) / "trained.safetensors"))


def assert_same_training(left: Path, right: Path) -> None:
    """Both folders hold the same log and, bit for bit, the same weights and optimizer state."""
    assert read_log(left) == read_log(right)
    assert last_checkpoint(left).name == last_checkpoint(right).name
    for name in ("trained", "optimizer"):
        ours = load_file(last_checkpoint(left) / f"{name}.safetensors")
        theirs = load_file(last_checkpoint(right) / f"{name}.safetensors")
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            assert torch.equal(tensor, theirs[key]), f"{name}: {key}"
