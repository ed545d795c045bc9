"""Sweeps on a tiny model: what they plan, share, leave, and that they can be stopped anywhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import yaml

from flanlab.errors import FlanlabError
from flanlab.experiments import steps as steps_module
from flanlab.experiments.ablations import ablation_names
from flanlab.experiments.cells import changed
from flanlab.experiments.folders import ERROR_FILE, is_done, read_sweep_facts, seconds_of, state_of
from flanlab.experiments.on_ray import _outcome
from flanlab.experiments.recipe import Recipe, make_plan, read_recipe
from flanlab.experiments.steps import Step, carry_out, in_this_process
from flanlab.experiments.sweep import Sweep, plan_sweep, run_sweep
from flanlab.files import alone_in
from flanlab.results.files import read_results
from flanlab.results.schema import Results

pytestmark = pytest.mark.slow

CLUSTERS = ["sentiment", "closed_book_qa", "summarization", "natural_language_inference", "coreference"]


def base_recipe(folder: Path, model: Path, **changes: Any) -> Recipe:
    content = {
        "name": "tiny",
        "model": str(model),
        "tasks": {"collections": ["sampler"], "include": CLUSTERS},
        "hold_out": {"clusters": ["natural_language_inference", "coreference"]},
        "training": {
            "steps": 2,
            "compute_dtype": "float32",
            "tokens_per_step": 200,
            "micro_batch_tokens": 2048,
            "learning_rate": 5e-3,
        },
        "evaluation": {"rows": 3, "templates_per_row": 1, "generate": False, "pmi": False},
    }
    path = folder / "base.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}), encoding="utf-8")
    return read_recipe(path)


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Path) -> Recipe:
    return base_recipe(tmp_path, tiny_folder)


def carry_through(sweep: Sweep) -> list[tuple[str, str]]:
    """Run it; the steps with their outcomes."""
    outcomes: list[tuple[str, str]] = []

    def engine(steps: Sequence[Step]) -> Iterator[tuple[Step, str]]:
        for step, error in in_this_process(steps):
            outcomes.append((step.title, error))
            yield step, error

    run_sweep(sweep, engine)
    return outcomes


def states(sweep: Sweep) -> dict[str, str]:
    """Of the cells that were asked for."""
    return {name: state_of([step.folder for step in steps]) for name, steps in sweep.cells.items()}


def chains(sweep: Sweep) -> dict[str, tuple[str, ...]]:
    return {name: tuple(step.folder.name for step in steps) for name, steps in sweep.cells.items()}


def listed(sweep: Sweep) -> dict[str, str]:
    """The states of all cells in sweep.json."""
    return {cell.name: cell.state for cell in read_sweep_facts(sweep.folder).cells}


def scores(sweep: Sweep) -> dict[str, Results]:
    """Each cell's results."""
    return {name: read_results(steps[-1].folder) for name, steps in sweep.cells.items()}


def trained_on(results: Results) -> dict[str, str] | None:
    """What the model of a cell was trained on."""
    return next(iter(results.variants.values())).trained_on


def test_clusters_are_added_one_after_another(recipe: Recipe, tmp_path: Path) -> None:
    sweep = plan_sweep("clusters", recipe, tmp_path / "out")
    assert list(states(sweep)) == ["untuned", "clusters-1", "clusters-2", "clusters-3"]
    trained = [
        {task.clusters[0].value for task in make_plan(steps[0].recipe).split.train}
        for steps in sweep.cells.values()
        if len(steps) > 1
    ]
    assert trained == [
        {"summarization"}, {"summarization", "sentiment"}, {"summarization", "sentiment", "closed_book_qa"},
    ]  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_every_ablation_can_be_planned(recipe: Recipe, tmp_path: Path, tiny_folder: Path) -> None:
    points = {"scale": [str(tiny_folder), str(tiny_folder)]}
    bases = {"figure-6": changed(recipe, tasks={"include": "all"})}
    points |= {"figure-6": ["1"], "settings": ["training.steps=1"]}
    for name in ablation_names():
        sweep = plan_sweep(name, bases.get(name, recipe), tmp_path / "out", points=points.get(name, ()))
        names = [cell.name for cell in sweep.facts.cells]
        assert len(set(names)) == len(names)
        drawn = {cell for panel in sweep.facts.panels for series in panel.series for _, cell in series.points}
        compared = {cell for pair in sweep.facts.comparisons for cell in (pair.before, pair.after)}
        assert drawn | compared <= set(names)
        assert set(states(sweep).values()) == {"waiting"}
        assert all(step.count and step.seconds > 0 for step in sweep.to_do())


