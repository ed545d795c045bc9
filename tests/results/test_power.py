"""Power before the run: components from a pilot, and what another design will detect."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from flanlab.results.intervals import Floats
from flanlab.results.layout import seed_variance
from flanlab.results.power import UNKNOWN, Components, Parts, cell_components, planned, pooled, shown_in_turns

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHARED, OWN, SEED = Parts(0.02, 0.6, 0.2), Parts(0.01, 0.3, 0.1), 0.003
TRUE = Components(Parts(*np.add(SHARED, OWN)), SHARED, SEED)


def cells(shown: Floats, seeds: int, count: int, parts: tuple[Parts, Parts, float] = (SHARED, OWN, SEED)) -> Floats:
    """Normal differences of cells with these components, [count, seeds, templates, units]."""
    generator = np.random.default_rng(0)
    templates, units = shown.shape

    def draw(variance: float, *shape: int) -> Floats:
        return np.sqrt(variance) * generator.standard_normal((count, *shape))

    def layer(some: Parts, seeds: int) -> Floats:
        found: Floats = draw(some.template, seeds, templates, 1) + draw(some.row, seeds, 1, units)
        return found + draw(some.within - some.row, seeds, templates, units)

    values: Floats = (layer(parts[0], 1) + layer(parts[1], seeds) + draw(parts[2], seeds, 1, 1)) * shown
    return values


@pytest.mark.parametrize("per_row", [3, 8])
def test_a_pilots_components_are_without_bias(per_row: int) -> None:
    shown = shown_in_turns(8, 60, per_row)
    found = [cell_components(one, shown) for one in cells(shown, 3, 300)]
    numbers = np.array([[*one.one, *one.shared, one.seed] for one in found])
    error = numbers.std(axis=0) / np.sqrt(len(numbers))
    assert numbers.mean(axis=0) == pytest.approx(np.array([*TRUE.one, *TRUE.shared, TRUE.seed]), abs=float(4 * error.max()))
    assert np.all(np.abs(numbers.mean(axis=0) - [*TRUE.one, *TRUE.shared, TRUE.seed]) < 4 * error)


@pytest.mark.parametrize(
    ("templates", "units", "per_row", "seeds"),
    [(1, 40, 1, 1), (8, 50, 1, 1), (8, 50, 3, 1), (5, 30, 5, 1), (6, 40, 2, 4), (6, 40, 6, 4)],
)
def test_a_design_has_the_variance_that_is_expected_of_it(templates: int, units: int, per_row: int, seeds: int) -> None:
    shown = shown_in_turns(templates, units, per_row)
    expected = planned(TRUE, shown, seeds).variance
    found = seed_variance(cells(shown, seeds, 1_500), shown)
    for name in ("between", "common", "floor"):
        numbers = getattr(found, name)
        assert getattr(expected, name) == pytest.approx(
            numbers.mean(), abs=4 * numbers.std() / np.sqrt(len(numbers)) + 1e-12
        ), name
    assert expected.between_freedom == found.between_freedom[0]
    assert expected.common_error == pytest.approx(np.sqrt((found.common_error**2).mean()), rel=0.2)


def test_more_rows_templates_and_seeds_detect_smaller_differences() -> None:
    def smallest(*design: int) -> float:
        return planned(TRUE, shown_in_turns(*design[:3]), design[3]).detectable

    assert smallest(8, 40, 1, 1) > smallest(8, 80, 1, 1) > smallest(8, 80, 2, 1) > smallest(8, 80, 8, 1) > 0
    assert smallest(8, 80, 8, 1) > smallest(16, 80, 16, 1)
    assert smallest(8, 80, 8, 3) > smallest(8, 80, 8, 6)


def test_rows_take_turns_with_templates_as_in_an_evaluation() -> None:
    assert shown_in_turns(3, 3, 2).tolist() == [[1, 1, 0], [1, 0, 1], [0, 1, 1]]
    assert shown_in_turns(8, 3, 2).shape == (6, 3), "templates without a row are left out"


def test_what_a_pilot_lacks_cannot_be_estimated() -> None:
    all_shown, in_turn, alone = shown_in_turns(5, 20, 5), shown_in_turns(5, 40, 1), shown_in_turns(1, 20, 1)
    pilots = {
        "the pilot has one template": cell_components(cells(alone, 1, 1)[0], alone),
        "one row, or one": cell_components(cells(shown_in_turns(5, 1, 5), 1, 1)[0], shown_in_turns(5, 1, 5)),
        "no row of the pilot differs": cell_components(np.ones((1, 5, 20)), all_shown),
        "each row through one template": cell_components(cells(in_turn, 1, 1)[0], in_turn),
        "lacks the task": Components(UNKNOWN, why="the pilot lacks the task"),
    }
    for why, found in pooled(pilots).items():
        difference = planned(found, all_shown)
        assert np.isnan([difference.detectable, difference.standard_error, difference.low]).all(), why
        assert difference.note.startswith("cannot be estimated"), why
        assert why in difference.note
    one_seed = pooled({"task": cell_components(cells(all_shown, 1, 1)[0], all_shown)})["task"]
    assert planned(one_seed, all_shown).detectable > 0
    assert "one training seed" in planned(one_seed, all_shown, seeds=2).note
    assert "too few rows" in planned(one_seed, shown_in_turns(5, 1, 5)).note
    # What they do say of designs like their own is told.
    assert planned(pooled(pilots)["the pilot has one template"], shown_in_turns(1, 100, 1)).detectable > 0
    assert planned(pooled(pilots)["each row through one template"], shown_in_turns(5, 100, 1)).detectable > 0


def test_tasks_of_a_pilot_lend_each_other_what_templates_add() -> None:
    shown = shown_in_turns(8, 10, 8)
    raw = {str(task): cell_components(one, shown) for task, one in enumerate(cells(shown, 2, 40))}
    found = pooled(raw)
    ratios = {
        name: [one.one.template / one.one.within for one in some.values()] for name, some in (("raw", raw), ("pooled", found))
    }
    assert min(ratios["raw"]) < 0 <= min(ratios["pooled"])
    true = TRUE.one.template / TRUE.one.within
    assert np.mean(np.subtract(ratios["pooled"], true) ** 2) < 0.3 * np.mean(np.subtract(ratios["raw"], true) ** 2)
    assert len({round(one.seed / one.one.within, 9) for one in found.values()}) == 1
    different = replace(raw["0"], one=raw["0"].one._replace(template=5.0))
    assert pooled({**raw, "other": different})["other"].one.template > 1, "a task that differs beyond chance stays different"


@pytest.fixture(scope="module")
def benchmark_module() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("power_benchmark", BENCHMARKS / "power.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


@pytest.mark.slow
def test_what_is_predicted_is_realised_in_designs_held_back(benchmark_module: ModuleType) -> None:
    kind = benchmark_module.KINDS[0]
    results = benchmark_module.measure(kind, repetitions=400)
    assert len({result.design for result in results}) == 5
    for result in results:
        assert result.predicted == pytest.approx(result.realised, rel=0.15), result
