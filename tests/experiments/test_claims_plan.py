"""`flan claims --plan`: what it promises holds for such data, and its commands make the cells that it counted."""

from __future__ import annotations

import fnmatch
import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import flanlab as fl
from flanlab.cli.main import app
from flanlab.experiments.ablations import make_ablation
from flanlab.experiments.cells import with_seeds
from flanlab.experiments.claims import claims
from flanlab.experiments.claims_plan import BASE_RECIPE, ClaimDesign, write_base_recipe
from flanlab.experiments.paper_claims import CLAIMS, Claim
from flanlab.experiments.power import Asked
from flanlab.experiments.recipe import make_plan, read_recipe
from flanlab.results.power import components, pooled
from tests.experiments.test_claims import TASKS, TEMPLATES, cell
from tests.experiments.test_sweep import base_recipe
from tests.task_files import refusal
from tests.tiny import save_tiny

ROWS = 80
BY_NAME = {claim.name: claim for claim in CLAIMS}


def design(claim: Claim, names: Sequence[str], pilot_seeds: Sequence[int], rows: int = ROWS, power: float = 0.8) -> ClaimDesign:
    """Of the made-up tasks, each row through all templates; what they vary by from two cells alike but for chance."""
    before, after = (cell(0.5, ROWS, seed).grids for seed in pilot_seeds)
    known = pooled({task: components(before[task], after[task]) for task in TASKS})
    tasks: Any = [SimpleNamespace(name=task, clusters=[SimpleNamespace(value=home)]) for task, home in TASKS.items()]
    asked = [Asked(task, TEMPLATES, rows, rows, TEMPLATES, 100_000) for task in tasks]
    return ClaimDesign(claim, [(part, [asked] * len(part.sums)) for part in claim.parts(names)], known, 1, power)


@pytest.mark.parametrize(
    ("name", "ablation", "names"),
    [
        ("few-shot adds", "few-shot", ["tuned-0-shot", "tuned-with-exemplars-16-shot"]),
        ("more clusters", "figure-6", ["clusters-1", "clusters-2", "clusters-3", "clusters-4"]),
        ("more data sets", "tasks-by-templates", [f"tasks-{one}-templates-{other}" for one in (1, 4) for other in (1, 10)]),
        ("few-shot shrinks the spread", "few-shot", ["tuned-0-shot", "tuned-with-exemplars-16-shot"]),
    ],
)
def test_what_a_plan_promises_is_what_such_cells_tell(name: str, ablation: str, names: list[str]) -> None:
    """From a pilot of two cells, the detectable effect that the verdict on other cells of that size tells: the mean of some."""
    told = []
    for turn in range(8):
        made = {one: cell(0.5, ROWS, 1000 + 10 * turn + place) for place, one in enumerate(names)}
        verdict = next(one for one in claims({ablation: made}) if one.claim.name == name)
        assert verdict.detectable is not None
        told.append(verdict.detectable)
    planned = design(BY_NAME[name], names, (1, 2)).detectable()[0]
    # The plan of a spread is on the safe side, by up to the square root of two.
    low, high = (0.9, 1.7) if BY_NAME[name].statistic == "spread" else (0.8, 1.25)
    assert low < planned / (sum(told) / len(told)) < high


def test_more_power_needs_more_and_the_rows_needed_do_it() -> None:
    names = ["tuned-0-shot", "tuned-with-exemplars-16-shot"]
    plan = design(BY_NAME["few-shot adds"], names, (1, 2))
    # The templates set a limit, however many rows there are.
    now, limit = plan.detectable()[0], plan.detectable(100_000)[0]
    claim = replace(plan.claim, smallest=(now + limit) / 2)
    plans = [replace(plan, claim=claim, power=power) for power in (0.8, 0.85)]
    assert now < plans[1].detectable()[0]
    needed = [one.rows_needed() for one in plans]
    assert needed[0] is not None
    assert needed[1] is not None
    assert ROWS < needed[0] < needed[1]
    assert plans[0].detectable(needed[0])[0] <= claim.smallest < plans[0].detectable(needed[0] - 1)[0]
    assert replace(plan, claim=replace(claim, smallest=limit / 2)).rows_needed() is None


