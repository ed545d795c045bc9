"""Checkpoints: whole or not at all, the newest alone, and never another recipe's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from flanlab.errors import FlanlabError
from flanlab.training.checkpoints import Progress, load_latest, save_checkpoint, trained_tensors

KEY = "key"


def make(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    model[0].bias.requires_grad_(False)
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=0.1)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.linspace(-1, 1, 8).reshape(2, 4)).square().sum().backward()
    optimizer.step()


def saved(folder: Path, steps: int = 3) -> Path:
    model, optimizer = make(1)
    for _ in range(steps):
        step(model, optimizer)
    return save_checkpoint(folder, model, optimizer, Progress(steps, KEY), {"tasks": {}})


def test_nothing_to_go_on_with(tmp_path: Path) -> None:
    model, optimizer = make(1)
    assert load_latest(tmp_path / "none", model, optimizer, KEY) is None


def test_restored_training_takes_the_same_next_step(tmp_path: Path) -> None:
    model, optimizer = make(1)
    for _ in range(3):
        step(model, optimizer)
    save_checkpoint(tmp_path, model, optimizer, Progress(3, KEY), {})
    other, other_optimizer = make(2)
    other[0].bias.data.copy_(model[0].bias)  # type: ignore[index]
    assert load_latest(tmp_path, other, other_optimizer, KEY) == Progress(3, KEY)
    step(model, optimizer)
    step(other, other_optimizer)
    for left, right in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)


def test_only_trained_parameters_are_kept(tmp_path: Path) -> None:
    model, _ = make(1)
    assert sorted(trained_tensors(model)) == ["0.weight", "1.bias", "1.weight"]


def test_newest_replaces_older_and_clears_leftovers(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    (tmp_path / ".step-000003.abcd").mkdir()
    (tmp_path / "log.jsonl").write_text("", encoding="utf-8")
    saved(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "step-000003"]


def test_newest_is_by_number_not_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path, 2)
    shutil.copytree(path, tmp_path / "step-1000000")
    record = json.loads((path / "progress.json").read_text())
    (tmp_path / "step-1000000" / "progress.json").write_text(json.dumps({**record, "step": 1_000_000}))
    path.rename(tmp_path / "step-999999")
    assert load_latest(tmp_path, *make(1), KEY) == Progress(1_000_000, KEY)


def test_write_that_fails_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 2)

    def full(*args: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("flanlab.training.checkpoints.write_json", full)
    with pytest.raises(OSError, match="No space"):
        saved(tmp_path, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]


@pytest.mark.parametrize("name", ["trained.safetensors", "optimizer.safetensors", "progress.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "gone"])
def test_damage_is_told_with_the_folder(name: str, damage: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    if damage == "gone":
        (path / name).unlink()
    else:
        content = (path / name).read_bytes()
        (path / name).write_bytes(content[:-20] if damage == "cut" else b"")
    with pytest.raises(FlanlabError, match="is damaged") as caught:
        load_latest(tmp_path, *make(1), KEY)
    assert str(path) in caught.value.message
    assert f"Delete {path}" in caught.value.mend


@pytest.mark.parametrize("text", ["{}", "[]", "3"])
def test_progress_without_its_fields_is_damage(text: str, tmp_path: Path) -> None:
    (saved(tmp_path) / "progress.json").write_text(text, encoding="utf-8")
    with pytest.raises(FlanlabError, match="is damaged"):
        load_latest(tmp_path, *make(1), KEY)


def test_other_settings_are_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    path = saved(tmp_path)
    model, optimizer = make(2)
    before = [value.detach().clone() for value in model.parameters()]
    with pytest.raises(FlanlabError, match="another recipe, data or version") as caught:
        load_latest(tmp_path, model, optimizer, "another key")
    assert "--out" in caught.value.mend
    assert path.is_dir()
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
