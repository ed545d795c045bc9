"""`flan ablate`: what it prints, its exit status, and that it goes on after Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flanlab.cli.main import app
from flanlab.errors import FlanlabError
from flanlab.experiments import steps
from flanlab.experiments.folders import read_sweep_facts
from tests.experiments.test_sweep import base_recipe
from tests.tiny import tiny_folder, tiny_folders

pytestmark = pytest.mark.slow

__all__ = ["tiny_folder", "tiny_folders"]


@pytest.fixture
def command(tmp_path: Path, tiny_folder: Path) -> list[str]:
    base_recipe(tmp_path, tiny_folder)
    return ["ablate", "clusters", str(tmp_path / "base.yaml"), "--out", str(tmp_path / "out"), "--points", "1,2"]


def test_the_plan_costs_nothing(command: list[str], tmp_path: Path) -> None:
    told = CliRunner().invoke(app, [*command, "--plan"], env={"COLUMNS": "100"})
    assert told.exit_code == 0
    assert re.search(r"clusters-1 +\d+ +6 ", told.stdout)
    assert "To do: 2 trainings and 3 evaluations" in told.stdout
    assert not (tmp_path / "out").exists()
    for machines in (["--plan", "--json"], ["--dry-run", "--json"]):
        plan = json.loads(CliRunner().invoke(app, [*command, *machines]).stdout)
        assert [cell["state"] for cell in plan["cells"]] == ["waiting"] * 3
        assert [len(cell["folders"]) for cell in plan["cells"]] == [1, 2, 2]
        assert all(row["seconds"] > 0 for row in plan["plan"])


def test_a_sweep_from_plan_to_page(command: list[str], tmp_path: Path) -> None:
    told = CliRunner().invoke(app, [*command, "--json"])
    assert told.exit_code == 0
    sweep = json.loads(told.stdout)
    assert {cell["state"] for cell in sweep["cells"]} == {"done"}
    folder = tmp_path / "out" / "clusters-tiny-1-2"
    page = (folder / "report.html").read_text(encoding="utf-8")
    links = re.findall(r'href="(\.\./[^"]+)"', page)
    assert len(links) == 3 + 2  # a report of each cell, and the recipe of each training
    assert all((folder / link).is_file() for link in links)
    # The page can be made again, and a second sweep has nothing to do.
    assert CliRunner().invoke(app, ["report", str(folder)]).stdout.strip() == str(folder / "report.html")
    again = CliRunner().invoke(app, command)
    assert "Everything is done already." in again.stdout
    assert f"Page: {folder / 'report.html'}" in again.stdout


def test_a_failing_cell_is_told_at_the_end(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = steps._train

    def breaks(step: steps.Step) -> None:
        if step.title == "train on 2 tasks":
            raise FlanlabError("the loss is no number", hint="lower the learning rate")
        train(step)

    monkeypatch.setattr(steps, "_train", breaks)
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 1
    assert "Failed: clusters-1: the loss is no number" in told.output
    assert "1 cell failed" in told.stdout
    page = (tmp_path / "out" / "clusters-tiny-1-2" / "report.html").read_text(encoding="utf-8")
    assert "lower the learning rate" in page
    assert page.count('class="failed"') == 1


def test_options_of_ray_need_ray(command: list[str]) -> None:
    assert CliRunner().invoke(app, [*command, "--gpus", "1"]).exit_code == 2


def test_gpus_of_a_cell_are_those_of_all_its_processes(command: list[str]) -> None:
    told = CliRunner().invoke(app, [*command, "--engine", "ray", "--gpus", "1", "--processes", "2"])
    assert told.exit_code == 2
    assert "its 2 processes" in " ".join(told.output.replace("│", " ").split())


def test_several_processes_are_sent_to_the_right_options(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = CliRunner().invoke(app, [*command, "--plan"])
    assert isinstance(refused.exception, FlanlabError)
    assert "--processes" in refused.exception.hint


def test_a_plan_in_a_pipe_is_not_cut_off(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    base_recipe(tmp_path, tiny_folder)
    names = ["ablate", "prompt-tuning", str(tmp_path / "base.yaml"), "--out", str(tmp_path / "out"), "--points", "12345678"]
    told = CliRunner().invoke(app, [*names, "--plan"])
    assert re.search(r"untuned-12345678-everyday-entailment +\d+ .* waiting\b", told.stdout)
    assert "…" not in told.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="signals and terminals are Unix's")
def test_a_terminal_shows_progress_and_ctrl_c_leaves_all_resumable(command: list[str], tmp_path: Path) -> None:
    """A real process on a terminal of its own."""
    source = str(Path(__file__).parents[2] / "src")
    master, slave = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": source, "TERM": "xterm", "COLUMNS": "100", "LINES": "50"}
    process = subprocess.Popen(
        [sys.executable, "-m", "flanlab", *command], stdin=slave, stdout=slave, stderr=slave, env=environment, close_fds=True
    )
    os.close(slave)
    shown = b""
    interrupted = False
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # the process has closed its end
            break
        if not chunk:
            break
        shown += chunk
        if not interrupted and re.search(rb"evaluate untuned: done", re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", shown)):
            interrupted = True
            process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    os.close(master)
    assert interrupted, shown[-2000:]
    assert process.wait() != 0
    assert b"the same command resumes it" in shown
    assert read_sweep_facts(tmp_path / "out" / "clusters-tiny-1-2").cells[0].state == "done"
    told = CliRunner().invoke(app, [*command, "--json"])
    assert {cell["state"] for cell in json.loads(told.stdout)["cells"]} == {"done"}
