"""`training.keep_steps`: the model as it was after some steps, saved and scored beside the tuned one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import flanlab as fl
from flanlab.errors import FlanlabError
from flanlab.experiments.recipe import Recipe
from flanlab.experiments.run import run_recipe, train_recipe
from flanlab.report.html import write_report
from flanlab.training import trainer
from tests.tiny import recipe_content, write_recipe


def recipe(folder: Path, model: Path, **training: Any) -> Recipe:
    evaluation = {"rows": 4, "templates_per_row": 1, "new_tokens": 4}
    return write_recipe(folder, recipe_content(model, schedule="constant", **training) | {"evaluation": evaluation})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


def test_kept_models_are_those_of_shorter_trainings_and_are_scored(tmp_path: Path, tiny_folder: Path) -> None:
    results = run_recipe(recipe(tmp_path, tiny_folder, keep_steps=[1, 2]), tmp_path / "run")
    train_recipe(recipe(tmp_path, tiny_folder, steps=2), tmp_path / "shorter")
    assert same(weights(tmp_path / "run/models/step-2"), weights(tmp_path / "shorter/model"))
    assert not same(weights(tmp_path / "run/models/step-2"), weights(tmp_path / "run/model"))
    assert {name: one.title for name, one in results.variants.items() if "step" in name} == {
        "tuned_step_1": "tuned for 1 step",
        "tuned_step_2": "tuned for 2 steps",
    }
    assert {row.variant for row in results.scores} >= {"tuned", "tuned_step_1", "tuned_step_2"}
    stamps = [fl.load_model(tmp_path / "run" / place).stamp for place in ("models/step-1", "models/step-2", "model")]
    assert [(stamp or {})["steps"] for stamp in stamps] == [1, 2, 4]
    card = fl.export_model(tmp_path / "run/models/step-1", tmp_path / "exported") / "README.md"
    assert "1 of 4 steps of" in card.read_text(encoding="utf-8")
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "Scores while it was tuned" in page
    curve = page.partition("Mean main metric by step")[2].partition("</table>")[0]
    for variant in ("untuned_instruction", "tuned_step_1", "tuned_step_2", "tuned"):
        score = results.scored("tasks", None, "accuracy")[variant]
        assert f"{100 * score.mean:.1f}" in curve


def test_a_training_that_is_resumed_keeps_them_too(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = recipe(tmp_path, tiny_folder, keep_steps=[1, 3], checkpoint_minutes=1e-9)
    run_recipe(whole, tmp_path / "run")
    real, calls = trainer.train_step, []

    def stopped(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(trainer, "train_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_recipe(whole, tmp_path / "again")
    train_recipe(whole, tmp_path / "again")
    for step in (1, 3):
        assert same(weights(tmp_path / f"run/models/step-{step}"), weights(tmp_path / f"again/models/step-{step}"))


def test_steps_asked_for_too_late_are_named(tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_recipe(recipe(tmp_path, tiny_folder), tmp_path / "run")
    results = run_recipe(recipe(tmp_path, tiny_folder, keep_steps=[2]), tmp_path / "run")
    assert "tuned_step_2" not in results.variants
    assert "training was past step 2" in " ".join(capsys.readouterr().err.split())


def test_a_step_after_the_last_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(FlanlabError, match="keep_steps"):
        recipe(tmp_path, tiny_folder, keep_steps=[4])
