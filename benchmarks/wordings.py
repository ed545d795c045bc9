"""How far estimated quantiles over wordings are from the true ones, at the cost of a few templates.

Predictions of every row through every template tell the truth: the 5 %, 50 % and 95 % quantiles of the templates' scores.
Again and again, each row is then shown through a few templates only, as `templates_per_row: adaptive` does it, and the
quantiles are estimated from these answers: by each template's mean over its rows, and by the item-response model. Printed
are mean absolute errors, in points.

    python benchmarks/wordings.py runs/all-templates --repetitions 200
    python benchmarks/wordings.py --simulate --repetitions 200

A folder is that of `flan eval TASK ... --out FOLDER` or of `fl.evaluate`, with all templates for each row. With --simulate
answers are made by a normal variable for each template, label and row; then the share of 95 % intervals that hold the
quantile over all rows there could be is printed too.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from flanlab.evaluation.grids import score_grid
from flanlab.evaluation.metrics.declared import metrics_for
from flanlab.evaluation.planning import ZERO_ONE_METRICS, balanced_turns
from flanlab.results.predictions import read_predictions
from flanlab.results.schema import QUANTILES
from flanlab.results.wordings import quantiles_over_wordings

Floats = NDArray[np.float64]
SHARES = list(QUANTILES.values())
SIMULATED = ((10, 100), (10, 300), (10, 1_000), (100, 300))
"""Templates and rows."""


@dataclass(frozen=True)
class Answers:
    """Every answer to a task: whether it is right, [templates, rows], and each row's label."""

    name: str
    right: Floats
    labels: NDArray[np.int_]
    whole: Floats | None = None
    """Quantiles over all the rows there could be, where they are known."""


def read_answers(folder: Path) -> Iterator[Answers]:
    """The tasks of an evaluation, of those rows that were shown through every template."""
    for path in sorted(folder.glob("predictions/*/*")):
        predictions = read_predictions(path).to_pylist()
        names = [name for name in ZERO_ONE_METRICS if name == "exact_match" or predictions[0]["option_scores"]]
        metric = metrics_for(names, predictions, end_token=True)[0]
        grid = score_grid(metric, [{**prediction, "group": None} for prediction in predictions])
        full = grid.shown.all(axis=0)
        labels = {prediction["row"]: prediction["answer"] or 0 for prediction in predictions}
        of_rows = np.array([labels[int(str(row))] for row in grid.units])
        yield Answers(path.name, grid.statistics[:, full, 0], of_rows[full])


def simulate(templates: int, rows: int, generator: np.random.Generator) -> Answers:
    """Two labels; templates differ (standard deviation 0.3), also in which label they favour (0.4); rows by 1."""
    effects = 0.2 + 0.3 * generator.standard_normal((templates, 1)) + 0.4 * generator.standard_normal((templates, 2))
    labels = generator.integers(2, size=rows)
    variable = effects[:, labels] + generator.standard_normal(rows) + generator.standard_normal((templates, rows))
    whole = stats.norm.cdf(effects / np.sqrt(2)).mean(axis=1)
    return Answers(f"simulated {templates} x {rows}", (variable > 0) * 1.0, labels, np.quantile(whole, SHARES))


def errors(answers: Answers, budget: float, number: int) -> tuple[Floats, Floats, Floats | None]:
    """What each template's mean, and the model, are off by [quantiles], and whether the intervals hold the truth."""
    generator = np.random.default_rng(number)
    templates, rows = answers.right.shape
    order = generator.permutation(rows)
    right, labels = answers.right[:, order], answers.labels[order]
    counts = [int((row + 1) * budget) - int(row * budget) for row in range(rows)]
    shown = np.zeros_like(right)
    for row, turns in enumerate(balanced_turns(range(templates), counts, (number, "benchmark"))):
        shown[turns, row] = 1
    truth = np.quantile(right.mean(axis=1), SHARES)
    plain = np.quantile((right * shown).sum(axis=1) / shown.sum(axis=1), SHARES)
    found = quantiles_over_wordings(right * shown, shown, labels, SHARES)
    held = None
    if answers.whole is not None:
        held = np.array([one.low <= whole <= one.high for one, whole in zip(found, answers.whole, strict=True)], float)
    return plain - truth, np.array([one.value for one in found]) - truth, held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--budgets", nargs="+", type=float, default=[2.0], help="answers to each row")
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    known = [answers for folder in options.folders for answers in read_answers(folder)]
    makers = [lambda generator, answers=answers: answers for answers in known]
    if options.simulate:
        makers += [lambda generator, size=size: simulate(*size, generator) for size in SIMULATED]
    fields = ["task", "templates", "rows", "answers a row"]
    fields += [f"{what} {name}" for what in ("truth", "means", "model", "held") for name in QUANTILES]
    lines = []
    for make in makers:
        for budget in options.budgets:
            one = make(np.random.default_rng(0))
            truth = np.quantile(one.right.mean(axis=1), SHARES)
            found = [errors(make(np.random.default_rng(number)), budget, number) for number in range(options.repetitions)]
            plain, model = (100 * np.abs([each[side] for each in found]).mean(axis=0) for side in (0, 1))
            held = (
                [100 * value for value in np.mean([each[2] for each in found], axis=0)] if one.whole is not None else [None] * 3
            )
            numbers = [*(100 * truth if one.whole is None else [None] * 3), *plain, *model, *held]
            texts = ["" if number is None else f"{number:.1f}" for number in numbers]
            lines.append([one.name, *map(str, one.right.shape), f"{budget:g}", *texts])
            print("  ".join(lines[-1]), flush=True)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            csv.writer(file).writerows([fields, *lines])
    print("  ".join(fields), file=sys.stderr)


if __name__ == "__main__":
    main()
