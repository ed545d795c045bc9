"""What a sweep plans: which work is keyed by what, what is refused before it costs, and which folder it goes to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from flanlab.experiments import steps as steps_module
from flanlab.experiments.folders import RECIPE_FILE, is_done
from flanlab.experiments.recipe import Recipe
from flanlab.experiments.steps import Step, carry_out
from flanlab.experiments.sweep import Sweep, plan_sweep, run_sweep, sweep_folder
from flanlab.tasks.schema import Task
from tests.experiments.test_sweep import base_recipe, chains, listed
from tests.task_files import REVIEWS, refusal, task_content, write_rows, write_task_file
from tests.tiny import NUMBER_ROWS, NUMBER_TASK

SUBTASKS = {
    name: {"files": {split: f"{name}-{split}.jsonl" for split in ("train", "dev", "test")}} for name in ("hotels", "films")
}


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Path) -> Recipe:
    return base_recipe(tmp_path, tiny_folder)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with `reviews` (sentiment) of two subtasks with rows of their own, and `counting` (miscellaneous)."""
    folder = tmp_path / "tasks"
    write_task_file(folder, task_content(source=None, subtasks=SUBTASKS))
    for subtask in SUBTASKS.values():
        for path in subtask["files"].values():
            write_rows(folder / path, [{**row, "text": f"{path}: {row['text']}"} for row in REVIEWS])
    (folder / "counting.yaml").write_text(yaml.safe_dump(NUMBER_TASK), encoding="utf-8")
    write_rows(folder / "counting.jsonl", NUMBER_ROWS)
    return folder


def of_subtasks(tmp_path: Path, model: Path, *, include: Any = "all", exclude: Sequence[str] = (), **changes: Any) -> Recipe:
    """A recipe on the tasks of `tasks` that holds out sentiment."""
    selection = {"collections": ["tasks"], "include": include, "exclude": list(exclude)}
    return base_recipe(tmp_path, model, **{"tasks": selection, "hold_out": {"clusters": ["sentiment"]}, **changes})


def evaluation(sweep: Sweep, cell: str) -> Step:
    return sweep.cells[cell][-1]


def stamped(model: Path, folder: Path, task: str, cluster: str) -> Path:
    """The model as if it had been tuned on a task."""
    shutil.copytree(model, folder)
    stamp = {"tasks": {task: {"clusters": [cluster], "lineage": [task]}}, "lineage": {}}
    (folder / "flanlab.json").write_text(json.dumps(stamp), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["clusters", "prompt-tuning", "holdouts"])
def test_a_first_model_that_has_seen_the_tasks_is_refused_before_it_costs(
    name: str, recipe: Recipe, tmp_path: Path, tiny_folder: Path
) -> None:
    model = stamped(tiny_folder, tmp_path / "seen", "everyday_entailment", "natural_language_inference")
    base = recipe.model_copy(update={"model": str(model)})
    points = {"prompt-tuning": ["8"], "holdouts": ["natural_language_inference"]}.get(name, [])
    error = refusal(lambda: plan_sweep(name, base, tmp_path / "out", points=points))
    assert "everyday_entailment: the model was trained on its train rows" in error.message
    assert "hold_out.overlap: allow" in error.hint
    assert "--allow-seen" not in error.hint


def test_a_part_named_alone_is_evaluated_alone_by_every_cell(tmp_path: Path, tiny_folder: Path, tasks: Path) -> None:
    recipe = of_subtasks(tmp_path, tiny_folder, include=["reviews.hotels", "counting"])
    for name, points in (("clusters", ()), ("prompt-tuning", ["2"])):
        sweep = plan_sweep(name, recipe, tmp_path / "out", points=points)
        assert {evaluation(sweep, cell).tasks for cell in chains(sweep)} == {("reviews.hotels",)}
        for steps in sweep.cells.values():
            # What is trained is stamped with what was held out, so this must be the same too.
            assert all("reviews" not in step.recipe.tasks.include for step in steps[:-1])


