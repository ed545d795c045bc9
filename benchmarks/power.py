"""Whether the smallest detectable difference that is told before a run is the one that runs then detect, by simulation.

The evaluations of `coverage.py`, whose truth is known, are drawn first as a pilot of a few tasks, then again in designs that
the pilot knows nothing of. `predicted` is what `flanlab.results.power` makes of the pilot; `realised` the true difference that
80 % of the runs detect; `told` the median of what they tell themselves (`Difference.detectable`). Points.

    python benchmarks/power.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from coverage import CHUNK_CELLS, KINDS, Floats, Kind, Sample, Spread

from flanlab.results.intervals import POWER, critical, detectable
from flanlab.results.layout import Variance, mean_variance, seed_variance, total
from flanlab.results.power import Components, cell_components, planned, pooled, shown_in_turns
from flanlab.results.statistics import mean_difference

TASKS = 5
PILOT = (10, 100, 10)
"""Templates, rows and templates a row of each task of a pilot; it has PILOT_SEEDS trainings."""
PILOT_SEEDS = 3
PILOTS = 20
Design = tuple[int, int, int, int]
DESIGNS: Sequence[Design] = ((10, 150, 2, 1), (10, 300, 1, 1), (10, 60, 10, 1), (5, 200, 5, 1), (10, 200, 2, 5))
"""Held back: templates, rows, templates a row, seeds."""


@dataclass(frozen=True)
class Result:
    """One metric in one design, for one task or the mean over TASKS; differences from 0 to 1."""

    metric: str
    design: Design
    tasks: int
    predicted: float
    """Median over pilots."""
    low: float
    high: float
    """Over pilots, the 10 % and 90 % quantile."""
    realised: float
    told: float


def draw(kind: Kind, shown: Floats, seeds: int, count: int, generator: np.random.Generator) -> tuple[Floats, ...]:
    """Differences of a model, as a mean over seeds, to another: errors [count], values of cells [count, seeds, ...]."""
    errors, values = [], []
    chunk = max(10, CHUNK_CELLS // (shown.size * seeds))
    for start in range(0, count, chunk):
        sample = Sample(kind, shown, min(chunk, count - start), generator, Spread())
        (before, cells, truth), (after, more, new_truth) = sample.model(1), sample.model(seeds)
        errors.append((after - before) - (new_truth - truth))
        values.append(more - cells)
    return np.concatenate(errors), np.concatenate(values)


def realised(error: Floats, variance: Variance) -> tuple[float, float]:
    """The true difference that is detected with 80 % power, and the median of what runs tell."""
    whole, freedom = total(variance)
    standard_error = np.sqrt(whole)
    # A run whose estimate is off by `error` detects every true difference from here up.
    needed = critical(freedom) * standard_error - error
    return float(np.quantile(needed, POWER)), float(np.median(detectable(standard_error, freedom)))


def measure(kind: Kind, repetitions: int, seed: int = 0, designs: Sequence[Design] = DESIGNS) -> list[Result]:
    """All designs of one metric, for one task and for the mean over several."""
    generator = np.random.default_rng([seed, KINDS.index(kind)])
    pilot = shown_in_turns(*PILOT)
    _, values = draw(kind, pilot, PILOT_SEEDS, PILOTS * TASKS, generator)
    single = [cell_components(one, pilot) for one in values]
    pilots = [pooled({str(task): single[first + task] for task in range(TASKS)}) for first in range(0, PILOTS * TASKS, TASKS)]
    results = []
    for design in designs:
        shown, seeds = shown_in_turns(*design[:3]), design[3]
        error, values = draw(kind, shown, seeds, repetitions, generator)
        variance = seed_variance(values, shown)
        picks = np.stack([generator.permutation(repetitions) for _ in range(TASKS)])
        several = mean_variance(Variance(*(part[picks] for part in variance)), np.full(TASKS, 1 / TASKS))
        told = {1: realised(error, variance), TASKS: realised(error[picks].mean(axis=0), several)}
        for tasks, (needed, median) in told.items():
            expected = [predict(tuple(one.values())[:tasks], shown, seeds) for one in pilots]
            predicted, lowest, highest = (float(number) for number in np.quantile(expected, (0.5, 0.1, 0.9)))
            results.append(Result(kind.name, design, tasks, predicted, lowest, highest, needed, median))
    return results


def predict(found: Sequence[Components], shown: Floats, seeds: int) -> float:
    """What is expected of the mean over some tasks."""
    return mean_difference([planned(one, shown, seeds) for one in found]).detectable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--metrics", nargs="*", default=[kind.name for kind in KINDS])
    arguments = parser.parse_args()
    print("| metric | templates x rows, a row, seeds | tasks | predicted (of pilots) | realised | told | ratio |")
    print("|---|---|---|---|---|---|---|")
    for kind in KINDS:
        for one in measure(kind, arguments.repetitions, arguments.seed) if kind.name in arguments.metrics else ():
            templates, rows, per_row, seeds = one.design
            predicted, low, high, needed, told = (
                f"{100 * number:.1f}" for number in (one.predicted, one.low, one.high, one.realised, one.told)
            )
            print(
                f"| {one.metric} | {templates} x {rows}, {per_row}, {seeds} | {one.tasks} | {predicted} ({low} to {high})"
                f" | {needed} | {told} | {one.predicted / one.realised:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
