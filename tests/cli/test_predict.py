"""`flan predict`, and `flan eval --fail-under`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flanlab.cli.main import app
from flanlab.errors import FlanlabError
from flanlab.evaluation.classification import calibration_error, confusion
from flanlab.experiments.predict_rows import predict
from flanlab.files import read_json
from tests.tiny import tiny_folder, tiny_folders, write_tasks

__all__ = ["tiny_folder", "tiny_folders"]

TICKETS = "text,team,label\nA lovely [bold] day,sales,1\nDull and cold,support,0\nNobody knows,support,\nBright,sales,0\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_tasks(tmp_path / "tasks")
    (tmp_path / "tickets.csv").write_text(TICKETS, encoding="utf-8")
    return tmp_path


def flan(home: Path, model: Path, *arguments: str) -> Any:
    files = ["--input", str(home / "tickets.csv"), "--out", str(home / "answers.csv")]
    return CliRunner().invoke(app, ["predict", str(model), str(home / "tasks" / "comments.yaml"), *files, *arguments])


def test_it_answers_a_file_and_says_how_well(home: Path, tiny_folder: Path) -> None:
    result = flan(home, tiny_folder, "--template", "all", "--by", "team", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["rows"], found["rows_with_answer"], found["accuracy"]["rows"]) == (4, 3, 3)
    assert {row["value"]: row["rows"] for row in found["by"]["team"]} == {"sales": 2, "support": 1}
    assert found["confusion"] == confusion(home / "answers.csv").rows()
    assert found["calibration_error"] == pytest.approx(calibration_error(home / "answers.csv"))
    result = flan(home, tiny_folder, "--template", "1,3", "--by", "team")
    for text in ("Right answer (rows)", "precision", "Accuracy by team", "support", "Calibration", "4 rows: "):
        assert text in result.stdout


def test_wrong_use_is_told(home: Path, tiny_folder: Path) -> None:
    for arguments, message in (
        (["--template", "one"], "'one' is no number of a template"),
        (["--by", "taem"], "has no column taem"),
    ):
        result = flan(home, tiny_folder, *arguments)
        assert result.exit_code == 2
        assert message in " ".join(result.output.replace("│", " ").split())
    (home / "tickets.csv").unlink()
    assert flan(home, tiny_folder).exit_code == 2


def test_ctrl_c_keeps_what_is_answered(home: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flanlab.experiments import predict_rows as module

    ask_rows = module.ask_rows

    def stopped(setup: Any, given: Any, rows: Any) -> Any:
        if rows[0] >= 32:
            raise KeyboardInterrupt
        return ask_rows(setup, given, rows)

    lines = ["text", *(f"Comment {number}" for number in range(40))]
    (home / "tickets.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with monkeypatch.context() as pressed:
        pressed.setattr(module, "ask_rows", stopped)
        result = flan(home, tiny_folder)
    assert result.exit_code == 130
    assert "the same command resumes" in result.stderr
    assert flan(home, tiny_folder).exit_code == 0
    assert len((home / "answers.csv").read_text(encoding="utf-8").splitlines()) == 41
    assert predict(str(tiny_folder), home / "tasks" / "comments.yaml", home / "tickets.csv").column("row") == list(range(40))


def test_an_evaluation_fails_under_a_score(home: Path, tiny_folder: Path) -> None:
    asked = ["eval", "comments", "--tasks", str(home / "tasks"), "--model", str(tiny_folder), "--out", str(home / "out")]

    def outcome(*arguments: str) -> Any:
        return CliRunner().invoke(app, [*asked, *arguments])

    assert outcome("--fail-under", "0").exit_code == 0
    [score] = [
        row["mean"]
        for row in read_json(home / "out" / "results.json")["scores"]
        if (row["level"], row["metric"], row["template"]) == ("task", "accuracy", "mean")
    ]
    assert 0 < score < 1
    assert outcome("--fail-under", str(score)).exit_code == 0
    result = outcome("--fail-under", str(score + 0.001))
    assert isinstance(result.exception, FlanlabError)
    assert f"comments (instruction): accuracy {score:.4f}" in str(result.exception)
    assert outcome("--fail-under", "0.0001", "--metric", "accuracy_per_byte").exit_code == 0
    result = outcome("--fail-under", "0", "--metric", "bleu")
    assert "comments has no metric `bleu`" in str(result.exception)
    assert outcome("--metric", "accuracy").exit_code == 2
    assert outcome("--fail-under", "80").exit_code == 2