@pytest.fixture
def models(tiny_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    return tiny_folder, save_tiny(tmp_path / "larger", hidden_size=64)


@pytest.mark.slow
def test_the_commands_make_the_cells_that_were_counted(models: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = base_recipe(tmp_path, models[0])
    arguments = ["claims", str(tmp_path / "out"), "--plan", str(tmp_path / "base.yaml"), "--plan", str(models[1])]
    done = CliRunner().invoke(app, [*arguments, "--seeds", "2", "--json"])
    assert done.exit_code == 0, done.output
    rows = {row["claim"]: row for row in json.loads(done.stdout)}
    assert list(rows) == [claim.name for claim in CLAIMS]
    plan = make_plan(recipe)
    for row in rows.values():
        _, _, name, _, *options = shlex.split(row["command"])
        pairs = list(zip(options[::2], options[1::2], strict=True))
        points = next((value.split(",") for option, value in pairs if option == "--points"), [])
        patterns = [value for option, value in pairs if option == "--only"] or ["*"]
        ablation = make_ablation(name, plan, points)
        cells, names = ([one.name for one in grid.cells] for grid in (with_seeds(ablation, 2), ablation))
        made = {one for pattern in patterns for one in fnmatch.filter(cells, pattern)}
        needed = {
            cell for claim in CLAIMS if rows[claim.name]["ablation"] == name
            for part in claim.parts(names) for weights in part.sums for cell in weights
        }  # fmt: skip
        trained = {one for one in needed if f"{one}-seed-1" in cells}
        assert made == needed | {f"{one}-seed-1" for one in trained}
    counted = {name: row["trainings"] for name, row in rows.items() if row["cells"]}
    # Three ways to train, by two seeds. The fullest one is that of all clusters, of zero-shot and of the smaller model too.
    assert counted["held-out gain"] == 6
    assert (counted["few-shot adds"], counted["scale"]) == (2, 2)
    assert "instructions matter" not in counted, "its cells are those of the first claim"


@pytest.mark.slow
def test_a_plan_is_printed_and_says_what_is_lacking(models: tuple[Path, Path], tmp_path: Path) -> None:
    base_recipe(tmp_path, models[0], evaluation={"rows": 20, "templates_per_row": 1, "generate": False, "pmi": False})
    done = CliRunner().invoke(app, ["claims", str(tmp_path / "out"), "--plan", str(tmp_path / "base.yaml")])
    assert done.exit_code == 0, done.output
    assert "scale: The ablation of scale compares two models or more." in done.stdout
    assert "a spread over templates needs each row through all templates" in done.stdout
    assert f"flan ablate few-shot {tmp_path / 'base.yaml'} --only 'tuned-0-*'" in done.stdout
    assert not (tmp_path / "out").exists(), "a plan of a recipe writes nothing"


def test_a_model_gets_a_base_recipe_that_can_be_read(tmp_path: Path) -> None:
    path = write_base_recipe("some/model", tmp_path / "out")
    assert path == tmp_path / "out" / BASE_RECIPE
    assert read_recipe(path).model == "some/model"
    path.write_text(path.read_text(encoding="utf-8").replace("steps: 500", "steps: 7"), encoding="utf-8")
    assert read_recipe(write_base_recipe("some/model", tmp_path / "out")).training.steps == 7
    assert "for some/model" in refusal(lambda: write_base_recipe("another/model", tmp_path / "out")).message


def test_numbers_out_of_range_are_refused(models: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = base_recipe(tmp_path, models[0])
    for options in ({"seeds": 0}, {"power": 80.0}, {"power": 0.3}):
        assert "between 0.5 and 1" in refusal(lambda options=options: fl.plan_claims(recipe, **options)).message  # type: ignore[misc]
    done = CliRunner().invoke(app, ["claims", str(tmp_path), "--seeds", "3"])
    assert done.exit_code == 2
    assert "--plan" in done.output
