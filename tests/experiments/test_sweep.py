"""Sweeps on a tiny model: what they plan, share, leave, and that they can be stopped anywhere."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from flanlab.errors import FlanlabError
from flanlab.experiments import sweep as sweep_module
from flanlab.experiments import sweep_jobs
from flanlab.experiments.ablations import ablation_names
from flanlab.experiments.cells import changed
from flanlab.experiments.recipe import Recipe, read_recipe
from flanlab.experiments.sweep import Sweep, run_locally, run_sweep
from flanlab.experiments.sweep_jobs import Job, carry_out, is_done, read_record
from flanlab.experiments.sweep_planning import plan_sweep
from flanlab.experiments.sweep_ray import _outcome, _run
from flanlab.files import write_json
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
    """Run it; the changes of state that were told of."""
    told: list[tuple[str, str]] = []
    run_sweep(sweep, run_locally, lambda job, state, error: told.append((job.title, state)))
    return told


def states(sweep: Sweep) -> dict[str, str]:
    return {planned.cell.name: sweep.state_of(planned) for planned in sweep.cells}


def chains(sweep: Sweep) -> dict[str, tuple[str, ...]]:
    return {planned.cell.name: planned.chain for planned in sweep.cells}


def scores(sweep: Sweep) -> dict[str, Results]:
    """Each cell's results."""
    return {planned.cell.name: read_results(sweep.jobs[planned.chain[-1]].folder) for planned in sweep.cells}


def trained_on(results: Results) -> dict[str, str] | None:
    """What the model of a cell was trained on."""
    return next(iter(results.variants.values())).trained_on


def test_clusters_are_added_one_after_another(recipe: Recipe, tmp_path: Path) -> None:
    sweep = plan_sweep("clusters", recipe, tmp_path / "out")
    assert list(states(sweep)) == ["untuned", "clusters-1", "clusters-2", "clusters-3"]
    trained = [
        {task["cluster"] for task in _trained_on(cell.recipe)} for cell in sweep.ablation.cells if cell.training is not None
    ]
    assert trained == [
        {"summarization"}, {"summarization", "sentiment"}, {"summarization", "sentiment", "closed_book_qa"},
    ]  # fmt: skip
    assert not (tmp_path / "out").exists()


def _trained_on(recipe: Recipe) -> list[dict[str, Any]]:
    from flanlab.experiments.recipe import make_plan

    return [{"name": task.name, "cluster": task.clusters[0].value} for task in make_plan(recipe).split.train]


def test_every_ablation_can_be_planned(recipe: Recipe, tmp_path: Path, tiny_folder: Path) -> None:
    points = {"scale": [str(tiny_folder), str(tiny_folder)]}
    bases = {"figure-6": changed(recipe, tasks={"include": "all"})}
    points["figure-6"] = ["1"]
    for name in ablation_names():
        sweep = plan_sweep(name, bases.get(name, recipe), tmp_path / "out", points=points.get(name, ()))
        names = [cell.name for cell in sweep.ablation.cells]
        assert len(set(names)) == len(names)
        drawn = {cell for panel in sweep.ablation.panels for series in panel.series for _, cell in series.points}
        compared = {cell for pair in sweep.ablation.comparisons for cell in (pair.before, pair.after)}
        assert drawn | compared <= set(names)
        assert set(states(sweep).values()) == {"waiting"}
        assert all(job.cost["tokens"] and job.cost["seconds"] >= 0 for job in sweep.waiting())


