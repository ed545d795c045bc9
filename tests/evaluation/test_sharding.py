"""Several processes: equal shares, the same predictions as one makes, and an end when one of them is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flanlab.errors import FlanlabError
from flanlab.evaluation import predict, sharding
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.evaluation.sharding import Team, team_in
from flanlab.experiments.evaluate_model import evaluate_model
from flanlab.files import read_json
from flanlab.models.completions import Endpoint
from flanlab.processes import owners, world_size
from tests.command import flan
from tests.tiny import tiny_tasks, write_tasks

pytestmark = pytest.mark.slow

# The command line, with small shards; STOP_AFTER kills this very process when it has made so many of them.
WORKER = """
import os, signal
from flanlab.cli.main import main
from flanlab.evaluation import predict, sharding

predict._QUESTIONS_PER_SHARD = predict._QUESTIONS_OF_FIRST_SHARD = 4
sharding._SECONDS_BETWEEN_BEATS = 0.2
sharding._SILENCE_SECONDS = float(os.environ.get("SILENCE", 90))
left = int(os.environ.get("STOP_AFTER", 1000))
predict_shard = predict.predict_shard

def counted(*arguments):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    predict_shard(*arguments)

predict.predict_shard = counted
main()
"""


@given(st.lists(st.floats(0, 1e6), max_size=60), st.integers(1, 9))
def test_shares_are_balanced(costs: list[float], count: int) -> None:
    owner = owners(costs, count)
    assert owner == owners(costs, count)
    loads = [sum(cost for cost, one in zip(costs, owner, strict=True) if one == rank) for rank in range(count)]
    assert sum(loads) == pytest.approx(sum(costs))
    # Nobody takes anything on who has more to do than another.
    assert max(loads) - min(loads) <= max(costs, default=0) * (1 + 1e-9)


def test_long_work_is_shared_out_first() -> None:
    assert owners([1, 1, 1, 1, 4], 2) == [1, 1, 1, 1, 0]


def command(folder: Path, out: Path, model: Path) -> list[str]:
    return ["eval", "comments", "counting", "--tasks", str(folder), "--model", str(model), "--out", str(out)]


def two(asked: list[str], *environments: dict[str, str]) -> list[Any]:
    """Two processes of `flan eval`, ended: (exit status, standard output, standard error) of each."""
    alike = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, *asked],
            env={**alike, "RANK": str(rank), "LOCAL_RANK": str(rank), **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, own in enumerate(environments)
    ]
    outputs = [process.communicate() for process in running]
    return [(process.returncode, *output) for process, output in zip(running, outputs, strict=True)]


def contents(out: Path) -> dict[str, Any]:
    """Every file of predictions: its rows, scores to the last digit, and its key."""
    found = {}
    for path in sorted((out / "predictions").rglob("*.parquet")):
        table = pq.read_table(path)
        found[str(path.relative_to(out))] = table.to_pylist(), table.schema.metadata
    return found


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums of another number of threads differ in their last digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_any_number_of_processes_makes_the_same_predictions_whoever_dies(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process, which is this one; two; and two of which one is killed, gone on with by one."""
    monkeypatch.setattr(predict, "_QUESTIONS_PER_SHARD", 4)
    monkeypatch.setattr(predict, "_QUESTIONS_OF_FIRST_SHARD", 4)
    tasks = write_tasks(tmp_path / "tasks")
    status, _, error = flan(*command(tasks, tmp_path / "one", tiny_folder))
    assert status == 0, error
    whole = contents(tmp_path / "one")
    assert len(whole) == 8 + 4

    (first, printed, told), (second, *quiet) = two(command(tasks, tmp_path / "two", tiny_folder), {}, {})
    assert (first, second) == (0, 0), (told, quiet)
    assert "Report:" in printed
    assert "46/46" in told, "it counts the other's questions too"
    assert quiet == ["", ""]
    assert contents(tmp_path / "two") == whole
    assert read_json(tmp_path / "two" / "results.json") == read_json(tmp_path / "one" / "results.json")

    out = tmp_path / "killed"
    (first, printed, told), (second, *_) = two(command(tasks, out, tiny_folder), {"SILENCE": "10"}, {"STOP_AFTER": "2"})
    assert first == 1
    assert second < 0
    assert "Of 2 processes (0 to 1), process 1 has given no sign of life for 10 s" in told
    assert "Traceback" not in told
    assert "the same command goes on" in told
    some = contents(out)
    assert 0 < len(some) < len(whole)
    before = {path: (out / path).stat().st_mtime_ns for path in some}
    status, _, error = flan(*command(tasks, out, tiny_folder))
    assert status == 0, error
    assert contents(out) == whole
    assert {path: (out / path).stat().st_mtime_ns for path in some} == before, "what was done is not done again"


def test_a_process_is_gone_when_its_file_is_or_changes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(sharding.time, "monotonic", lambda: now)
    (tmp_path / ".processes").mkdir()
    signs = {rank: tmp_path / ".processes" / str(rank) for rank in (1, 2, 3)}
    signs[3].write_text("left over from a process that was killed")
    team = Team(tmp_path, 0, 4)
    for moment in range(0, 400, 60):
        now = float(moment)
        signs[1].write_text(f"alive at {moment}")
        if moment == 60:
            signs[2].write_text("alive")
        if moment == 120:
            signs[2].unlink()
        gone = team.gone({1, 2, 3})
        assert 1 not in gone
        assert gone.get(2) == ("has ended" if moment >= 120 else None)
        assert (3 in gone) == (moment > 90), "a file that nobody changes is no sign of life"


@pytest.mark.parametrize(("rank", "gone", "speaks"), [(0, [1], True), (2, [1], False), (1, [0], True), (2, [0], False)])
def test_one_process_tells_that_others_are_gone(rank: int, gone: list[int], speaks: bool, tmp_path: Path) -> None:
    with pytest.raises(FlanlabError if speaks else SystemExit) as caught:
        Team(tmp_path, rank, 3).end_without(dict.fromkeys(gone, "has ended"))
    if speaks:
        assert f"process {gone[0]} has ended" in str(caught.value)
    else:
        assert caught.value.code == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("rank", [0, 1])
def test_launcher_that_ends_a_process_is_told_of_once(rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    before = signal.getsignal(signal.SIGTERM)
    try:
        team_in(tmp_path)
        with pytest.raises(FlanlabError if rank == 0 else SystemExit) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "the same command goes on" in str(caught.value) or rank == 1


@pytest.mark.parametrize(("rank", "count"), [("2", "2"), ("-1", "2"), (None, "2"), ("one", "2"), ("0", "many")])
def test_environment_that_makes_no_sense(rank: str | None, count: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", count)
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(FlanlabError, match=f"RANK={rank} and WORLD_SIZE={count}"):
        team_in(tmp_path)
    with pytest.raises(FlanlabError, match=f"RANK={rank} and WORLD_SIZE={count}"):
        world_size()


def test_an_endpoint_is_asked_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flanlab.experiments.evaluate_model.team_in", lambda folder: Team(folder, 0, 2))
    with pytest.raises(FlanlabError, match="by one process") as caught:
        evaluate_model(
            "m", tiny_tasks(tmp_path), EvaluationSettings(), tmp_path / "out", endpoint=Endpoint("http://127.0.0.1:1/v1")
        )
    assert "--parallel" in caught.value.hint
