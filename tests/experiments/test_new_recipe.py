"""`flan recipe new` and `flan recipe check`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flanlab.cli.main import app
from flanlab.errors import FlanlabError
from flanlab.experiments import cost, new_recipe
from flanlab.experiments.cost import run_prices
from flanlab.experiments.new_recipe import write_recipe
from flanlab.experiments.recipe import make_plan, read_recipe
from flanlab.models.loading import load_model
from flanlab.tasks.clusters import Cluster
from tests.tiny import write_tasks

SECONDS_A_TOKEN = 1e-3


@pytest.fixture(autouse=True)
def _known_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_seconds", lambda _, questions, *_rest: SECONDS_A_TOKEN * sum(one.length for one in questions))
    monkeypatch.setattr(new_recipe, "this_device", lambda: "cpu")


def write(folder: Path, model: Path, minutes: float = 2.0, **changes: Any) -> Path:
    path = folder / "recipes" / "mine.yaml"
    path.parent.mkdir(exist_ok=True)
    options: dict[str, Any] = {"collections": [str(write_tasks(folder / "tasks"))], **changes}
    write_recipe(path, str(model), options.pop("names", []), [Cluster.SENTIMENT], minutes, **options)
    return path


def test_steps_fit_the_budget_by_the_estimate_of_a_run(tmp_path: Path, tiny_folder: Path) -> None:
    recipe = read_recipe(write(tmp_path, tiny_folder))
    assert recipe.name == "mine"
    plan, loaded = make_plan(recipe), load_model(str(tiny_folder), device="cpu")
    seconds = run_prices(plan, loaded, loaded, ["instruction"]).training
    assert 0 < recipe.training.warmup_steps < recipe.training.steps
    assert seconds <= 120 < seconds * (recipe.training.steps + 1) / recipe.training.steps
    assert "about 2 min of training on this machine" in (tmp_path / "recipes" / "mine.yaml").read_text(encoding="utf-8")


def test_folders_are_relative_to_the_recipe_and_held_out_tasks_take_part(tmp_path: Path, tiny_folder: Path) -> None:
    path = write(tmp_path, tiny_folder, names=["Counting"])
    text = path.read_text(encoding="utf-8")
    assert "collections: [../tasks]" in text
    assert "include: [counting, sentiment]" in text
    checked = CliRunner().invoke(app, ["recipe", "check", str(path)])
    assert checked.exit_code == 0, checked.output
    assert "trains on  counting" in checked.output
    assert "held out   comments" in checked.output
    assert "16 train, 10 test" in checked.output


def test_an_existing_recipe_and_a_small_budget_are_refused(tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(FlanlabError, match=r"One step of 1,024 tokens takes about .* longer than the budget"):
        write(tmp_path, tiny_folder, minutes=1e-5)
    assert not (tmp_path / "recipes" / "mine.yaml").exists()
    write(tmp_path, tiny_folder)
    with pytest.raises(FlanlabError, match="exists already"):
        write(tmp_path, tiny_folder)
    write(tmp_path, tiny_folder, force=True)
    for minutes in (-1.0, float("inf"), float("nan")):
        with pytest.raises(FlanlabError, match="Training cannot take"):
            write(tmp_path, tiny_folder, minutes=minutes, force=True)


def test_the_command_takes_flags_and_needs_a_model(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tasks(tmp_path / "tasks")
    command = ["recipe", "new", "--tasks", "tasks", "--hold-out", "Sentiment", "--minutes", "1"]
    for given, lacking in ((command, "--model"), ([*command[:-2], "--model", str(tiny_folder)], "--minutes")):
        without = CliRunner().invoke(app, given).exception
        assert isinstance(without, FlanlabError)
        assert f"Add {lacking}, for example" in without.hint
    task = CliRunner().invoke(app, [*command, "--model", str(tiny_folder), "--hold-out", "comments"]).exception
    assert isinstance(task, FlanlabError)
    assert "comments is a task" in task.message
    assert task.hint == "Write --hold-out sentiment."
    wrong = CliRunner().invoke(app, [*command, "--model", str(tiny_folder), "--hold-out", "sentimental"])
    assert (wrong.exit_code, "closed_book_qa" in wrong.output) == (2, True)
    done = CliRunner().invoke(app, [*command, "--model", str(tiny_folder), "--out", "mine.yaml"])
    assert done.exit_code == 0, done.output
    assert "1 task trains, held out: 1" in done.output
    assert read_recipe(Path("mine.yaml")).hold_out.clusters == [Cluster.SENTIMENT]


def test_on_a_terminal_it_asks(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tasks(tmp_path / "tasks")
    monkeypatch.setattr("flanlab.cli.recipe.on_terminal", lambda: True)
    typed = f"{tiny_folder}\nall\nsentiment\nsoon\n1\n"
    done = CliRunner().invoke(app, ["recipe", "new", "--tasks", "tasks", "--out", "asked.yaml"], input=typed)
    assert done.exit_code == 0, done.output
    assert "Please enter a number" in done.output
    recipe = read_recipe(Path("asked.yaml"))
    assert (recipe.model, recipe.tasks.include) == (str(tiny_folder), "all")
    assert recipe.hold_out.clusters == [Cluster.SENTIMENT]


@pytest.mark.parametrize(
    "command", ["recipe check no.yaml", "recipe new --model no --minutes 1", "power no.yaml", "claims --plan no.yaml"]
)
def test_commands_say_that_they_load_torch_before_they_do(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class SaidError(Exception):
        pass

    def say() -> None:
        raise SaidError

    words = command.split()
    monkeypatch.setattr(f"flanlab.cli.{words[0]}.say_loading", say)
    assert isinstance(CliRunner().invoke(app, words).exception, SaidError)
