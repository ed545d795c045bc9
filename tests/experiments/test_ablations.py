"""The cells of the ablations, from planned recipes alone: no model, and no rows but made-up ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from flanlab.data.reader import RowReader
from flanlab.data.sources import Rows
from flanlab.experiments.ablations import ablation_names, make_ablation
from flanlab.experiments.cells import Ablation, Cell, changed, with_seeds
from flanlab.experiments.recipe import Plan, Recipe, divide, make_plan, read_recipe
from flanlab.tasks.schema import Split, Task
from tests.experiments.test_sweep import base_recipe
from tests.task_files import refusal, rows_in_memory, task_content, write_task_file

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return base_recipe(tmp_path, Path("no/model"))


def make_plan_of(recipe: Recipe) -> Plan:
    class InMemory(RowReader):
        def read(self, task: Task, split: Split) -> Rows:
            return rows_in_memory([{}] * 10)

    return make_plan(recipe, InMemory())


def ablate(name: str, recipe: Recipe, points: Sequence[str] = ()) -> Ablation:
    return make_ablation(name, make_plan_of(recipe), points)


def cells(ablation: Ablation) -> dict[str, Cell]:
    return {cell.name: cell for cell in ablation.cells}


def test_clusters_that_the_base_leaves_out_are_held_out_in_their_turn() -> None:
    """Paraphrase is too close to inference to train beside it, but can be held out itself."""
    base = read_recipe(RECIPES / "ablation-base.yaml")
    found = cells(ablate("holdouts", base, ["paraphrase"]))
    assert {"untuned-paraphrase", "tuned-paraphrase", "supervised-mrpc"} <= set(found)
    assert found["tuned-paraphrase"].recipe.hold_out.clusters == ["paraphrase"]
    assert {name for name in cells(ablate("holdouts", base)) if name.startswith("tuned-")} >= {
        "tuned-paraphrase", "tuned-natural-language-inference", "tuned-translation",
    }  # fmt: skip


@pytest.mark.parametrize("name", ablation_names())
def test_a_base_that_scores_trained_tasks_suits_every_ablation(name: str) -> None:
    """Cells may train on fewer tasks than the recipe names in `in_domain`, or hold them out."""
    points = {"scale": ["small/model", "large/model"], "settings": ["tasks.exclude=[which_section]"]}
    ablation = ablate(name, read_recipe(Path("quickstart")), points.get(name, []))
    for cell in ablation.cells:
        split = divide(cell.recipe)
        assert split.in_domain if cell.scope == "held_in" else split.test
        if cell.training is not None:
            assert divide(cell.training.recipe).train


def test_a_base_that_holds_out_nothing_is_for_settings_alone(recipe: Recipe) -> None:
    base = changed(recipe, hold_out={"clusters": []})
    error = refusal(lambda: ablate("clusters", base))
    assert "`clusters` scores held-out tasks, and the recipe tiny holds out none" in error.message
    assert "hold_out.clusters" in error.hint
    found = cells(ablate("settings", base, ["training.steps=1"]))
    assert list(found) == ["untuned-trained", "base-trained", "steps-1-trained"]
    assert ablate("holdouts", base, ["sentiment"]).cells


def test_a_base_that_trains_on_what_it_holds_out_is_refused(recipe: Recipe) -> None:
    supervised = changed(recipe, hold_out={"supervised": ["everyday_entailment"]})
    for name in ("clusters", "prompt-tuning"):
        assert "hold_out.supervised" in refusal(lambda name=name: ablate(name, supervised)).message


def test_points_beyond_the_largest_cluster_do_not_exist(recipe: Recipe) -> None:
    found = cells(ablate("tasks-per-cluster", recipe))
    assert list(found) == ["untuned", "tasks-1", "tasks-2"]
    assert "from 1 to 2" in refusal(lambda: ablate("tasks-per-cluster", recipe, ["3"])).message


@pytest.mark.parametrize(
    ("name", "point"), [("clusters", "²"), ("few-shot", "²"), ("prompt-tuning", "²"), ("prompt-tuning", "0")]
)
def test_points_that_are_no_plain_numbers_are_refused(name: str, point: str, recipe: Recipe) -> None:
    assert repr(point) in refusal(lambda: ablate(name, recipe, [point])).message


@pytest.mark.parametrize(
    ("name", "points"),
    [("holdouts", ["sentiment", "sentiment"]), ("prompt-tuning", ["8", "8"]), ("clusters", ["1", "1"])],
)
def test_a_point_named_twice_counts_once(name: str, points: list[str], recipe: Recipe) -> None:
    twice, once = (ablate(name, recipe, chosen) for chosen in (points, points[:1]))
    assert [cell.name for cell in twice.cells] == [cell.name for cell in once.cells]
    assert twice.panels == once.panels


def test_no_prompt_can_be_learned_where_nothing_held_out_has_train_rows(tmp_path: Path) -> None:
    write_task_file(tmp_path / "tasks", task_content(source={"files": {"test": "reviews.jsonl"}}))
    content: dict[str, Any] = {
        "tasks": {"collections": ["sampler", "tasks"], "include": ["reviews", "summarization"]},
        "hold_out": {"clusters": ["sentiment"]},
    }
    recipe = base_recipe(tmp_path, Path("no/model"), **content)
    assert "No held-out task has a train split" in refusal(lambda: ablate("prompt-tuning", recipe)).message


def test_with_fixed_rows_the_first_cell_is_that_of_the_plain_ablation(recipe: Recipe) -> None:
    fixed, plain = (cells(ablate(name, recipe)) for name in ("clusters-fixed-examples", "clusters"))
    assert fixed["clusters-1"] == plain["clusters-1"]
    assert fixed["clusters-2"].recipe.mixture.train_cap < plain["clusters-2"].recipe.mixture.train_cap


def test_full_instructions_are_full_whatever_the_base_says(recipe: Recipe) -> None:
    bare = changed(recipe, mixture={"instructions": "none"}, evaluation={"instructions": "name"})
    found = cells(ablate("instructions", bare))["full-full"].recipe
    assert (found.mixture.instructions, found.evaluation.instructions) == ("full", "full")


def test_few_shot_promises_a_spread_only_where_templates_share_rows(recipe: Recipe) -> None:
    each, turns = (
        " ".join(ablate("few-shot", changed(recipe, evaluation={"templates_per_row": count})).notes) for count in (None, 1)
    )
    assert "gives the spread over templates" in each
    assert "no spread over templates is given" in turns
    assert "gives the spread over templates" not in turns


def test_few_shot_crosses_training_and_asking(recipe: Recipe) -> None:
    base = changed(recipe, mixture={"prompt_tokens": 300}, evaluation={"shot_tokens": 480})
    found = cells(ablate("few-shot", base))
    crossed = {
        name: (cell.training.recipe.mixture.shots, cell.recipe.evaluation.shots)
        for name, cell in found.items()
        if cell.training is not None
    }
    assert crossed == {
        "tuned-0-shot": ({0: 1.0}, 0),
        "tuned-16-shot": ({0: 1.0}, 16),
        "tuned-with-exemplars-0-shot": ({16: 1.0}, 0),
        "tuned-with-exemplars-16-shot": ({16: 1.0}, 16),
    }
    with_exemplars = found["tuned-with-exemplars-16-shot"].recipe
    assert (with_exemplars.mixture.shot_tokens, with_exemplars.mixture.prompt_tokens) == (480, 480)
    assert found["tuned-16-shot"].recipe.mixture.prompt_tokens == 300


def test_without_exemplars_nothing_trains_with_them(recipe: Recipe) -> None:
    assert list(cells(ablate("few-shot", recipe, ["0"]))) == ["untuned-0-shot", "tuned-0-shot"]


def test_tasks_and_templates_are_crossed(recipe: Recipe) -> None:
    found = cells(ablate("tasks-by-templates", recipe, ["1x1", "1x4", "2x1", "2x4"]))
    made = {
        name: (len(cell.recipe.tasks.include), cell.recipe.mixture.templates_per_task, cell.recipe.mixture.inverted)
        for name, cell in found.items()
        if name != "untuned"
    }
    held_out = len(make_plan_of(recipe).split.held_out)
    assert made == {
        "tasks-1-templates-1": (held_out + 3, 1, False),
        "tasks-1-templates-4": (held_out + 3, 4, False),
        "tasks-2-templates-1": (held_out + 6, 1, False),
        "tasks-2-templates-4": (held_out + 6, 4, False),
    }
    few, many = (set(found[f"tasks-{count}-templates-1"].recipe.tasks.include) for count in (1, 2))
    assert few < many
    assert len(ablate("tasks-by-templates", recipe).cells) == 1 + 3 * 3
    for point in ("4", "0x1", "1x", "2xx3"):
        assert repr(point) in refusal(lambda point=point: ablate("tasks-by-templates", recipe, [point])).message


def test_figure_6_holds_out_three_clusters_and_adds_seven() -> None:
    base = changed(
        read_recipe(RECIPES / "ablation-base.yaml"),
        tasks={"include": "all", "exclude": []},
        hold_out={"clusters": ["sentiment"], "overlap": "allow"},
    )
    found = ablate("figure-6", base)
    trained = [cell.recipe for cell in found.cells if cell.training is not None]
    splits = [divide(recipe) for recipe in trained]
    assert {task.clusters[0].value for task in splits[0].test} == {
        "natural_language_inference", "closed_book_qa", "commonsense",
    }  # fmt: skip
    assert [len({task.clusters[0] for task in split.train}) for split in splits] == [1, 2, 3, 4, 5, 6, 7]
    assert [len(split.train) for split in splits] == [11, 19, 24, 28, 32, 34, 36], "WSC273 has no train split"
    last = {task.name for task in splits[-1].train} - {task.name for task in splits[-2].train}
    assert last == {"coqa", "quac"}


def test_figure_6_needs_the_clusters_that_it_holds_out(recipe: Recipe) -> None:
    assert "holds out commonsense" in refusal(lambda: ablate("figure-6", recipe)).message


def test_scale_draws_held_in_and_held_out_side_by_side(recipe: Recipe) -> None:
    ablation = ablate("scale", recipe, ["small/model", "large/model"])
    panels = ablation.panels
    held_out = {task.whole.name for task in make_plan_of(recipe).split.test}
    assert f"Held-out tasks: {len(held_out)}, those of the base recipe." in ablation.notes
    assert any("13 held-out tasks" in note and "not chosen here" in note for note in ablation.notes)
    drawn = [{cell for series in panel.series for _, cell in series.points} for panel in panels]
    assert drawn == [
        {f"{way}-{scope}-{place}" for way in ("tuned", "untuned") for place in (1, 2)} for scope in ("held-out", "held-in")
    ]


def test_settings_are_changed_one_by_one_and_asked_the_same(recipe: Recipe) -> None:
    base = changed(recipe, in_domain="all")
    points = ["training.method=lora training.learning_rate=1e-3", "mixture.shots={0: 0.5", "2: 0.5}"]
    ablation = ablate("settings", base, points)
    found = cells(ablation)
    names = ["untuned", "base", "method-lora-learning-rate-1e-3", "shots-0-0-5-2-0-5"]
    assert list(found) == [f"{name}{end}" for name in names for end in ("", "-trained")]
    assert {cell.scope for name, cell in found.items() if name.endswith("-trained")} == {"held_in"}
    assert {cell.recipe.model_dump_json(exclude={"in_domain"}) for cell in found.values()} == {
        base.model_dump_json(exclude={"in_domain"})
    }
    lora, shots = (training.recipe for name in names[2:] if (training := found[name].training))
    assert (lora.training.method, lora.training.learning_rate, lora.mixture) == ("lora", 1e-3, base.mixture)
    assert (shots.mixture.shots, shots.training) == ({0: 0.5, 2: 0.5}, base.training)
    assert ("base", names[2]) in {(pair.before, pair.after) for pair in ablation.comparisons}


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ("training.lr=3", "Did you mean `learning_rate`?"),
        ("training.learning_rate", "changes no setting"),
        ("evaluation.rows=3", "'evaluation.rows' changes no setting of `tasks`, `mixture` or `training`"),
        ("training.learning_rate=[1", "'[1'"),
        ("mixture.shots={0: 0.5, 2: 0.3}", "add up to 0.8"),
    ],
)
def test_a_change_that_a_recipe_does_not_have_is_refused(point: str, expected: str, recipe: Recipe) -> None:
    error = refusal(lambda: ablate("settings", recipe, [point]))
    assert f"--points: {point!r}" in error.message
    assert expected in error.message
    assert "section.key=value" in refusal(lambda: ablate("settings", recipe)).hint


def test_what_a_recipe_cannot_be_is_told_as_in_a_file(recipe: Recipe) -> None:
    told = refusal(lambda: changed(recipe, mixture={"templates_per_tasks": 2})).message
    assert "cannot be varied so: unknown field `mixture.templates_per_tasks`. Did you mean `templates_per_task`?" in told


def test_seeds_repeat_trainings_and_ask_the_same(recipe: Recipe) -> None:
    base = changed(recipe, seed=5)
    once = ablate("prompt-tuning", base, ["8"])
    thrice = with_seeds(once, 3)
    assert with_seeds(once, 1) == once
    assert list(thrice.cells[: len(once.cells)]) == list(once.cells)
    name = next(cell.name for cell in once.cells if cell.name.startswith("tuned-"))
    found = cells(thrice)
    for by in (1, 2):
        cell = found[f"{name}-seed-{by}"]
        assert cell.recipe == found[name].recipe
        assert cell.training is not None
        assert cell.training.start is not None
        trained = [cell.training.recipe, cell.training.start.recipe]
        assert [(one.seed, one.training_seed) for one in (cell.recipe, *trained)] == [(5, 5), (5, 5 + by), (5, 5 + by)]
    assert "untuned-seed-1" not in cells(with_seeds(ablate("clusters", base), 2))
