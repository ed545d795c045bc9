"""How tasks stand while they are evaluated."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from flanlab.data.sources import load_rows
from flanlab.evaluation import predict
from flanlab.evaluation.planning import EvaluationSettings, Setup, plan_task
from flanlab.evaluation.predict import RunningScores, predict_tasks
from flanlab.evaluation.scores import score_task
from flanlab.models.loading import LoadedModel
from flanlab.progress import Meter
from flanlab.results.files import read_predictions
from tests.tiny import tiny_tasks

SETTINGS = EvaluationSettings(rows=8, new_tokens=5)


def test_scores_are_told_part_by_part_and_end_at_the_result(
    tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in ("_QUESTIONS_PER_SHARD", "_QUESTIONS_OF_FIRST_SHARD"):
        monkeypatch.setattr(predict, number, 5)
    units = [plan_task(task, load_rows(task, "test"), SETTINGS, 0) for task in tiny_tasks(tmp_path / "tasks")]
    told: list[str] = []
    counted: list[int] = []

    class Listening(Meter):
        def __init__(self, title: str, total: int, done: int = 0) -> None:
            super().__init__(title, total, done)
            counted.append(done)

        def advance(self, amount: int = 1, notes: str = "") -> None:
            counted.append(amount)
            told.append(notes)

    monkeypatch.setattr(predict, "meter", lambda *of: nullcontext(Listening(*of)))
    said: list[str] = []
    monkeypatch.setattr(predict, "say", said.append)

    def evaluate() -> None:
        told.clear()
        counted.clear()
        predict_tasks(Setup(tiny, SETTINGS), units, tmp_path / "out", "test")

    evaluate()
    assert counted == [0, 5, 5, 5, 5, 4, 5, 5, 5, 1]
    predictions = [read_predictions(tmp_path / "out" / unit.task.name).to_pylist() for unit in units]
    scored = [score_task(unit.task, {"v": rows}) for unit, rows in zip(units, predictions, strict=True)]
    means = [task.estimates[task.facts.main_metric]["v"].mean for task in scored]
    whole = told.copy()
    assert whole[4] == f"comments: accuracy {100 * means[0]:.1f} % after 24"
    assert whole[8] == f"counting: exact match {100 * means[1]:.1f} % after 16"
    assert [note.rsplit(maxsplit=1)[1] for note in whole[:5]] == ["5", "10", "15", "20", "24"]

    assert said == [f"  {whole[4]}"], "a task that is done is told in a line of its own, but for the last"

    # A task half done is told as a whole; one that is finished is not told again.
    (tmp_path / "out" / "comments" / "shard-00002.parquet").unlink()
    evaluate()
    assert counted == [35, 5]
    assert told == [whole[4]]


def test_any_metric_has_something_to_tell(tiny: LoadedModel, tmp_path: Path) -> None:
    comments, _ = tiny_tasks(tmp_path / "tasks")
    task = comments.model_copy(update={"metrics": ["matthews", "accuracy"]})
    unit = plan_task(task, load_rows(task, "test"), SETTINGS, 0)
    running: Any = RunningScores(end_token=True)
    setup = Setup(tiny, SETTINGS)
    for shard in predict.shards_of(setup, unit, tmp_path / "out"):
        predict.predict_shard(setup, shard)
        assert running.take_in(shard).startswith("comments: Matthews correlation ")