def test_equal_work_is_shared_between_cells_and_ablations(recipe: Recipe, tmp_path: Path) -> None:
    clusters = chains(plan_sweep("clusters", recipe, tmp_path))
    instructions = chains(plan_sweep("instructions", recipe, tmp_path))
    few_shot = chains(plan_sweep("few-shot", recipe, tmp_path, points=["0", "2"]))
    templates = chains(plan_sweep("templates", recipe, tmp_path, points=["1"]))
    assert clusters["clusters-3"] == instructions["full-full"] == few_shot["tuned-0-shot"] == templates["inverted"]
    assert clusters["untuned"] == instructions["untuned"] == few_shot["untuned-0-shot"]
    assert instructions["name-full"][0] == instructions["name-name"][0]
    # All that tasks have is as good as no limit.
    limits = plan_sweep("settings", recipe, tmp_path, points=["mixture.templates_per_task=10", "mixture.templates_per_task=1"])
    assert chains(limits)["base"] == chains(limits)["templates-per-task-10"] != chains(limits)["templates-per-task-1"]
    assert few_shot["tuned-0-shot"][0] == few_shot["tuned-2-shot"][0]
    trainings = [chain[0] for cells in (clusters, instructions, templates) for chain in cells.values() if len(chain) > 1]
    # 3 of clusters; 2 more without instructions; 4 more of templates.
    assert len(set(trainings)) == 3 + 2 + 4


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"mixture": {"train_cap": 5}},
        {
            "training": {
                "steps": 3,
                "compute_dtype": "float32",
                "tokens_per_step": 200,
                "micro_batch_tokens": 2048,
                "learning_rate": 5e-3,
            }
        },
        {"hold_out": {"clusters": ["natural_language_inference"]}},
    ],
)
def test_what_shapes_a_training_is_in_its_key(changes: dict[str, Any], tmp_path: Path, tiny_folder: Path) -> None:
    ours = plan_sweep("few-shot", base_recipe(tmp_path, tiny_folder), tmp_path, points=["0"])
    theirs = plan_sweep("few-shot", base_recipe(tmp_path, tiny_folder, **changes), tmp_path, points=["0"])
    assert chains(ours)["tuned-0-shot"][0] != chains(theirs)["tuned-0-shot"][0]


def test_evaluation_is_in_the_key_of_the_evaluation_alone(tmp_path: Path, tiny_folder: Path) -> None:
    ours = chains(plan_sweep("few-shot", base_recipe(tmp_path, tiny_folder), tmp_path, points=["0"]))["tuned-0-shot"]
    other = base_recipe(tmp_path, tiny_folder, evaluation={"rows": 4, "token_budget": 512}, name="x", description="y")
    theirs = chains(plan_sweep("few-shot", other, tmp_path, points=["0"]))["tuned-0-shot"]
    assert ours[0] == theirs[0]
    assert ours[1] != theirs[1]


