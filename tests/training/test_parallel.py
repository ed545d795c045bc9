"""Training in several processes: the same losses and weights as in one, and checkpoints that go from any number to any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from tests.tiny import tiny_tasks
from tests.training.jobs import run_jobs
from tests.training.stream import make_settings, read_log

pytestmark = pytest.mark.slow

VARIANTS: dict[str, dict[str, Any]] = {
    "ddp": {"dev_every": 3},
    "ddp_adafactor": {"optimizer": "adafactor"},
    "ddp_lora": {"method": "lora", "lora_rank": 4},
    "fsdp": {"parallel": "fsdp"},
    "fsdp_lora": {"parallel": "fsdp", "method": "lora", "lora_rank": 4},
    # Rarely more than one example in a micro-batch, so that processes differ in how many they have.
    "fsdp_small": {"parallel": "fsdp", "micro_batch_tokens": 90, "dev_every": 3},
}


@pytest.fixture(scope="module")
def runs(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All variants by one process and by two, and each stopped by one number of processes and ended by the other."""
    folder = tmp_path_factory.mktemp("parallel")
    tiny_tasks(folder / "tasks")

    def jobs(prefix: str, stop_at: int | None = None) -> list[dict[str, Any]]:
        return [{"name": f"{prefix}_{name}", "settings": VARIANTS[name], "stop_at": stop_at} for name in VARIANTS]

    def run(processes: int, wanted: list[dict[str, Any]]) -> None:
        run_jobs(processes, tiny_folder, folder / "tasks", wanted, folder)

    run(1, [*jobs("one"), *jobs("from_one", stop_at=3)])
    run(2, [*jobs("two"), *jobs("from_two", stop_at=6), *jobs("from_one")])
    run(1, jobs("from_two"))
    return folder


def assert_near(folder: Path, left: str, right: str) -> None:
    ours, theirs = read_log(folder / left), read_log(folder / right)
    assert len(ours) == len(theirs) == 8
    for one, other in zip(ours, theirs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)
        assert one.get("dev_loss", {}) == pytest.approx(other.get("dev_loss", {}), rel=1e-5)
        for name in ("step", "examples", "tokens", "target_tokens", "learning_rate"):
            assert one[name] == other[name]
    ours, theirs = load_file(folder / f"{left}.safetensors"), load_file(folder / f"{right}.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("name", VARIANTS)
def test_two_processes_train_as_one_does(name: str, runs: Path) -> None:
    assert_near(runs, f"two_{name}", f"one_{name}")


@pytest.mark.parametrize("name", VARIANTS)
def test_what_one_process_saved_two_go_on_with(name: str, runs: Path) -> None:
    assert_near(runs, f"from_one_{name}", f"one_{name}")


@pytest.mark.parametrize("name", VARIANTS)
def test_what_two_processes_saved_one_goes_on_with(name: str, runs: Path) -> None:
    assert_near(runs, f"from_two_{name}", f"one_{name}")


def test_each_process_of_fsdp_writes_its_part_alone(runs: Path) -> None:
    whole = load_file(max((runs / "one_fsdp").glob("step-*")) / "trained.safetensors")
    checkpoint = max((runs / "two_fsdp").glob("step-*"))
    parts = [load_file(checkpoint / f"trained-0000{number}-of-00002.safetensors") for number in (1, 2)]
    assert not (checkpoint / "trained.safetensors").exists()
    for name, tensor in whole.items():
        pieces = [part[name] for part in parts if name in part]
        assert [len(piece) for piece in pieces] == [-(-len(tensor) // 2), len(tensor) // 2]
        torch.testing.assert_close(torch.cat(pieces), tensor, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_divided_is_refused_under_fsdp() -> None:
    with pytest.raises(ValidationError, match="adafactor needs whole weights"):
        make_settings(parallel="fsdp", optimizer="adafactor")
    with pytest.raises(ValidationError, match="a soft prompt cannot be divided"):
        make_settings(parallel="fsdp", method="prompt")
