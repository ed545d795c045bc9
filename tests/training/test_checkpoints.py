"""Checkpoints: whole or not at all, the newest two, as they were written, and never another recipe's."""

from __future__ import annotations

import errno
import resource
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from flanlab.errors import FlanlabError
from flanlab.training.checkpoints import load_latest, save_checkpoint, trained_tensors
from tests.training.stream import in_a_child

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
    for _ in range(min(steps, 5)):
        step(model, optimizer)
    return save_checkpoint(folder, model, optimizer, steps, KEY, {"tasks": {}})


def test_nothing_to_go_on_with(tmp_path: Path) -> None:
    model, optimizer = make(1)
    assert load_latest(tmp_path / "none", model, optimizer, KEY) == 0


def test_restored_training_takes_the_same_next_step(tmp_path: Path) -> None:
    model, optimizer = make(1)
    for _ in range(3):
        step(model, optimizer)
    save_checkpoint(tmp_path, model, optimizer, 3, KEY, {})
    other, other_optimizer = make(2)
    other[0].bias.data.copy_(model[0].bias)  # type: ignore[index]
    assert load_latest(tmp_path, other, other_optimizer, KEY) == 3
    step(model, optimizer)
    step(other, other_optimizer)
    for left, right in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)


def test_only_trained_parameters_are_kept(tmp_path: Path) -> None:
    model, _ = make(1)
    assert sorted(trained_tensors(model)) == ["0.weight", "1.bias", "1.weight"]


def test_newest_two_are_kept_and_leftovers_cleared(tmp_path: Path) -> None:
    for steps in (1, 2):
        saved(tmp_path, steps)
    (tmp_path / ".step-000003.partial").mkdir()
    (tmp_path / "log.jsonl").write_text("", encoding="utf-8")
    saved(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "step-000002", "step-000003"]


def test_newest_is_by_number_not_by_name(tmp_path: Path) -> None:
    saved(tmp_path, 999_999)
    saved(tmp_path, 1_000_000)
    assert load_latest(tmp_path, *make(1), KEY) == 1_000_000


def test_write_that_fails_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 2)

    def failing(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("flanlab.training.checkpoints.write_json", failing)
    with pytest.raises(OSError, match="Input/output error"):
        saved(tmp_path, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]


def test_full_disk_is_told_before_a_byte_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 2)
    before = {path: path.read_bytes() for path in (tmp_path / "step-000002").iterdir()}
    usage = shutil.disk_usage(tmp_path)._replace(free=300)
    monkeypatch.setattr("flanlab.training.checkpoints.shutil.disk_usage", lambda _: usage)
    # 38 numbers are trained, and AdamW keeps two more for each, and three counts: 4 bytes each.
    with pytest.raises(FlanlabError, match="the disk is full") as caught:
        saved(tmp_path, 3)
    assert "Step 3 could not be saved" in caught.value.message
    assert "step-000002 is kept" in caught.value.message
    assert "same command" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]
    assert {path: path.read_bytes() for path in (tmp_path / "step-000002").iterdir()} == before


@pytest.mark.parametrize("limit", [100, 500])
def test_write_that_finds_no_room_halfway_leaves_the_older_one(limit: int, tmp_path: Path) -> None:
    """A real limit of the system, in the middle of the weights and in the middle of the optimizer's state."""
    saved(tmp_path, 2)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(FlanlabError, match="the disk is full"):
            saved(tmp_path, 3)

    assert in_a_child(limited) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]
    assert load_latest(tmp_path, *make(1), KEY) == 2


FILES = ["trained.safetensors", "optimizer.safetensors", "progress.json", "flanlab.json"]


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
        return
    if how == "flipped":
        content[-3] ^= 1
    path.write_bytes({"cut": content[:-20], "empty": b"", "flipped": content}[how])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["cut", "empty", "flipped", "gone"])
def test_damage_is_told_and_the_checkpoint_before_it_is_taken(
    name: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, 2)
    expected = make(2)
    load_latest(tmp_path, *expected, KEY)
    path = saved(tmp_path, 3)
    damage(path / name, how)
    said: list[str] = []
    monkeypatch.setattr("flanlab.training.checkpoints.say", said.append)
    model, optimizer = make(2)
    assert load_latest(tmp_path, model, optimizer, KEY) == 2
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), expected[0].parameters(), strict=True))
    (warning,) = said
    assert f"{path}: is damaged ({name}" in warning
    assert "step-000002" in warning
    # The next one that is saved takes its place, and the sound one is kept beside it.
    save_checkpoint(tmp_path, model, optimizer, 3, KEY, {})
    assert sorted(found.name for found in tmp_path.iterdir()) == ["step-000002", "step-000003"]
    assert load_latest(tmp_path, *make(2), KEY) == 3


def test_damaged_checkpoints_alone_are_refused(tmp_path: Path) -> None:
    for steps in (2, 3):
        damage(saved(tmp_path, steps) / "trained.safetensors", "flipped")
    with pytest.raises(FlanlabError, match=r"step-000003: is damaged .*step-000002: is damaged") as caught:
        load_latest(tmp_path, *make(1), KEY)
    assert str(tmp_path) in caught.value.hint


def test_damage_beyond_the_one_before_it_is_cleared_away(tmp_path: Path) -> None:
    """Gone on from step 2, a damaged step 7 must not push out the sound one."""
    model, optimizer = make(1)
    saved(tmp_path, 2)
    damage(saved(tmp_path, 7) / "trained.safetensors", "cut")
    assert load_latest(tmp_path, model, optimizer, KEY) == 2
    save_checkpoint(tmp_path, model, optimizer, 3, KEY, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000003"]


@pytest.mark.parametrize("text", ["{}", "[]", "3"])
def test_progress_without_its_fields_is_damage(text: str, tmp_path: Path) -> None:
    (saved(tmp_path, 1) / "progress.json").write_text(text, encoding="utf-8")
    with pytest.raises(FlanlabError, match="is damaged"):
        load_latest(tmp_path, *make(1), KEY)


def test_other_settings_are_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    path = saved(tmp_path)
    model, optimizer = make(2)
    before = [value.detach().clone() for value in model.parameters()]
    with pytest.raises(FlanlabError, match="another recipe, data or version") as caught:
        load_latest(tmp_path, model, optimizer, "another key")
    assert "--out" in caught.value.hint
    assert path.is_dir()
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
