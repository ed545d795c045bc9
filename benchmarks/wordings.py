"""How far estimated quantiles over wordings are from the true ones, at the cost of a few templates.

Predictions of every row through every template tell the truth: the 5 %, 50 % and 95 % quantiles of the templates' scores.
Again and again, each row is then shown through a few templates only, as `templates_per_row: adaptive` does it, and the
quantiles are estimated from these answers: by each template's mean over its rows ("means"), by the item-response model of
right and wrong answers ("model"), and, where options were ranked, by the model of margins ("margins"), as flanlab does it.
Printed are mean absolute errors, and as "bias" mean errors, in points.

    python benchmarks/wordings.py runs/all-templates --rows 1000 --repetitions 200
    python benchmarks/wordings.py --simulate --repetitions 200

A folder is that of `flan eval TASK ... --out FOLDER` or of `fl.evaluate`, with all templates for each row. With --rows so many
are drawn from its rows each time, with replacement: a table of real answers to more rows than were asked. With --simulate
answers are made by a normal variable for each template, label and row, at last those of a model that nearly always says one
word; then the share of 95 % intervals (by margins) that hold the quantile over all rows there could be is printed too.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from flanlab.evaluation.metrics.declared import metrics_for
from flanlab.evaluation.planning import balanced_turns
from flanlab.evaluation.scores import Answers, answers_of
from flanlab.results.files import read_predictions
from flanlab.results.item_response import quantiles_over_wordings
from flanlab.results.schema import QUANTILES

Floats = NDArray[np.float64]
SHARES = list(QUANTILES.values())
SIMULATED = ((10, 100), (10, 300), (10, 1_000), (100, 300))
"""Templates and rows."""


@dataclass(frozen=True)
class Known:
    """Every answer to a task."""

    name: str
    answers: Answers
    whole: Floats | None = None
    """Quantiles over all the rows there could be, where they are known."""


def read_known(folder: Path) -> Iterator[Known]:
    """The tasks of an evaluation, of those rows that were shown through every template."""
    for path in sorted(folder.glob("predictions/*/*")):
        predictions = read_predictions(path).to_pylist()
        asked = Counter(prediction["row"] for prediction in predictions)
        full = [prediction for prediction in predictions if asked[prediction["row"]] == max(asked.values())]
        metric = metrics_for(["accuracy" if full[0]["option_scores"] else "exact_match"], full)[0]
        yield Known(path.name, answers_of(metric, full))


def simulate(templates: int, rows: int, generator: np.random.Generator) -> Known:
    """Two labels; templates differ (standard deviation 0.3), also in which label they favour (0.4); rows by 1."""
    effects = 0.2 + 0.3 * generator.standard_normal((templates, 1)) + 0.4 * generator.standard_normal((templates, 2))
    return _answered(f"simulated {templates} x {rows}", effects, generator.integers(2, size=rows), 0.5, generator)


def simulate_one_word(templates: int, rows: int, generator: np.random.Generator) -> Known:
    """As SST-2 was answered: through all templates but one the model nearly always says the same of two words."""
    favour = 1.6 * np.exp(0.4 * generator.standard_normal((templates, 1)))
    effects = np.hstack([favour, -favour]) + 0.2 * generator.standard_normal((templates, 2))
    effects[generator.integers(templates)] = (1.3, 0.9) + 0.3 * generator.standard_normal(2)
    labels = (generator.random(rows) < 0.46).astype(int)
    return _answered(f"one word {templates} x {rows}", effects, labels, 0.46, generator)


def _answered(name: str, effects: Floats, labels: NDArray[np.int_], share: float, generator: np.random.Generator) -> Known:
    """Answers to rows of these labels, by what templates add for each [templates, 2]; `share` of all rows have the second."""
    templates, rows = len(effects), len(labels)
    variable: Floats = effects[:, labels] + generator.standard_normal(rows) + generator.standard_normal((templates, rows))
    whole = stats.norm.cdf(effects / np.sqrt(2)) @ np.array([1 - share, share])
    answers = Answers((variable > 0).astype(np.float64), np.ones_like(variable), labels, variable)
    return Known(name, answers, np.quantile(whole, SHARES))


def errors(known: Known, budget: float, number: int) -> dict[str, Floats]:
    """The truth, what each way is off by [quantiles], and as `held` whether intervals hold the truth over all rows."""
    generator = np.random.default_rng(number)
    templates, rows = known.answers.scores.shape
    order = generator.permutation(rows)
    right, labels = known.answers.scores[:, order], known.answers.labels[order]
    counts = [int((row + 1) * budget) - int(row * budget) for row in range(rows)]
    shown = np.zeros_like(right)
    for row, turns in enumerate(balanced_turns(range(templates), counts, (number, "benchmark"))):
        shown[turns, row] = 1
    truth = np.quantile(right.mean(axis=1), SHARES)
    found = {"truth": truth, "means": np.quantile((right * shown).sum(axis=1) / shown.sum(axis=1), SHARES) - truth}
    for name, margins in (("model", None), ("margins", known.answers.margins)):
        if name == "model" or margins is not None:
            margins = None if margins is None else margins[:, order] * shown
            estimated = quantiles_over_wordings(right * shown, shown, labels.tolist(), SHARES, margins)
            found[name] = np.array([one.value for one in estimated]) - truth
    if known.whole is not None:
        found["held"] = np.array(
            [one.low <= whole <= one.high for one, whole in zip(estimated, known.whole, strict=True)], float
        )
    return found


def drawn(known: Known, rows: int | None, generator: np.random.Generator) -> Known:
    """The same answers to some of the rows, drawn with replacement; to all of them once, where no number is given."""
    if rows is None:
        return known
    scores, shown, labels, margins = known.answers.scores, known.answers.shown, known.answers.labels, known.answers.margins
    picks = generator.integers(len(labels), size=rows)
    some = None if margins is None else margins[:, picks]
    return Known(known.name, Answers(scores[:, picks], shown[:, picks], labels[picks], some))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--budgets", nargs="+", type=float, default=[2.0], help="answers to each row")
    parser.add_argument("--rows", type=int, help="draw so many of the rows")
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    makers: list[Callable[[np.random.Generator], Known]] = [
        partial(drawn, known, options.rows) for folder in options.folders for known in read_known(folder)
    ]
    if options.simulate:
        makers += [partial(simulate, templates, rows) for templates, rows in SIMULATED]
        makers.append(partial(simulate_one_word, 10, 1_000))
    ways = ("truth", "means", "model", "margins", "held", "bias of means", "bias of model", "bias of margins")
    lines = [["task", "templates", "rows", "answers a row", *(f"{way} {name}" for way in ways for name in QUANTILES)]]
    print("  ".join(lines[0]), flush=True)
    for make in makers:
        for budget in options.budgets:
            one = make(np.random.default_rng(0))
            found = [errors(make(np.random.default_rng(number)), budget, number) for number in range(options.repetitions)]
            numbers: list[float | None] = []
            for way in ways:
                size = np.positive if way.startswith("bias") else np.abs
                of = way.removeprefix("bias of ")
                numbers += list(100 * size([each[of] for each in found]).mean(axis=0)) if of in found[0] else [None] * 3
            texts = ["-" if number is None else f"{number:.1f}" for number in numbers]
            lines.append([one.name, *map(str, one.answers.scores.shape), f"{budget:g}", *texts])
            print("  ".join(lines[-1]), flush=True)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            csv.writer(file).writerows(lines)


if __name__ == "__main__":
    main()
