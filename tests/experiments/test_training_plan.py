"""`flan train --plan`: every recipe has one, nothing is loaded for it, and it says where its figures come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from typer.testing import CliRunner

from flanlab.cli.main import app
from flanlab.errors import FlanlabError
from flanlab.experiments import training_plan
from flanlab.experiments.recipe import Recipe, read_recipe
from flanlab.experiments.training_plan import plan_training
from flanlab.tasks.loading import leave_out, load_collections, select_tasks
from tests.tiny import make_config, recipe_content, write_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.fixture
def configurations(encoder_decoders: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Folders with nothing but a configuration."""
    made = {"llama": tmp_path / "llama", "t5": tmp_path / "t5"}
    make_config("llama", 340).save_pretrained(made["llama"])
    made["t5"].mkdir()
    (made["t5"] / "config.json").write_bytes((encoder_decoders["flan-t5"] / "config.json").read_bytes())
    return made


def flan_plan(path: Path, *more: str, command: str = "train") -> Any:
    return CliRunner().invoke(app, [command, str(path), "--plan", *more])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_can_be_planned(
    path: Path, configurations: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLANLAB_MIRROR", raising=False)  # which need not have the rows of all recipes
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    tasks = load_collections(recipe.tasks.collections)
    if recipe.tasks.include != "all":
        tasks = select_tasks(tasks, recipe.tasks.include)
    tasks = leave_out(tasks, recipe.tasks.exclude)
    split = recipe.hold_out.split(tasks, evaluated=recipe.evaluation.split)
    assert split.train
    assert split.test

    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["model"] = str(configurations["t5" if "t5" in path.stem else "llama"])
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    found = flan_plan(tmp_path / "recipe.yaml", "--device", "H100", "--processes", "8", "--json")
    assert found.exit_code == 0, found.output
    plan = json.loads(found.stdout)
    assert plan["tokens"] == recipe.training.steps * recipe.training.tokens_per_step
    assert plan["memory"]["plain"]["total"] > plan["memory"]["gradient_checkpointing"]["total"] > 0


def test_recipe_of_the_paper_is_the_papers() -> None:
    recipe = read_recipe(next(path for path in RECIPES if path.stem == "flan-paper"))
    mixture, training = recipe.mixture, recipe.training
    assert (mixture.train_cap, mixture.maximum, mixture.temperature) == (30_000, 3_000, 1.0)
    assert (mixture.prompt_tokens, mixture.target_tokens) == (1024, 256)
    assert (training.optimizer, training.learning_rate, training.schedule) == ("adafactor", 3e-5, "constant")
    assert (training.steps, training.tokens_per_step) == (30_000, 8_192)
    assert recipe.tasks.include == "all"
    assert recipe.tasks.collections == ["library"]
    assert recipe.tasks.exclude == []


@pytest.fixture
def recipe(configurations: dict[str, Path], tmp_path: Path) -> Recipe:
    """A recipe over the tiny tasks, whose model has no weights."""
    return write_recipe(tmp_path, recipe_content(configurations["llama"]))


def test_plan_is_printed_without_loading(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (AutoModelForCausalLM, AutoModelForSeq2SeqLM):
        monkeypatch.setattr(kind, "from_pretrained", None)
    found = flan_plan(tmp_path / "recipe.yaml", "--device", "A100", "--processes", "2")
    assert found.exit_code == 0, found.output
    assert "640 in 4 steps" in found.stdout
    assert "assumed: 35% of the bfloat16 peak in its data sheet (3.12e+14)" in found.stdout
    assert "Memory of each process, GiB" in found.stdout
    assert not (tmp_path / "runs").exists()


def test_speed_is_stated_assumed_or_measured(recipe: Recipe) -> None:
    stated = plan_training(recipe, device="some new device", speed=1e6, processes=2)
    assert (stated["speed_is"], stated["parallel"]) == ("as stated", "ddp")
    assert stated["seconds"] == stated["operations"] / 2e6
    on_cpu = plan_training(recipe, device="cpu")
    assert "measured now" in on_cpu["speed_is"]
    assert on_cpu["operations_per_second"] > 1e6
    assert on_cpu["parallel"] is None
    with pytest.raises(FlanlabError, match="How fast the device some new device is, is not known") as caught:
        plan_training(recipe, device="some new device")
    assert "--flops" in caught.value.hint


def test_a_run_has_the_plan_of_its_training(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_plan, "product_speed", lambda *_: 1e9)
    told = [flan_plan(tmp_path / "recipe.yaml", command=command).stdout for command in ("train", "run")]
    assert told[0] == told[1]
    assert "evaluation is not counted" in told[1]
    as_json = [
        json.loads(flan_plan(tmp_path / "recipe.yaml", "--json", command=command).stdout) for command in ("train", "run")
    ]
    assert as_json[0] == as_json[1]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("dtype", "gain", "found"), [("auto", 2.0, "bfloat16"), ("auto", 1.1, "float32"), ("float32", 2, "float32")]
)
def test_speed_on_a_processor_is_that_of_the_number_type(
    dtype: str, gain: float, found: str, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_plan, "product_speed", lambda *given: 1e9 * (gain if torch.bfloat16 in given else 1))
    training = recipe.training.model_copy(update={"compute_dtype": dtype})
    plan = plan_training(recipe.model_copy(update={"training": training}), device="cpu")
    assert f"a matrix product in {found}" in plan["speed_is"]
    assert plan["operations_per_second"] == pytest.approx(0.4e9 * gain if found == "bfloat16" else 0.6e9)


def test_examples_are_counted_where_rows_and_tokenizer_are_at_hand(recipe: Recipe, tiny_folder: Path) -> None:
    assert plan_training(recipe, device="cpu")["examples"] is None, "there is no tokenizer"
    found = plan_training(recipe.model_copy(update={"model": str(tiny_folder)}), device="cpu")
    assert found["examples"] is not None
    assert found["examples"] % 4 == 0
    assert 4 < found["examples"] < 160


def test_method_that_does_not_fit_is_told(recipe: Recipe, configurations: dict[str, Path]) -> None:
    training = recipe.training.model_copy(update={"method": "prompt"})
    faulty = recipe.model_copy(update={"model": str(configurations["t5"]), "training": training})
    with pytest.raises(FlanlabError, match=r"is an encoder-decoder model\. Soft prompts"):
        plan_training(faulty, device="cpu")