def test_equal_work_is_shared_between_cells_and_ablations(recipe: Recipe, tmp_path: Path) -> None:
    clusters = chains(plan_sweep("clusters", recipe, tmp_path))
    instructions = chains(plan_sweep("instructions", recipe, tmp_path))
    few_shot = chains(plan_sweep("few-shot", recipe, tmp_path, points=["0", "2"]))
    templates = chains(plan_sweep("templates", recipe, tmp_path, points=["1"]))
    assert clusters["clusters-3"] == instructions["full-full"] == few_shot["tuned-0-shot"] == templates["inverted"]
    assert clusters["untuned"] == instructions["untuned"] == few_shot["untuned-0-shot"]
    assert instructions["name-full"][0] == instructions["name-name"][0]
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
    assert [title for title, state in told if state == "done"] == [
        "evaluate untuned", "train on 2 tasks", "evaluate 1 training cluster, 2 tasks",
    ]  # fmt: skip
    assert set(states(sweep).values()) == {"done"}
    trained = sweep.jobs[chains(sweep)["clusters-1"][0]].folder
    assert not list((trained / "training").glob("step-*"))
    results = scores(sweep)
    assert trained_on(results["untuned"]) is None
    assert set((trained_on(results["clusters-1"]) or {}).values()) == {"summarization"}
    assert set(results["clusters-1"].clusters) == {"natural_language_inference", "coreference"}
    assert results["clusters-1"].variants["instruction"].model == f"{recipe.model}, tuned"
    assert results["clusters-1"].name == "1 training cluster, 2 tasks"
    again = plan_sweep("clusters", recipe, tmp_path, points=["1"])
    assert set(states(again).values()) == {"done"}
    assert (again.expected_seconds(), again.waiting(), carry_through(again)) == (0, [], [])


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
    assert "tuned-sentiment" in sweep.as_dict()["left_out"]


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
    def told() -> tuple[list[tuple[str, str]], list[str]]:
        content = json.loads((ours.folder / "sweep.json").read_text())
        return [(cell["name"], cell["state"]) for cell in content["cells"]], content["left_out"]

    ours, theirs = (plan_sweep("clusters", recipe, tmp_path, only=[cell]) for cell in ("clusters-1", "untuned"))
    ours.write()
    carry_through(theirs)
    assert told() == ([("untuned", "done")], ["clusters-1", "clusters-2", "clusters-3"])
    carry_through(ours)
    assert told() == ([("untuned", "done"), ("clusters-1", "done")], ["clusters-2", "clusters-3"])
    theirs.write()
    assert told() == ([("untuned", "done"), ("clusters-1", "done")], ["clusters-2", "clusters-3"])


def test_cells_that_hold_no_longer_are_left_out(recipe: Recipe, tmp_path: Path) -> None:
    before = plan_sweep("clusters", recipe, tmp_path, only=["untuned"])
    carry_through(before)
    (before.jobs[chains(before)["untuned"][0]].folder / "results.json").unlink()
    after = plan_sweep("clusters", recipe, tmp_path, only=["clusters-1"])
    assert after.as_dict()["left_out"] == ["untuned", "clusters-2", "clusters-3"]


def test_cells_of_another_recipe_of_the_same_name_are_left_out(recipe: Recipe, tmp_path: Path, tiny_folder: Path) -> None:
    other = plan_sweep("clusters", base_recipe(tmp_path, tiny_folder, seed=1), tmp_path, only=["clusters-1"])
    ours = plan_sweep("clusters", recipe, tmp_path, only=["untuned"])
    assert ours.folder == other.folder
    carry_through(ours)
    assert other.as_dict()["left_out"] == ["untuned", "clusters-2", "clusters-3"]


class Killed(BaseException):
    """Nothing catches it, as nothing catches a signal 9."""


