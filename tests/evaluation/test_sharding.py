"""Several processes make the same predictions as one does, whoever dies."""

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
from filelock import FileLock

from flanlab.data.sources import load_rows
from flanlab.errors import FlanlabError
from flanlab.evaluation import predict
from flanlab.evaluation.planning import EvaluationSettings, Setup, plan_task
from flanlab.experiments.evaluate_model import evaluate_model
from flanlab.files import read_json
from flanlab.models.completions import Endpoint
from flanlab.models.loading import LoadedModel
from flanlab.processes import end_with_others, world_size
from tests.command import flan
from tests.tiny import tiny_tasks, write_tasks

pytestmark = pytest.mark.slow

# The command line, with small shards; STOP_AFTER kills this very process when it has made so many of them.
WORKER = """
import os, signal
from flanlab.cli.main import main
from flanlab.evaluation import predict

predict._QUESTIONS_PER_SHARD = predict._QUESTIONS_OF_FIRST_SHARD = 4
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
    """One process, which is this one; two; two of which one is killed; and two that are killed, resumed by one."""
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
    # It says nothing if the other has answered all questions before it looks.
    assert "46/46" in told or "prompt" not in told, "it counts the other's questions too"
    assert quiet == ["", ""]
    assert contents(tmp_path / "two") == whole
    assert read_json(tmp_path / "two" / "results.json") == read_json(tmp_path / "one" / "results.json")

    (first, printed, told), (second, *_) = two(command(tasks, tmp_path / "killed", tiny_folder), {}, {"STOP_AFTER": "2"})
    assert first == 0, told
    assert second < 0
    assert "Report:" in printed
    assert contents(tmp_path / "killed") == whole, "the first does what the second has left"

    out = tmp_path / "both killed"
    ended = two(command(tasks, out, tiny_folder), {"STOP_AFTER": "1"}, {"STOP_AFTER": "2"})
    assert all(status < 0 for status, *_ in ended)
    some = contents(out)
    assert 0 < len(some) < len(whole)
    before = {path: (out / path).stat().st_mtime_ns for path in some}
    status, _, error = flan(*command(tasks, out, tiny_folder))
    assert status == 0, error
    assert contents(out) == whole
    assert {path: (out / path).stat().st_mtime_ns for path in some} == before, "what was done is not done again"
    for folder in ("two", "killed", "both killed"):
        assert not [*(tmp_path / folder).rglob("*.lock")], "no lock is left"


def test_a_shard_is_left_to_the_process_that_works_on_it(
    tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    settings = EvaluationSettings(rows=2, new_tokens=5)
    task = tiny_tasks(tmp_path / "tasks")[0]
    setup = Setup(tiny, settings)
    shard = predict.shards_of(setup, plan_task(task, load_rows(task, "test"), settings, 0), tmp_path / "out")[0]
    shard.path.parent.mkdir()
    with FileLock(shard.path.parent / ".shard-00000.lock"):
        assert not predict._predict_if_free(setup, shard)
        assert not shard.is_done
    assert predict._predict_if_free(setup, shard)
    assert shard.is_done
    assert not predict._predict_if_free(setup, shard), "it is done"


@pytest.mark.parametrize("rank", [0, 1])
def test_launcher_that_ends_a_process_is_told_of_once(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    before = signal.getsignal(signal.SIGTERM)
    try:
        end_with_others()
        with pytest.raises(FlanlabError if rank == 0 else SystemExit) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "the same command resumes" in str(caught.value) or rank == 1


@pytest.mark.parametrize(("rank", "count"), [("2", "2"), ("-1", "2"), (None, "2"), ("one", "2"), ("0", "many")])
def test_environment_that_makes_no_sense(rank: str | None, count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", count)
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(FlanlabError, match=f"RANK={rank} and WORLD_SIZE={count}"):
        end_with_others()
    with pytest.raises(FlanlabError, match=f"RANK={rank} and WORLD_SIZE={count}"):
        world_size()


def test_an_endpoint_is_asked_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr("flanlab.experiments.evaluate_model.end_with_others", lambda: None)
    with pytest.raises(FlanlabError, match="by one process") as caught:
        evaluate_model(
            "m", tiny_tasks(tmp_path), EvaluationSettings(), tmp_path / "out", endpoint=Endpoint("http://127.0.0.1:1/v1")
        )
    assert "--parallel" in caught.value.hint
