"""Files that are written completely or not at all, and what a kill leaves of them."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from flanlab.files import new_file, new_folder


def write_and_die(path: Path, is_folder: bool) -> None:
    """In a child process, which is killed when all is written and nothing is in its place yet."""
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        return
    with (new_folder if is_folder else new_file)(path) as temporary:
        (temporary / "inside" if is_folder else temporary).write_text("new")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("is_folder", [False, True], ids=["file", "folder"])
def test_what_a_killed_process_left_goes_with_the_next_that_writes_there(is_folder: bool, tmp_path: Path) -> None:
    path = tmp_path / "model [1]"
    write_and_die(path, is_folder)
    [leftover] = tmp_path.iterdir()
    assert leftover.name.startswith(".")
    with (new_folder if is_folder else new_file)(path) as temporary:
        (temporary / "inside" if is_folder else temporary).write_text("whole")
    assert list(tmp_path.iterdir()) == [path]


def test_what_another_process_deletes_at_the_same_time_is_gone_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_and_die(tmp_path / "model", True)
    delete = shutil.rmtree

    def delete_twice(path: Path, **how: bool) -> None:
        delete(path, ignore_errors=True)
        delete(path, **how)

    monkeypatch.setattr(shutil, "rmtree", delete_twice)
    with new_folder(tmp_path / "model"):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    write_and_die(tmp_path / "results.json", False)
    [leftover] = tmp_path.iterdir()
    dead = leftover.name.split(".")[-2]
    others = [leftover.with_name(leftover.name.replace(f".{dead}.", f".{process}.")) for process in (os.getppid(), "x", "")]
    others.append(leftover.with_name(leftover.name.replace("results", "other")))
    for other in others:
        other.write_text("half")
    with new_file(tmp_path / "results.json") as temporary:
        temporary.write_text("whole")
    assert set(tmp_path.iterdir()) == {tmp_path / "results.json", *others}
