"""Recipes: read with errors that name the line, and planned before anything costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from flanlab.data.mirror import MissingDataError
from flanlab.data.reader import RowReader
from flanlab.errors import FlanlabError
from flanlab.experiments.recipe import make_plan, read_recipe
from flanlab.tasks.clusters import Cluster
from tests.tiny import NUMBER_TASK, write_tasks

RECIPE = """\
name: tiny
model: some-model
tasks:
  collections: [tasks]
hold_out:
  clusters: [sentiment]
training:
  steps: 4
  learning_rate: 1.0e-3
"""


def write(folder: Path, text: str = RECIPE) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def add_task(folder: Path, name: str, **changes: Any) -> None:
    content = {**NUMBER_TASK, "name": name, **changes}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def test_reads_with_defaults_and_folders_relative_to_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tasks(tmp_path / "tasks")
    monkeypatch.chdir("/")
    recipe = read_recipe(write(tmp_path))
    assert recipe.tasks.collections == [str(tmp_path / "tasks")]
    assert recipe.hold_out.clusters == [Cluster.SENTIMENT]
    assert recipe.training.steps == 4
    assert recipe.training.optimizer == "adamw"
    assert recipe.evaluation.rows == 200
    assert recipe.seed == 0


def test_a_model_beside_the_recipe_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "own").mkdir(parents=True)
    (tmp_path / "gemma-3-270m").mkdir()
    for name, found in (("models/own", str(tmp_path / "models" / "own")), ("gemma-3-270m",) * 2, ("org/model",) * 2):
        path = write(tmp_path, RECIPE.replace("model: some-model", f"model: {name}"))
        for place, expected in (("/", found), (tmp_path, name)):
            monkeypatch.chdir(place)
            assert read_recipe(path if place == "/" else Path(path.name)).model == expected


def test_a_collection_with_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, RECIPE.replace("[tasks]", f"[{'long' * 200}]")))
    with pytest.raises(FlanlabError, match="There is no folder of tasks"):
        make_plan(recipe)


def test_names_of_built_in_collections_stay(tmp_path: Path) -> None:
    assert read_recipe(write(tmp_path, RECIPE.replace("[tasks]", "[sampler]"))).tasks.collections == ["sampler"]


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("  steps: 4\n", "", 7, "`training.steps` is missing"),
        ("  steps: 4\n", "  step: 4\n", 8, "Did you mean `steps`?"),
        ("  steps: 4\n", "  steps: many\n", 8, "training.steps"),
        ("  steps: 4\n", "  steps: 0\n", 8, "training.steps"),
        ("[sentiment]", "[sentimental]", 6, "hold_out.clusters"),
        ("model: some-model\n", "", 1, "`model` is missing"),
        ("name: tiny", "name: 3", 1, "quotes"),
        ("  learning_rate: 1.0e-3", "  learning_rate: 1.0e-3\n  method: prefix", 10, "training.method"),
        ("training:\n", "evaluation: {row: 5}\ntraining:\n", 7, "Did you mean `rows`?"),
        ("training:\n", "hold_outs: {}\ntraining:\n", 7, "Did you mean `hold_out`?"),
        ("training:\n", "m[ixture: {}\ntraining:\n", 7, "Did you mean `mixture`?"),
        ("  collections: [tasks]", "  collections: [tasks", 5, "not valid YAML"),
    ],
)
def test_fault_is_told_with_file_and_line(old: str, new: str, line: int, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, RECIPE.replace(old, new))
    with pytest.raises(FlanlabError) as caught:
        read_recipe(path)
    assert f"{path}, line {line}: " in caught.value.message
    assert said in caught.value.message


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    text = RECIPE.replace("model: some-model\n", "").replace("steps: 4", "steps: -1")
    with pytest.raises(FlanlabError) as caught:
        read_recipe(write(tmp_path, text))
    assert "line 1: " in caught.value.message
    assert "line 7: " in caught.value.message


def test_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(FlanlabError, match=r"none\.yaml: cannot be read"):
        read_recipe(tmp_path / "none.yaml")


def test_quickstart_is_packaged_and_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe(Path("quickstart"))
    plan = make_plan(recipe)
    assert {cluster for task in plan.split.test for cluster in task.clusters} == {Cluster.SENTIMENT}
    assert not any(Cluster.SENTIMENT in task.clusters for task in plan.split.train)
    assert len({task.clusters[0] for task in plan.split.train}) == 7
    assert [task.name for task in plan.split.in_domain] == ["question_topic", "which_section"]
    # A recipe of that name in the user's folder goes first.
    write_tasks(tmp_path / "tasks")
    (tmp_path / "quickstart").write_text(RECIPE, encoding="utf-8")
    assert read_recipe(Path("quickstart")).name == "tiny"


def test_plan_divides_by_the_hold_out(tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    plan = make_plan(read_recipe(write(tmp_path)))
    assert [task.name for task in plan.split.train] == ["counting"]
    assert [task.name for task in plan.split.test] == ["comments"]
    assert {name: len(rows) for name, rows in plan.train_rows.items()} == {"counting": 16}
    assert {one.task.name: len(one.rows) for one in plan.planned} == {"comments": 10}


def test_include_and_exclude(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path / "tasks")
    add_task(folder, "counting_again")
    include = RECIPE.replace("[tasks]", "[tasks]\n  include: [counting, sentiment]")
    assert [task.name for task in make_plan(read_recipe(write(tmp_path, include))).split.train] == ["counting"]
    exclude = RECIPE.replace("[tasks]", "[tasks]\n  exclude: [counting]")
    plan = make_plan(read_recipe(write(tmp_path, exclude)))
    assert [task.name for task in plan.split.train] == ["counting_again"]


def test_unknown_task_is_told_with_near_names(tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    text = RECIPE.replace("[tasks]", "[tasks]\n  include: [countign, sentiment]")
    with pytest.raises(FlanlabError, match="no task or cluster called `countign`") as caught:
        make_plan(read_recipe(write(tmp_path, text)))
    assert "counting" in caught.value.hint


def test_nothing_to_evaluate(tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    with pytest.raises(FlanlabError, match="nothing could be evaluated"):
        make_plan(read_recipe(write(tmp_path, RECIPE.replace("[sentiment]", "[translation]"))))


def test_nothing_to_train_on(tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    with pytest.raises(FlanlabError, match="no task to train on"):
        make_plan(read_recipe(write(tmp_path, RECIPE.replace("[sentiment]", "[sentiment, miscellaneous]"))))


def test_overlap_is_an_error_unless_the_recipe_says_otherwise(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path / "tasks")
    add_task(folder, "derived", derived_from={"comments": "made up"})
    with pytest.raises(FlanlabError, match=r"derived: shares comments with the held-out comments"):
        make_plan(read_recipe(write(tmp_path)))
    removed = RECIPE.replace("[sentiment]", "[sentiment]\n  overlap: remove")
    plan = make_plan(read_recipe(write(tmp_path, removed)))
    assert [task.name for task in plan.split.train] == ["counting"]
    assert "derived" in plan.split.left_out
    allowed = RECIPE.replace("[sentiment]", "[sentiment]\n  overlap: allow")
    plan = make_plan(read_recipe(write(tmp_path, allowed)))
    assert [task.name for task in plan.split.train] == ["counting", "derived"]
    assert "derived" in plan.split.allowed


def test_every_task_out_of_reach_is_told(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path / "tasks")
    source = {"hub": "nobody/nothing", "splits": {"train": "train", "test": "test"}}
    add_task(folder, "far_one", source=source)
    add_task(folder, "far_two", source=source)
    (tmp_path / "mirror").mkdir()
    with pytest.raises(MissingDataError) as caught:
        make_plan(read_recipe(write(tmp_path)), RowReader(tmp_path / "mirror"))
    assert "far_one" in caught.value.message
    assert "far_two" in caught.value.message
    assert "exclude" in caught.value.hint
