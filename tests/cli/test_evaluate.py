"""`flan eval`: what its options choose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flanlab import api
from flanlab.cli.main import app
from flanlab.experiments.recipe import make_plan, read_recipe
from flanlab.files import read_json
from flanlab.results.files import read_predictions, read_results
from tests.tiny import recipe_content, tiny_folder, tiny_folders, write_recipe

__all__ = ["tiny_folder", "tiny_folders"]


@pytest.fixture
def home(tmp_path: Path, tiny_folder: Path) -> Path:
    """A folder with the tiny tasks and a recipe that holds `comments` out."""
    evaluation = {"rows": 4, "templates_per_row": 2, "new_tokens": 4, "options": "none", "shots": 1}
    write_recipe(tmp_path, recipe_content(tiny_folder) | {"seed": 5, "evaluation": evaluation})
    return tmp_path


def flan_eval(home: Path, model: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["eval", "--model", str(model), "--out", str(home / "out"), *arguments])


def told(home: Path, model: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    """What `flan eval` asks for."""
    found: dict[str, Any] = {}

    def listen(model: str, tasks: Any, settings: Any, folder: Path, **others: Any) -> None:
        found.update(tasks=[task.name for task in tasks], settings=settings, **others)

    monkeypatch.setattr(api, "evaluate_model", listen)
    monkeypatch.setattr("flanlab.cli.tables.present_results", lambda *_: None)
    result = flan_eval(home, model, *arguments)
    assert result.exit_code == 0, result.output
    return found


def test_clusters_stand_beside_tasks(home: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = ["--tasks", str(home / "tasks")]
    both = ["--cluster", "sentiment", "--cluster", "miscellaneous"]
    assert told(home, tiny_folder, monkeypatch, *collection, *both)["tasks"] == ["comments", "counting"]
    assert told(home, tiny_folder, monkeypatch, *collection, "counting", *both[:2])["tasks"] == ["comments", "counting"]
    assert told(home, tiny_folder, monkeypatch, *collection, *both[2:])["tasks"] == ["counting"]


@pytest.mark.parametrize("written", [["--shots", "0,1,4,16"], ["--shots", "16", "--shots", "4, 1", "--shots", "0"]])
def test_numbers_of_exemplars(written: list[str], home: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = told(home, tiny_folder, monkeypatch, "--tasks", str(home / "tasks"), "comments", *written)
    assert found["settings"].shots == (0, 1, 4, 16)


def test_settings(home: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ["comments", "--tasks", str(home / "tasks")]
    settings = told(home, tiny_folder, monkeypatch, *plain)["settings"]
    assert (settings.rows, settings.prompt_tokens, settings.truncate, settings.pmi) == (200, 1024, "end", True)
    chosen = ["--rows", "7", "--prompt-tokens", "99", "--truncate", "middle", "--no-pmi", "--choose-template"]
    settings = told(home, tiny_folder, monkeypatch, *plain, *chosen)["settings"]
    assert (settings.rows, settings.prompt_tokens, settings.truncate, settings.pmi) == (7, 99, "middle", False)
    assert settings.choose_template
    few = ["--templates-per-row", "adaptive", "--answer-budget", "1.5", "--wordings", "30"]
    settings = told(home, tiny_folder, monkeypatch, *plain, *few)["settings"]
    assert (settings.templates_per_row, settings.answer_budget, settings.wordings) == ("adaptive", 1.5, 30)
    assert told(home, tiny_folder, monkeypatch, *plain, "--templates-per-row", "2")["settings"].templates_per_row == 2


def test_recipe_gives_tasks_settings_and_seed(home: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = ["--recipe", str(home / "recipe.yaml")]
    found = told(home, tiny_folder, monkeypatch, *recipe)
    followed = read_recipe(home / "recipe.yaml")
    assert (found["tasks"], found["settings"], found["seed"]) == (["comments"], followed.evaluation, 5)
    other = told(home, tiny_folder, monkeypatch, *recipe, "--rows", "2", "--shots", "0")
    assert other["settings"] == followed.evaluation.model_copy(update={"rows": 2, "shots": 0})


@pytest.mark.parametrize("changes", [{"in_domain": "all"}, {"hold_out": {}}])
def test_recipe_gives_the_tasks_that_are_scored_in_domain(
    changes: dict[str, Any], home: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(home, recipe_content(tiny_folder) | changes)
    assert told(home, tiny_folder, monkeypatch, "--recipe", str(home / "recipe.yaml"))["tasks"] == ["comments", "counting"]


def test_each_number_of_exemplars_and_each_way_to_show_options_is_a_variant(home: Path, tiny_folder: Path) -> None:
    arms = ["--shots", "0,2", "--options", "shuffled", "--options", "none", "--rows", "3"]
    result = flan_eval(home, tiny_folder, "comments", "--tasks", str(home / "tasks"), *arms)
    assert result.exit_code == 0, result.output
    results = read_results(home / "out")
    assert {name: variant.title for name, variant in results.variants.items()} == {
        "instruction": "instruction prompt, OPTIONS shuffled",
        "instruction_options_none": "instruction prompt, without OPTIONS",
        "instruction_2_shot": "instruction prompt, 2 shots, OPTIONS shuffled",
        "instruction_2_shot_options_none": "instruction prompt, 2 shots, without OPTIONS",
    }
    for variant, facts in results.variants.items():
        shots, order = (2 if "2_shot" in variant else 0), ("none" if variant.endswith("none") else "shuffled")
        assert (facts.settings["shots"], facts.settings["options"]) == (shots, order)
        rows = read_predictions(home / "out" / "predictions" / variant / "comments").to_pylist()
        without = variant.endswith("none")
        assert {"OPTIONS:" in row["prompt"] for row in rows} == {not without}
        assert {len(row["exemplars"]) for row in rows} == {2 if "2_shot" in variant else 0}


def test_the_number_of_exemplars_is_recorded(home: Path, tiny_folder: Path) -> None:
    result = flan_eval(home, tiny_folder, "comments", "--tasks", str(home / "tasks"), "--shots", "4", "--rows", "2")
    assert result.exit_code == 0, result.output
    (variant,) = read_results(home / "out").variants.values()
    assert variant.settings["shots"] == 4


def test_recipe_asks_the_questions_of_its_run(home: Path, tiny_folder: Path) -> None:
    result = flan_eval(home, tiny_folder, "--recipe", str(home / "recipe.yaml"), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == read_json(home / "out" / "results.json")
    [planned] = make_plan(read_recipe(home / "recipe.yaml")).planned
    rows = read_predictions(home / "out" / "predictions" / "instruction_1_shot" / "comments").to_pylist()
    assert [(row["row"], row["template"]) for row in rows] == planned.pairs
    assert not any("OPTIONS" in row["prompt"] for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["comments", "--shots", "0,17"], "'17' is no number from 0 to 16"),
        (["comments", "--shots", "0,"], "'' is no number"),
        (["rte", "--options", "sorted"], "'shuffled', 'fixed' or 'none'"),
        (["rte", "--options", "none,none"], "each once"),
        (["comments", "--recipe", "recipe.yaml"], "do not name any"),
        (["--cluster", "sentiment", "--recipe", "recipe.yaml"], "do not name any"),
        ([], "Name tasks or clusters"),
        (["--cluster", "feelings"], "feelings"),
        (["comments", "--truncate", "start"], "start"),
        (["comments", "--templates-per-row", "some"], "'some' is neither a number nor adaptive"),
        (["comments", "--answer-budget", "3"], "needs `templates_per_row: adaptive`"),
    ],
)
def test_wrong_use_is_told(arguments: list[str], message: str, home: Path, tiny_folder: Path) -> None:
    result = flan_eval(home, tiny_folder, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