def test_a_killed_sweep_goes_on_where_it_was(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = plan_sweep("clusters", recipe, tmp_path / "whole", points=["1", "2"])
    carry_through(whole)
    root = tmp_path / "killed"
    evaluate = sweep_jobs._evaluate
    kills = 0

    def killed(job: Job) -> None:
        nonlocal kills
        evaluate(job)
        if kills < 2:
            kills += 1
            (job.folder / "results.json").unlink()
            raise Killed

    monkeypatch.setattr(sweep_jobs, "_evaluate", killed)
    for _ in range(2):
        with pytest.raises(Killed):
            carry_through(plan_sweep("clusters", recipe, root, points=["1", "2"]))
    sweep = plan_sweep("clusters", recipe, root, points=["1", "2"])
    # What was finished but not noted when it was killed is gone through once more, from its predictions.
    carry_through(sweep)
    assert set(states(sweep).values()) == {"done"}
    assert scores(sweep) == scores(whole)


def test_time_and_speed_of_a_job_whose_worker_was_killed(recipe: Recipe, tmp_path: Path) -> None:
    sweep = plan_sweep("clusters", recipe, tmp_path, points=["1"], only=["untuned"])
    [job] = sweep.waiting()
    write_json(job.record_file, {"state": "running", "seconds": 1000.0})
    began = job.record_file.stat().st_mtime
    write_json(job.folder / "part", {})
    os.utime(job.folder / "part", (began + 500, began + 500))
    carry_out(job)
    record = read_record(job)
    assert 1500 <= record["seconds"] < 1600
    assert "tokens_per_second" not in record, "it does not hold for the work before"


def test_a_failing_cell_stops_only_what_needs_it(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = plan_sweep("clusters", recipe, tmp_path, points=["1", "2"])
    broken = chains(sweep)["clusters-1"][0]

    def breaks(job: Job) -> None:
        if job.key == broken:
            raise FlanlabError("the loss is no number", hint="lower the learning rate")
        carry_out(job)

    monkeypatch.setattr(sweep_module, "carry_out", breaks)
    told = carry_through(sweep)
    assert states(sweep) == {"untuned": "done", "clusters-1": "failed", "clusters-2": "done"}
    assert ("evaluate 1 training cluster, 2 tasks", "skipped") in told
    [failed] = sweep.failed()
    assert "lower the learning rate" in sweep.error_of(failed)
    monkeypatch.undo()
    again = plan_sweep("clusters", recipe, tmp_path, points=["1", "2"])
    assert states(again) == {"untuned": "done", "clusters-1": "waiting", "clusters-2": "done"}
    carry_through(again)
    assert set(states(again).values()) == {"done"}


def test_on_ray_the_death_of_a_worker_fails_its_job_and_skips_what_needs_it() -> None:
    """Ray itself is not needed: it raises its error for whatever stands on a task that died."""

    class RayError(Exception):
        pass

    def get(reference: object) -> object:
        if reference != "done":
            raise RayError("The worker died.")
        return "done", ""

    ray = SimpleNamespace(get=get, exceptions=SimpleNamespace(RayError=RayError))
    assert _outcome(ray, "needs the dead one", "died") == ("skipped", "")
    for needed in (None, "done"):
        state, error = _outcome(ray, "died", needed)
        assert state == "failed"
        assert "The worker died." in error


def test_on_ray_a_worker_killed_long_ago_is_not_told_as_running(recipe: Recipe, tmp_path: Path) -> None:
    """Ray itself is not needed: a look that finds nothing, one that finds the worker at it, and one that finds it done."""
    sweep = plan_sweep("clusters", recipe, tmp_path, points=["1"], only=["untuned"])
    [job] = sweep.waiting()
    running = {"state": "running", "host": "a", "process": 1}
    write_json(job.record_file, running)
    looks = iter([[], [], ["reference"]])
    told: list[str] = []

    def wait(pending: list[object], **_: object) -> tuple[list[object], None]:
        found = next(looks)
        if told == ["nothing yet"]:
            write_json(job.record_file, running | {"process": 2})
        told.append("nothing yet")
        return found, None

    ray = SimpleNamespace(wait=wait, get=lambda _: ("done", ""), exceptions=SimpleNamespace(RayError=OSError))
    remote = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: "reference"))
    _run(ray, remote, [job], lambda _, state, __: told.append(state))
    assert told == ["nothing yet", "nothing yet", "running", "nothing yet", "done"]


def test_any_error_of_a_job_is_kept_with_it(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = plan_sweep("clusters", recipe, tmp_path, points=["1"], only=["untuned"])
    [job] = sweep.waiting()

    def breaks(*arguments: Any, **settings: Any) -> None:
        raise ValueError("no such number")

    monkeypatch.setattr(sweep_jobs, "evaluate_model", breaks)
    with pytest.raises(ValueError, match="no such number"):
        carry_out(job)
    assert not is_done(job)
    record = json.loads(job.record_file.read_text())
    assert (record["state"], record["error"]) == ("failed", "ValueError: no such number")


def test_a_result_that_was_deleted_is_made_anew(recipe: Recipe, tmp_path: Path) -> None:
    sweep = plan_sweep("clusters", recipe, tmp_path, points=["1"])
    carry_through(sweep)
    (sweep.jobs[chains(sweep)["untuned"][0]].folder / "results.json").unlink()
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