def test_a_sweep_is_carried_out_once(recipe: Recipe, tmp_path: Path) -> None:
    sweep = plan_sweep("clusters", recipe, tmp_path, points=["1"])
    told = carry_through(sweep)
    assert told == [("evaluate untuned", ""), ("train on 2 tasks", ""), ("evaluate 1 training cluster, 2 tasks", "")]
    assert set(states(sweep).values()) == {"done"}
    trained = sweep.cells["clusters-1"][0].folder
    assert seconds_of(trained) > 0
    assert not list((trained / "training").glob("step-*"))
    results = scores(sweep)
    assert trained_on(results["untuned"]) is None
    assert set((trained_on(results["clusters-1"]) or {}).values()) == {"summarization"}
    assert set(results["clusters-1"].clusters) == {"natural_language_inference", "coreference"}
    assert results["clusters-1"].variants["instruction"].model == f"{recipe.model}, tuned"
    assert results["clusters-1"].name == "1 training cluster, 2 tasks"
    again = plan_sweep("clusters", recipe, tmp_path, points=["1"])
    assert set(states(again).values()) == {"done"}
    assert (again.to_do(), carry_through(again)) == ([], [])
    assert {row["seconds"] for row in again.plan()} == {0}


def test_held_in_tasks_are_evaluated_and_marked_as_seen(recipe: Recipe, tmp_path: Path, tiny_folder: Path) -> None:
    sweep = plan_sweep("scale", recipe, tmp_path, points=[str(tiny_folder), "other/model"], only=["tuned-held-in-1"])
    carry_through(sweep)
    [results] = scores(sweep).values()
    assert all(task.seen for task in results.tasks.values())
    assert set(results.clusters) == {"sentiment", "closed_book_qa", "summarization"}


def test_supervised_learning_trains_on_its_task_alone(recipe: Recipe, tmp_path: Path) -> None:
    sweep = plan_sweep("holdouts", recipe, tmp_path, points=["sentiment"], only=["supervised-product-reviews"])
    carry_through(sweep)
    [results] = scores(sweep).values()
    assert list(results.tasks) == list(trained_on(results) or {}) == ["product_reviews"]
    assert results.tasks["product_reviews"].seen == "the model was trained on its train rows"
    assert listed(sweep)["tuned-sentiment"] == "waiting"


def test_prompts_are_learned_from_the_tuned_and_the_untuned_model(recipe: Recipe, tmp_path: Path) -> None:
    sweep = plan_sweep("prompt-tuning", recipe, tmp_path, points=["8"], only=["*-everyday-entailment"])
    untuned, tuned = (chains(sweep)[f"{way}-8-everyday-entailment"] for way in ("untuned", "tuned"))
    assert (len(untuned), len(tuned)) == (2, 3)
    carry_through(sweep)
    assert set(states(sweep).values()) == {"done"}
    results = scores(sweep)
    assert list(results["tuned-8-everyday-entailment"].tasks) == ["everyday_entailment"]
    trained = {name: set(trained_on(found) or {}) for name, found in results.items()}
    assert trained["untuned-8-everyday-entailment"] == {"everyday_entailment"}
    assert trained["tuned-8-everyday-entailment"] > {"everyday_entailment", "product_reviews"}


def test_commands_at_once_keep_what_each_other_has_done(recipe: Recipe, tmp_path: Path) -> None:
    ours, theirs, more = (
        plan_sweep("clusters", recipe, tmp_path, only=[cell], seeds=seeds)
        for cell, seeds in (("clusters-1", 1), ("untuned", 1), ("clusters-1-seed-1", 2))
    )
    waiting = dict.fromkeys(("untuned", "clusters-1", "clusters-2", "clusters-3"), "waiting")
    ours.write()
    assert listed(ours) == waiting
    carry_through(theirs)
    assert listed(ours) == waiting | {"untuned": "done"}
    carry_through(more)
    carry_through(ours)
    theirs.write()
    done = {"untuned": "done", "clusters-1": "done", "clusters-1-seed-1": "done"}
    assert listed(ours) == waiting | done