def test_subtasks_left_out_are_not_read_as_exemplars(
    tmp_path: Path, tiny_folder: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = of_subtasks(tmp_path, tiny_folder, exclude=["reviews.films"])
    sweep = plan_sweep("few-shot", recipe, tmp_path / "out", points=["1"])
    evaluated: list[Task] = []
    monkeypatch.setattr(steps_module, "evaluate_model", lambda model, tasks, *_, **settings: evaluated.extend(tasks))
    carry_out(evaluation(sweep, "untuned-1-shot"))
    assert [(task.name, list(task.whole.subtasks)) for task in evaluated] == [("reviews.hotels", ["hotels"])]


def test_dev_rows_are_in_the_key_where_templates_are_chosen_by_them(tmp_path: Path, tiny_folder: Path, tasks: Path) -> None:
    def keys() -> list[tuple[str, ...]]:
        settings = {"rows": 3, "templates_per_row": 1, "generate": False, "pmi": False}
        made = [
            of_subtasks(tmp_path, tiny_folder, evaluation={**settings, "choose_template": choose}) for choose in (True, False)
        ]
        return [chains(plan_sweep("few-shot", one, tmp_path / "out", points=["0"]))["tuned-0-shot"] for one in made]

    before = keys()
    write_rows(tasks / "films-dev.jsonl", REVIEWS[:2])
    after = keys()
    assert before[0][0] == after[0][0]
    assert before[0][1] != after[0][1]
    assert before[1] == after[1]


def test_exemplars_of_tasks_trained_on_are_in_the_key(tmp_path: Path, tiny_folder: Path, tasks: Path) -> None:
    """A subtask is shown its own train rows, and needs no others."""

    def key(shots: int) -> str:
        recipe = of_subtasks(
            tmp_path,
            tiny_folder,
            include=["reviews.hotels", "counting"],
            hold_out={"clusters": ["miscellaneous"]},
            evaluation={"rows": 3, "shots": shots},
        )
        sweep = plan_sweep(
            "scale", recipe, tmp_path / "out", points=[str(tiny_folder), "other/model"], only=["untuned-held-in-1"]
        )
        return chains(sweep)["untuned-held-in-1"][-1]

    before = [key(shots) for shots in (0, 1)]
    (tasks / "films-train.jsonl").unlink()
    assert [key(shots) for shots in (0, 1)] == before
    write_rows(tasks / "hotels-train.jsonl", REVIEWS[:2])
    assert key(0) == before[0]
    assert key(1) != before[1]


def test_a_folder_called_like_a_built_in_collection_changes_nothing(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere" / "sampler").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    sweep = plan_sweep("clusters", recipe, tmp_path / "out", points=["1"])
    assert {tuple(step.recipe.tasks.collections) for step in sweep.to_do()} == {("sampler",)}


def test_a_stopped_training_goes_on_after_a_change_that_shapes_nothing(recipe: Recipe, tmp_path: Path) -> None:
    sweep = plan_sweep("clusters", recipe, tmp_path / "out", points=["1"], only=["clusters-1"])
    step = sweep.cells["clusters-1"][0]
    step.folder.mkdir(parents=True)
    content = step.recipe.model_dump(mode="json")
    content["training"]["workers"] = 7
    (step.folder / RECIPE_FILE).write_text(yaml.safe_dump(content), encoding="utf-8")
    assert carry_out(step) == ""
    assert is_done(step.folder)


def test_nothing_is_running_after_ctrl_c(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stops(step: Step) -> None:
        assert listed(sweep) == {"untuned": "done", "clusters-1": "running"}
        raise KeyboardInterrupt

    sweep = plan_sweep("clusters", recipe, tmp_path / "out", points=["1"])
    monkeypatch.setattr(steps_module, "_train", stops)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep)
    assert listed(sweep) == {"untuned": "done", "clusters-1": "waiting"}


def test_a_sweep_of_other_points_has_a_folder_of_its_own(recipe: Recipe, tmp_path: Path) -> None:
    named = recipe.model_copy(update={"name": "my base/2: ü"})
    usual, some, others = (sweep_folder(tmp_path, "clusters", named, points) for points in ([], ["1", "2"], ["1", "3"]))
    assert usual == tmp_path / "clusters-my-base-2--ü"
    assert some.name == f"{usual.name}-1-2"
    assert others != some
    models = [sweep_folder(tmp_path, "scale", recipe, [f"models/{name}", "x"]) for name in ("a-b", "a/b", "a" * 300)]
    assert len(set(models)) == 3
    assert all(folder.parent == tmp_path and len(folder.name) < 100 for folder in models)
