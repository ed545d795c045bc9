"""`flan quickstart` is nothing but `flan run` with the packaged recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flanlab import api
from flanlab.cli.main import app
from flanlab.experiments import run
from flanlab.experiments.recipe import Recipe


@pytest.fixture
def carried_out(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Recipe, Path]]:
    calls: list[tuple[Recipe, Path]] = []

    def record(recipe: Recipe, folder: Path, *_: Any, **__: Any) -> None:
        calls.append((recipe, folder))

    monkeypatch.setattr(run, "run_recipe", record)
    monkeypatch.setattr(api, "is_first", lambda: False)  # there is no report to write
    monkeypatch.setattr("flanlab.cli.tables.present_results", lambda *_: None)
    return calls


def test_quickstart_runs_the_packaged_recipe_as_run_does(carried_out: list[tuple[Recipe, Path]]) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["quickstart", "--json"]).exit_code == 0
    assert runner.invoke(app, ["run", "quickstart", "--json"]).exit_code == 0
    assert carried_out[0] == carried_out[1]


def test_quickstart_takes_another_model(carried_out: list[tuple[Recipe, Path]]) -> None:
    CliRunner().invoke(app, ["quickstart", "--model", "some/model", "--json"])
    assert carried_out[0][0].model == "some/model"