def test_a_deleted_result_is_missing_on_the_page_of_a_command_for_other_cells(recipe: Recipe, tmp_path: Path) -> None:
    before = plan_sweep("clusters", recipe, tmp_path, only=["untuned"])
    carry_through(before)
    (before.cells["untuned"][0].folder / "results.json").unlink()
    plan_sweep("clusters", recipe, tmp_path, only=["clusters-1"]).write()
    assert set(listed(before).values()) == {"waiting"}


def test_cells_of_another_recipe_of_the_same_name_are_not_listed(recipe: Recipe, tmp_path: Path, tiny_folder: Path) -> None:
    other = plan_sweep("clusters", base_recipe(tmp_path, tiny_folder, seed=1), tmp_path, only=["clusters-1"])
    ours = plan_sweep("clusters", recipe, tmp_path, only=["untuned"])
    assert ours.folder == other.folder
    carry_through(ours)
    assert listed(ours)["untuned"] == "done"
    other.write()
    assert set(listed(ours).values()) == {"waiting"}


class Killed(BaseException):
    """Nothing catches it, as nothing catches a signal 9."""


def test_a_killed_sweep_resumes(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = plan_sweep("clusters", recipe, tmp_path / "whole", points=["1", "2"])
    carry_through(whole)
    root = tmp_path / "killed"
    evaluate = steps_module._evaluate
    kills = 0

    def killed(step: Step) -> None:
        nonlocal kills
        evaluate(step)
        if kills < 2:
            kills += 1
            (step.folder / "results.json").unlink()
            raise Killed

    monkeypatch.setattr(steps_module, "_evaluate", killed)
    for _ in range(2):
        with pytest.raises(Killed):
            carry_through(plan_sweep("clusters", recipe, root, points=["1", "2"]))
    sweep = plan_sweep("clusters", recipe, root, points=["1", "2"])
    assert states(sweep)["untuned"] == "waiting"
    carry_through(sweep)
    assert set(states(sweep).values()) == {"done"}
    assert scores(sweep) == scores(whole)


def test_the_checkpoints_of_a_training_go_though_it_was_killed_when_it_was_done(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = plan_sweep("clusters", recipe, tmp_path, points=["1"], only=["clusters-1"])
    [training, _] = sweep.to_do()
    with monkeypatch.context() as patch:
        patch.setattr(steps_module, "_delete_checkpoints", Mock(side_effect=Killed))
        with pytest.raises(Killed):
            carry_through(sweep)
    assert is_done(training.folder)
    assert list((training.folder / "training").glob("step-*"))
    carry_through(sweep)
    assert states(sweep) == {"clusters-1": "done"}
    assert not list((training.folder / "training").glob("step-*"))


def test_two_commands_do_each_step_once(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (plan_sweep("clusters", recipe, tmp_path, points=["1"], only=["untuned"]) for _ in range(2))
    [step] = first.to_do()
    other = threading.Thread(target=carry_through, args=(second,))
    with alone_in(step.folder):
        assert states(first) == {"untuned": "running"}
        other.start()
        # Until the other has seen the lock. A line may be read in pieces.
        told = ""
        while "Waiting for another command that does the same: evaluate untuned." not in told:
            assert other.is_alive(), told
            told += capsys.readouterr().err
        steps_module._evaluate(step)
        written = (step.folder / "results.json").stat()
    other.join()
    assert (step.folder / "results.json").stat() == written, "it found it done"
    assert states(first) == {"untuned": "done"}


def test_a_failing_cell_stops_only_what_needs_it(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = plan_sweep("clusters", recipe, tmp_path, points=["1", "2"])
    broken = sweep.cells["clusters-1"][0].folder
    train = steps_module._train

    def breaks(step: Step) -> None:
        if step.folder == broken:
            raise FlanlabError("the loss is no number", hint="lower the learning rate")
        train(step)

    monkeypatch.setattr(steps_module, "_train", breaks)
    told = dict(carry_through(sweep))
    assert states(sweep) == {"untuned": "done", "clusters-1": "failed", "clusters-2": "done"}
    assert told["evaluate 1 training cluster, 2 tasks"] == "its training failed"
    [error] = [cell.error for cell in read_sweep_facts(sweep.folder).cells if cell.state == "failed"]
    assert error == told["train on 2 tasks"] == "the loss is no number\n  Hint: lower the learning rate"
    monkeypatch.undo()
    again = plan_sweep("clusters", recipe, tmp_path, points=["1", "2"])
    assert [step.kind for step in again.to_do()] == ["train", "evaluate"]
    carry_through(again)
    assert set(listed(again).values()) == {"done"}
    assert not (broken / ERROR_FILE).exists()


def test_an_unexpected_error_is_left_with_its_traceback(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = plan_sweep("clusters", recipe, tmp_path, points=["1"], only=["untuned"])
    [step] = sweep.to_do()

    def breaks(*arguments: Any, **settings: Any) -> None:
        raise ValueError("no such number")

    monkeypatch.setattr(steps_module, "evaluate_model", breaks)
    error = carry_out(step)
    assert error.startswith("ValueError: no such number\n\nTraceback")
    assert not is_done(step.folder)
    assert (step.folder / ERROR_FILE).read_text(encoding="utf-8") == error


def test_on_ray_the_death_of_a_worker_fails_its_step_and_skips_what_needs_it(recipe: Recipe, tmp_path: Path) -> None:
    """Ray itself is not needed: it raises its error for whatever stands on a task that died."""

    class RayError(Exception):
        pass

    def get(reference: object) -> object:
        raise RayError("The worker died.")

    ray = SimpleNamespace(get=get, exceptions=SimpleNamespace(RayError=RayError))
    training, evaluation = plan_sweep("clusters", recipe, tmp_path, points=["1"], only=["clusters-1"]).to_do()
    assert "The worker died." in _outcome(ray, training, "died")
    assert "The worker died." in (training.folder / ERROR_FILE).read_text(encoding="utf-8")
    assert _outcome(ray, evaluation, "needs the dead one") == "its training failed"
    assert not evaluation.folder.exists()
    assert state_of([training.folder, evaluation.folder]) == "failed"


def test_a_result_that_was_deleted_is_made_again(recipe: Recipe, tmp_path: Path) -> None:
    sweep = plan_sweep("clusters", recipe, tmp_path, points=["1"])
    carry_through(sweep)
    (sweep.cells["untuned"][0].folder / "results.json").unlink()
    assert states(plan_sweep("clusters", recipe, tmp_path, points=["1"])) == {"untuned": "waiting", "clusters-1": "done"}


@pytest.mark.parametrize(
    ("name", "points", "only", "told"),
    [
        ("cluster", [], [], "clusters"),
        ("clusters", ["4"], [], "from 1 to 3"),
        ("clusters", ["two"], [], "'two'"),
        ("few-shot", ["17"], [], "from 0 to 16"),
        ("instructions", ["full"], [], "none-full"),
        ("holdouts", ["translation"], [], "translation"),
        ("scale", ["a/b"], [], "two models"),
        ("clusters", [], ["tuned-*"], "clusters-2"),
    ],
)
def test_faults_are_told(
    name: str, points: Sequence[str], only: Sequence[str], told: str, recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(FlanlabError) as caught:
        plan_sweep(name, recipe, tmp_path, points=points, only=only)
    assert told in str(caught.value)


def test_rows_are_shared_alike_by_tasks() -> None:
    from flanlab.experiments.ablations.clusters_fixed_examples import rows_of_each

    assert rows_of_each([10, 10], 10) == 5
    assert rows_of_each([2, 100], 20) == 18
    assert rows_of_each([3, 4], 100) == 4
    for counts in ([7, 1, 30], [5, 5, 5], [100]):
        cap = rows_of_each(counts, 12)
        assert sum(min(count, cap) for count in counts) <= 12
        assert sum(min(count, cap + 1) for count in counts) > 12 or cap >= max(counts)
