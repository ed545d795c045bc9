"""`flan power`: what a recipe will detect, by a pilot or by defaults, and the cheapest design."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import flanlab as fl
from flanlab.cli.main import app
from flanlab.errors import FlanlabError
from flanlab.experiments.cost import Prices
from flanlab.experiments.power import Asked, cheapest_designs, components_for, detectable_table, planned_differences
from flanlab.tasks.loading import find_task
from tests.evaluation.test_paired import compared
from tests.evaluation.test_results import random_predictions
from tests.report.synthetic import make_run
from tests.tiny import save_tiny, tiny_tasks

RECIPE: dict[str, Any] = {
    "name": "planned",
    "model": "nowhere/model",
    "tasks": {"collections": ["sampler"], "include": ["product_reviews", "visitor_comments", "short_facts"]},
    "hold_out": {"clusters": ["sentiment"]},
    "training": {"steps": 2, "tokens_per_step": 100, "learning_rate": 0.001},
    "evaluation": {"rows": 40, "templates_per_row": 2},
}
HELD_OUT = ("product_reviews", "visitor_comments")


def changed(**evaluation: Any) -> dict[str, Any]:
    return {**RECIPE, "evaluation": {**RECIPE["evaluation"], **evaluation}}


def smallest(table: fl.Table, level: str = "clusters") -> float:
    value: float = table.where(level=level).column("detectable")[0]
    return value


def test_a_pilot_tells_what_the_same_design_told(tmp_path: Path) -> None:
    """Two evaluations through one template as their own pilot: what is expected of their design is what they found."""
    first, second = ([one for one in random_predictions(seed) if one["template"] == 1] for seed in (1, 2))
    told = compared(tmp_path, first, second).difference("task", "comments", "accuracy")
    task = tiny_tasks(tmp_path / "again")[0]
    known = components_for([task], [str(tmp_path / "first"), str(tmp_path / "second")])
    tasks, mean = planned_differences([Asked(task, 1, 40, 40, 1, 40)], known)
    assert told is not None
    assert mean.detectable == tasks["comments"].detectable
    assert mean.detectable == pytest.approx(told.detectable, rel=0.1)
    several, _ = planned_differences([Asked(task, 3, 40, 40, 3, 40)], known)
    assert np.isnan(several["comments"].detectable), "one template says nothing of others"


def test_two_folders_are_a_pilot_too(tmp_path: Path) -> None:
    pilot = make_run(tmp_path / "run", {"untuned_instruction": 5, "tuned": 8})
    one = fl.power(RECIPE, pilot=pilot)
    two = fl.power(RECIPE, pilot=[f"{pilot}:untuned_instruction", f"{pilot}:tuned"])
    assert one.rows() == two.rows()
    assert one.column("task") == [*HELD_OUT, None]
    assert "one training seed" in fl.power(RECIPE, pilot=pilot, seeds=2).rows()[0]["note"]


def test_a_run_with_several_seeds_tells_what_seeds_add(tmp_path: Path) -> None:
    """The same as its untuned model and each of its trainings, named one by one."""
    pilot = make_run(tmp_path / "run", {"untuned_instruction": 5, "tuned": 8})
    other = make_run(tmp_path / "other", {"untuned_instruction": 5, "tuned": 6})
    one_by_one = [f"{pilot}:untuned_instruction", f"{pilot}:tuned", f"{other}:tuned"]
    expected = {seeds: fl.power(RECIPE, pilot=one_by_one, seeds=seeds).column("detectable") for seeds in (1, 2)}
    copytree(other / "predictions" / "tuned", pilot / "seed-1" / "predictions" / "tuned")
    for seeds, values in expected.items():
        assert values[-1] is not None, "the mean, if no task by itself"
        assert fl.power(RECIPE, pilot=pilot, seeds=seeds).column("detectable") == values


def test_without_a_pilot_defaults_by_metric_are_taken() -> None:
    few, many = fl.power(changed(rows=10)), fl.power(RECIPE)
    assert 1 > smallest(few) > smallest(many) > 0.01
    assert smallest(many) < smallest(many, "task")
    tasks = {"collections": ["sampler"]}
    one_seed = fl.power({**RECIPE, "hold_out": {"clusters": ["translation"]}, "tasks": tasks}, seeds=3)
    assert 1 > smallest(one_seed, "task") > 0, "what its pilot of one seed lacks is filled in by others"
    exact = fl.power({**RECIPE, "hold_out": {"clusters": ["closed_book_qa"]}, "tasks": tasks}).where(task="short_facts")
    assert 0.02 < exact.column("detectable")[0] < 0.5, "exact match is measured too"
    unknown_task = find_task("stsb")
    unknown = planned_differences([Asked(unknown_task, 4, 40, 40, 1, 40)], components_for([unknown_task], ()))[0]["stsb"]
    assert np.isnan(unknown.detectable)
    assert "nothing is known of pearson" in unknown.note


def test_where_no_difference_there_can_be_is_seen_none_is_told() -> None:
    task = find_task("sst2")
    hopeless = detectable_table([Asked(task, 2, 6, 6, 2, 6)], components_for([task], ()), 1).rows()[0]
    assert hopeless["detectable"] is None
    assert hopeless["note"].endswith("no difference, however large, would be detected")


def test_what_a_pilot_lacks_is_never_zero(tmp_path: Path) -> None:
    lacking = fl.power(RECIPE, pilot=make_run(tmp_path / "one", {"untuned_chat": 5, "tuned": 8}, tasks=HELD_OUT[:1]))
    assert [row["detectable"] is None for row in lacking] == [False, True, True]
    assert lacking.rows()[1]["note"] == "cannot be estimated: the pilot lacks the task"
    same = fl.power(RECIPE, pilot=make_run(tmp_path / "same", {"untuned_chat": 8, "tuned": 8}))
    assert {row["detectable"] for row in same} == {None}
    assert "no row of the pilot differs" in same.rows()[0]["note"]
    with pytest.raises(FlanlabError, match="no difference between two"):
        fl.power(RECIPE, pilot=make_run(tmp_path / "alone", {"untuned_chat": 8}, trained=False))
    with pytest.raises(FlanlabError, match="nowhere"):
        fl.power(RECIPE, pilot=tmp_path / "nowhere")
    with pytest.raises(FlanlabError, match="between 0 and 1"):
        fl.power(RECIPE, detect=3)


def test_the_cheapest_design_detects_what_is_wanted_and_one_row_less_does_not() -> None:
    tasks = [find_task(name) for name in HELD_OUT]
    asked = [Asked(task, 8, 40, 40, 2, 400) for task in tasks]
    known = components_for(tasks, ())
    prices = Prices(training=100.0, question=0.1, arms={"instruction": 1, "baseline": 1})
    table = cheapest_designs(asked, known, 0.08, prices)
    assert table.column("aim") == ["average"] * 3 + ["every task"] * 3
    for row in table.where(reached=True):
        assert row["detectable"] <= 0.08
        fewer = [one.with_design(row["rows"] - 1, row["templates_per_row"]) for one in asked]
        differences, mean = planned_differences(fewer, known, row["seeds"])
        values = [mean.detectable] if row["aim"] == "average" else [one.detectable for one in differences.values()]
        assert max(values) > 0.08
    never = cheapest_designs(asked, known, 0.001, prices).rows()[0]
    questions = 2 * never["rows"] * never["templates_per_row"]
    assert never["seconds"] == pytest.approx(100 + 0.1 * (2 * questions + 2 * never["rows"]))
    assert (never["reached"], never["rows"], never["templates_per_row"]) == (False, 400, 8)
    assert never["detectable"] > 0.001


def test_on_the_command_line(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({**RECIPE, "model": str(save_tiny(tmp_path / "model", max_position_embeddings=2048))}))
    runner = CliRunner()
    told = runner.invoke(app, ["power", str(recipe)])
    assert told.exit_code == 0, told.output
    assert f"{100 * smallest(fl.power(RECIPE)):.1f}" in told.output
    assert "two small models" in told.output
    pilot = make_run(tmp_path / "run", {"untuned_instruction": 5, "tuned": 8}, tasks=HELD_OUT[:1])
    assert "can't be estimated" in runner.invoke(app, ["power", str(recipe), "--pilot", str(pilot)]).output
    designs = runner.invoke(app, ["power", str(recipe), "--detect", "20", "--json"])
    assert designs.exit_code == 0, designs.output
    rows = json.loads(designs.stdout)
    assert rows[0]["seconds"] > 0
    assert rows[0]["detectable"] <= 0.2 or not rows[0]["reached"]
    assert not np.isnan([row["detectable"] or 1.0 for row in rows]).any()
    assert runner.invoke(app, ["power", str(recipe), "--detect", "20", "--seeds", "2"]).exit_code == 2
