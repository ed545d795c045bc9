"""An evaluation with fewer options into the same folder: what was there stays in the results, or it is said why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flanlab.evaluation import predict as predict_module
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.experiments.evaluate_model import evaluate_model
from flanlab.models.loading import LoadedModel
from flanlab.results.files import read_results
from flanlab.results.schema import BEST_ON_DEV, Results
from flanlab.tasks.schema import Task
from tests.tiny import tiny_tasks

SETTINGS = EvaluationSettings(rows=4, templates_per_row=1, new_tokens=2, pmi=False)


@pytest.fixture
def tasks(tmp_path: Path) -> tuple[Task, Task]:
    return tiny_tasks(tmp_path / "tasks")


def evaluated(
    model: LoadedModel,
    tasks: Any,
    folder: Path,
    styles: Any = ("instruction",),
    settings: EvaluationSettings = SETTINGS,
    **more: Any,
) -> Results:
    found = evaluate_model(model, list(tasks), settings, folder, styles=styles, **more)
    assert found is not None
    assert found == read_results(folder)
    return found


def numbers(results: Results) -> set[tuple[Any, ...]]:
    """The tasks' scores."""
    return {
        (row.name, row.variant, row.metric, row.template, row.mean, row.low, row.high, row.std)
        for row in results.scores
        if row.level == "task"
    }


def test_variants_and_tasks_of_before_stay(
    tiny: LoadedModel,
    tasks: tuple[Task, Task],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = evaluated(tiny, tasks, tmp_path / "out", ("instruction", "chat"))

    def never(*args: Any) -> None:
        raise AssertionError("nothing is left to do")

    monkeypatch.setattr(predict_module, "predict_pairs", never)
    again = evaluated(tiny, tasks[:1], tmp_path / "out")
    assert numbers(again) == numbers(whole)
    assert set(again.variants) == {"instruction", "chat"}
    assert again.hold_out == whole.hold_out == ["miscellaneous", "sentiment"]
    means = {row.metric: row for row in whole.scores if row.level == "tasks" and row.variant == "chat"}
    assert means
    for metric, row in means.items():
        assert again.scored("tasks", None, metric)["chat"].mean == pytest.approx(row.mean)
    assert "from an earlier evaluation" in capsys.readouterr().err


def test_answers_after_exemplars_stay_where_none_are_asked_for_now(
    tiny: LoadedModel, tasks: tuple[Task, Task], tmp_path: Path
) -> None:
    shots = SETTINGS.model_copy(update={"shots": (0, 2)})
    whole = evaluated(tiny, tasks, tmp_path / "out", settings=shots)
    again = evaluated(tiny, tasks[:1], tmp_path / "out")
    assert set(again.variants) == {"instruction", "instruction_2_shot"}
    assert numbers(again) == numbers(whole)


def test_what_does_not_fit_is_named_and_left_out(
    tiny: LoadedModel, tasks: tuple[Task, Task], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(tiny, tasks[:1], tmp_path / "out", ("instruction", "chat"))
    more = evaluated(tiny, tasks, tmp_path / "out")
    assert (list(more.variants), list(more.tasks)) == (["instruction"], ["comments", "counting"])
    assert "chat (not asked about counting)" in capsys.readouterr().err.replace("\n", " ")
    fewer = evaluated(tiny, tasks[:1], tmp_path / "out", settings=SETTINGS.model_copy(update={"rows": 3}))
    assert list(fewer.tasks) == ["comments"]
    assert "counting (rows was 4, now 3)" in capsys.readouterr().err.replace("\n", " ")
    evaluated(tiny, tasks[1:], tmp_path / "out", seed=3)
    assert "comments (seed was 0, now 3, rows was 3, now 4)" in capsys.readouterr().err.replace("\n", " ")


def test_changed_predictions_of_an_earlier_task_are_noticed(
    tiny: LoadedModel, tasks: tuple[Task, Task], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(tiny, tasks, tmp_path / "out")
    for path in (tmp_path / "out" / "predictions" / "instruction" / "counting").glob("*.parquet"):
        path.unlink()
    assert list(evaluated(tiny, tasks[:1], tmp_path / "out").tasks) == ["comments"]
    assert "counting (its predictions have changed since)" in capsys.readouterr().err.replace("\n", " ")


def test_chosen_templates_stay(tiny: LoadedModel, tmp_path: Path) -> None:
    tiny_tasks(tmp_path / "tasks")
    path = tmp_path / "tasks" / "comments.yaml"
    text = path.read_text(encoding="utf-8").replace("test: all[10:]", "test: all[10:]\n    dev: all[:4]")
    path.write_text(text, encoding="utf-8")
    from flanlab.tasks.loading import load_task

    task = load_task(path)
    chosen = evaluated(tiny, [task], tmp_path / "out", settings=SETTINGS.model_copy(update={"choose_template": True}))
    assert chosen.tasks["comments"].best_on_dev
    plain = evaluated(tiny, [task], tmp_path / "out")
    assert plain.tasks["comments"].best_on_dev == chosen.tasks["comments"].best_on_dev
    assert plain.scored("task", "comments", "accuracy", BEST_ON_DEV) == chosen.scored(
        "task", "comments", "accuracy", BEST_ON_DEV
    )
