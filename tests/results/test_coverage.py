"""A small part of `benchmarks/coverage.py`, seeded: 95 % intervals hold the truth about 95 % of the time."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from flanlab.results.statistics import ONE_TEMPLATE, caution, mean_note

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "coverage.py"


@pytest.fixture(scope="module")
def benchmark_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("interval_coverage", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("metric", "templates", "rows", "design"),
    [
        ("accuracy_0.5", 1, 100, "all"),
        ("accuracy_0.5", 3, 100, "all"),
        pytest.param("f1", 3, 60, "one", marks=pytest.mark.slow),
        pytest.param("multirc_f1a", 10, 60, "two", marks=pytest.mark.slow),
        pytest.param("bleu", 5, 60, "all", marks=pytest.mark.slow),
        pytest.param("matthews", 10, 100, "one", marks=pytest.mark.slow),
    ],
)
def test_intervals_hold_the_truth(benchmark_module: ModuleType, metric: str, templates: int, rows: int, design: str) -> None:
    """The limits leave three standard errors for chance; the percentile bootstrap fails them (docs/statistics.md)."""
    kind = next(kind for kind in benchmark_module.KINDS if kind.name == metric)
    results = benchmark_module.measure(kind, templates, rows, design, repetitions=800)
    for result in results:
        assert 0.925 <= result.coverage <= 0.985, result
        assert result.false_alarms is None or result.false_alarms <= 0.075, result


def test_every_kind_of_metric_knows_its_truth(benchmark_module: ModuleType) -> None:
    """The mean of many simulated scores is the truth that intervals are held against."""
    for kind in benchmark_module.KINDS:
        shown, generator = benchmark_module.shown_cells(8, 200, "all"), np.random.default_rng(0)
        sample = benchmark_module.Sample(kind, shown, 100, generator, benchmark_module.Spread())
        values, _, truth = sample.model(1)
        assert values.mean() == pytest.approx(truth.mean(), abs=4 * values.std() / 10 + 2e-3), kind.name


def test_the_table_of_the_docs_has_every_cell_and_those_beyond_the_limits_are_marked(benchmark_module: ModuleType) -> None:
    results = benchmark_module.read(BENCHMARK.parents[1] / "docs" / "results" / "coverage.csv")
    cells = {(kind.name, *design) for kind in benchmark_module.KINDS for design in benchmark_module.designs()}
    quantities = {result.quantity for result in results}
    assert len(quantities) == 6
    assert len(results) == len(cells) * 6
    assert {(one.metric, one.templates, one.rows, one.design, one.quantity) for one in results} == {
        (*cell, quantity) for cell in cells for quantity in quantities
    }
    for result in results:
        assert result.repetitions >= 1_000
        if not benchmark_module.is_within(result):
            assert benchmark_module.mark_of(result) == "marked", result


def test_the_table_of_the_docs_has_todays_marks(benchmark_module: ModuleType) -> None:
    """What a design alone says; how near a score is to its bound is not in the table."""
    results = benchmark_module.read(BENCHMARK.parents[1] / "docs" / "results" / "coverage.csv")
    kinds = {kind.name: kind for kind in benchmark_module.KINDS}
    for result in results:
        shown = benchmark_module.shown_cells(result.templates, result.rows, result.design)
        seeds = benchmark_module.SEEDS if "seeds" in result.quantity else 1
        note = caution(shown, seeds, np.inf, correlation=kinds[result.metric].bounds[0] < 0)
        note = mean_note([note] * 5) if "tasks" in result.quantity else note
        if note not in ("", ONE_TEMPLATE):
            assert result.marked == 1, result
        elif result.metric != "accuracy_0.95":
            assert result.marked < 0.5, result


def test_a_mark_that_is_missing_is_found(benchmark_module: ModuleType) -> None:
    """Doubtful are the cells that lie beyond the limits without a mark, and those of the fewest rows."""
    beyond = benchmark_module.Result("f1", "all", 4, 300, "difference", 0.97, 1.0, None, 0.0, 1_000)
    assert benchmark_module.is_doubtful(beyond)
    assert not benchmark_module.is_doubtful(replace(beyond, marked=1.0))
    assert not benchmark_module.is_doubtful(replace(beyond, coverage=0.95))
    assert benchmark_module.is_doubtful(replace(beyond, coverage=0.95, rows=30))
