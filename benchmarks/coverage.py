"""How often 95 % intervals hold the truth, and how often tests raise a false alarm, by simulation.

Each cell of the grid below simulates evaluations whose truth is known: templates and rows are drawn anew each time, every
score comes from a normal variable that is the sum of what its template, its row, the model and chance add, and intervals are
made by the functions that flanlab uses. The truth is the mean over all wordings and rows; with one template, that over rows.

    python benchmarks/coverage.py --csv docs/results/coverage.csv
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from flanlab.results.grids import additive_pseudo_values
from flanlab.results.intervals import (
    bounded_interval,
    difference_interval,
    difference_p_value,
    paired_binary_interval,
    paired_binary_p_value,
)
from flanlab.results.layout import Variance, mean_variance, seed_variance, total

Floats = NDArray[np.float64]

TEMPLATES = (1, 2, 4, 8, 10)
ROWS = (30, 100, 300, 1_000)
PER_ROW = {"all": 0, "two": 2, "one": 1}
"""Templates that each row is shown through; 0 is all."""
SEEDS = 3
TASKS = 5
LOW, HIGH = 0.935, 0.965
CHUNK_CELLS = 400_000


@dataclass(frozen=True)
class Spread:
    """Standard deviations of what is added to a score's normal variable; the rest of a cell has ROW_NOISE."""

    template: float = 0.4
    row: float = 1.5
    noise: float = 1.9
    model_template: float = 0.2
    model_row: float = 0.8
    seed: float = 0.15
    seed_template: float = 0.1

    def within(self) -> float:
        """Of a row's variable, given template and model."""
        return float(np.sqrt(self.row**2 + self.model_row**2 + self.noise**2))


@dataclass(frozen=True)
class Kind:
    """A kind of metric: statistics of cells from their variables, the score of sums, and the true score.

    `draw` takes the generator and a function that draws the variables of another answer to the same rows, to statistics
    [..., templates, rows, k]. `truth` is the score over all rows where the shift of templates and model is as given, [...].
    """

    name: str
    bounds: tuple[float, float]
    centre: float
    draw: Callable[[Callable[[], Floats], Floats], Floats]
    combine: Callable[[Floats], Floats]
    truth: Callable[[Floats, float], Floats]
    rows_alike: int = 1
    """How many constants of a row (lengths, labels) `draw` is given, [rows, this], uniform from 0 to 1."""
    binary: bool = False


def share(numerator: Floats, denominator: Floats) -> Floats:
    result: Floats = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
    return result


def right(shift: Floats, within: float) -> Floats:
    """Share of rows whose variable is above zero."""
    value: Floats = stats.norm.cdf(shift / within)
    return value


def accuracy(name: str, target: float) -> Kind:
    # The mean over templates is the target: the variable's whole standard deviation decides.
    whole = np.hypot(Spread().within(), np.hypot(Spread().template, Spread().model_template))
    return Kind(
        name,
        (0.0, 1.0),
        float(stats.norm.ppf(target) * whole),
        lambda again, rows: (again() > 0).astype(float)[..., None],
        lambda sums: sums[..., 0],
        right,
        binary=True,
    )


STEPS = np.arange(1, 7) / 6
"""Levels of token F1: it rises to each where the variable passes a threshold."""
THRESHOLDS = np.array([-0.6, 0.2, 0.4, 0.8, 1.4, 1.6])


def token_f1() -> Kind:
    def draw(again: Callable[[], Floats], rows: Floats) -> Floats:
        return (np.searchsorted(THRESHOLDS, again()) / 6)[..., None]

    def truth(shift: Floats, within: float) -> Floats:
        value: Floats = np.sum([right(shift - threshold, within) for threshold in THRESHOLDS], axis=0) / 6
        return value

    return Kind("f1", (0.0, 1.0), 0.5, draw, lambda sums: sums[..., 0], truth)


def f1a(sums: Floats) -> Floats:
    return share(2 * sums[..., 0], 2 * sums[..., 0] + sums[..., 1] + sums[..., 2])


def multirc() -> Kind:
    """Questions of one or two right and one to four wrong answers."""

    def draw(again: Callable[[], Floats], rows: Floats) -> Floats:
        two, more = rows[..., 0] < 0.5, np.floor(rows[..., 1] * 4)
        good = (again() > 0) + (again() > 0) * two
        first, others = again() <= 0, again() <= 0
        return np.stack([good, first + others * more, 1 + two - good], axis=-1).astype(float)

    def truth(shift: Floats, within: float) -> Floats:
        hit = right(shift, within)
        return f1a(np.stack([1.5 * hit, 2.5 * (1 - hit), 1.5 * (1 - hit)], axis=-1))

    return Kind("multirc_f1a", (0.0, 1.0), 0.9, draw, f1a, truth, rows_alike=2)


def matthews() -> Kind:
    """Two classes, the first of 40 % of the rows."""

    def combine(sums: Floats) -> Floats:
        hits, count, chosen, label = (sums[..., place] for place in range(4))
        covariance = hits * count - chosen * label - (count - chosen) * (count - label)
        spread = (count**2 - chosen**2 - (count - chosen) ** 2) * (count**2 - label**2 - (count - label) ** 2)
        return share(covariance, np.sqrt(np.maximum(spread, 0)))

    def draw(again: Callable[[], Floats], rows: Floats) -> Floats:
        hit, label = again() > 0, rows[..., 0] < 0.4
        chosen = np.where(hit, label, ~label)
        return np.stack(np.broadcast_arrays(hit, 1.0, chosen, label), axis=-1).astype(float)

    def truth(shift: Floats, within: float) -> Floats:
        hit = right(shift, within)
        return combine(np.stack(np.broadcast_arrays(hit, 1.0, 0.4 * hit + 0.6 * (1 - hit), 0.4), axis=-1))

    return Kind("matthews", (-1.0, 1.0), 0.9, draw, combine, truth)


def bleu_of(sums: Floats) -> Floats:
    """Corpus BLEU of lengths, counts and totals as flanlab keeps them, where some n-gram of each order is found."""
    system, reference, counts, totals = sums[..., 0], sums[..., 1], sums[..., 2:6], sums[..., 6:]
    precision = np.log(np.maximum(counts, 1e-3) / np.maximum(totals, 1e-3)).mean(axis=-1)
    value: Floats = np.exp(precision + np.minimum(0.0, 1 - reference / np.maximum(system, 1e-3)))
    return value


def bleu() -> Kind:
    """Texts of 8 to 24 words; of n words in a row a share q ** (n * 0.7) is found, q by the variable."""
    orders = np.arange(4)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)

    def draw(again: Callable[[], Floats], rows: Floats) -> Floats:
        quality = stats.norm.cdf(again() / 3)
        length = 8 + 16 * rows[..., 0]
        length = np.broadcast_to(length, quality.shape)
        totals = length[..., None] - 0.5 - orders
        counts = totals * quality[..., None] ** (0.7 * (orders + 1))
        return np.concatenate([length[..., None] - 0.5, length[..., None], counts, totals], axis=-1)

    def truth(shift: Floats, within: float) -> Floats:
        quality = stats.norm.cdf((np.asarray(shift)[..., None] + within * nodes) / 3)
        found = ((quality[..., None] ** (0.7 * (orders + 1))) * (weights / weights.sum())[:, None]).sum(axis=-2)
        totals = 16 - 0.5 - orders
        parts = np.concatenate(
            [np.full((*found.shape[:-1], 1), 15.5), np.full((*found.shape[:-1], 1), 16.0), found * totals, found * 0 + totals],
            axis=-1,
        )
        return bleu_of(parts)

    return Kind("bleu", (0.0, 1.0), 0.5, draw, bleu_of, truth)


KINDS = (accuracy("accuracy_0.5", 0.5), accuracy("accuracy_0.95", 0.95), token_f1(), bleu(), multirc(), matthews())


def shown_cells(templates: int, rows: int, design: str) -> Floats:
    """Which row is shown through which template: rows take turns as in `flanlab.evaluation.planning`."""
    count = PER_ROW[design] or templates
    shown = np.zeros((templates, rows))
    for turn in range(rows * count):
        shown[turn % templates, turn // count] = 1
    return shown


def designs() -> Iterator[tuple[int, int, str]]:
    for templates, rows in itertools.product(TEMPLATES, ROWS):
        for design, count in PER_ROW.items():
            if count < templates:
                yield templates, rows, design


@dataclass(frozen=True)
class Simulated:
    """One simulated quantity: its estimates, their variances, and the truth of each, [repetitions]."""

    value: Floats
    variance: Variance
    truth: Floats


class Sample:
    """Simulated evaluations of two equally good models, one of them with several seeds."""

    def __init__(self, kind: Kind, shown: Floats, repetitions: int, generator: np.random.Generator, spread: Spread) -> None:
        self.kind, self.shown, self.spread = kind, shown, spread
        templates, rows = shown.shape
        single = templates == 1
        self._normal = lambda *shape: generator.standard_normal((repetitions, *shape), dtype=np.float32)
        self._row = spread.row * self._normal(1, rows)
        self._constants = generator.random((repetitions, 1, rows, 2))
        self._template = spread.template * self._normal(templates, 1)
        self._model_template = 0.0 if single else spread.model_template

    def model(self, seeds: int) -> tuple[Floats, Floats, Floats]:
        """Scores, pseudo-values [repetitions, seeds, templates, rows] and truth of a model (of its seeds' mean)."""
        templates, rows = self.shown.shape
        shift = self._template + self._model_template * self._normal(templates, 1)
        row = self._row + self.spread.model_row * self._normal(1, rows)
        scores, values = [], []
        seed_spread = 0.0
        for _ in range(seeds):
            place = self.kind.centre + shift + row
            if seeds > 1:
                place = place + self.spread.seed * self._normal(1, 1) + self.spread.seed_template * self._normal(templates, 1)
                seed_spread = float(np.hypot(self.spread.seed, self.spread.seed_template))
            statistics = self.kind.draw(lambda: place + self.spread.noise * self._normal(templates, rows), self._constants)
            statistics = statistics * self.shown[..., None]
            if self.kind.combine(statistics[:1, :1, :1]).ndim and self.kind.name.startswith(("accuracy", "f1")):
                counts = self.shown.sum(axis=1)
                scores.append(statistics[..., 0].sum(axis=-1) / counts)
                values.append(statistics[..., 0])
            else:
                scores.append(self.kind.combine(statistics.sum(axis=-2)))
                values.append(additive_pseudo_values(self.kind.combine, statistics, self.shown))
        truth = self._truth(shift, seed_spread)
        return np.stack(scores, axis=1).mean(axis=(1, 2)), np.stack(values, axis=1), truth

    def _truth(self, shift: Floats, seed_spread: float) -> Floats:
        within = self.spread.within()
        if self.shown.shape[0] == 1 and not seed_spread:
            return self.kind.truth(self.kind.centre + shift[:, 0, 0], within)
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        if self.shown.shape[0] == 1:
            places = self.kind.centre + shift[:, 0, 0, None] + seed_spread * nodes
            scores: Floats = self.kind.truth(places, within) @ (weights / weights.sum())
            return scores
        whole = np.hypot(seed_spread, np.hypot(self.spread.template, self.spread.model_template))
        score = self.kind.truth(self.kind.centre + whole * nodes, within) @ (weights / weights.sum())
        return np.full(len(shift), float(score))


def simulate(kind: Kind, shown: Floats, repetitions: int, generator: np.random.Generator, spread: Spread) -> dict[str, list]:
    """All quantities of one cell, in chunks that fit in memory: name to arrays of value, variance, freedom, truth, ..."""
    found: dict[str, list[tuple[Floats, ...]]] = {}
    chunk = max(50, CHUNK_CELLS // shown.size)
    left = repetitions
    while left > 0:
        sample = Sample(kind, shown, min(chunk, left), generator, spread)
        left -= chunk
        one, other, seeds, seeds_too = sample.model(1), sample.model(1), sample.model(SEEDS), sample.model(SEEDS)
        for name, (value, values, truth) in {
            "one model": one,
            "difference": tuple(b - a for a, b in zip(one, other, strict=True)),
            "mean over seeds": seeds,
            "difference of means over seeds": tuple(b - a for a, b in zip(seeds, seeds_too, strict=True)),
        }.items():
            variance = seed_variance(np.asarray(values, float), shown)
            binary = np.zeros((2, len(value)))
            if name == "difference" and kind.binary and len(shown) == 1:
                binary = np.stack([(values[:, 0, 0] > 0).sum(axis=-1), (values[:, 0, 0] < 0).sum(axis=-1)])
            found.setdefault(name, []).append((value, *variance, truth, *binary))
    return {name: [np.concatenate(parts) for parts in zip(*chunks, strict=True)] for name, chunks in found.items()}


@dataclass(frozen=True)
class Result:
    """Coverage and mean width of one quantity in one cell."""

    metric: str
    design: str
    templates: int
    rows: int
    quantity: str
    coverage: float
    width: float
    """Mean width over 3.92 times the true standard error."""
    false_alarms: float | None
    """Share of p-values below 0.05 where there is no difference."""


def measure(kind: Kind, templates: int, rows: int, design: str, repetitions: int, seed: int, spread: Spread) -> list[Result]:
    """All quantities of one cell."""
    generator = np.random.default_rng([seed, KINDS.index(kind), templates, rows, PER_ROW[design]])
    shown = shown_cells(templates, rows, design)
    found = simulate(kind, shown, repetitions, generator, spread)
    results = []
    low, high = kind.bounds
    for name, (value, *parts, truth, wins, losses) in found.items():
        variance = Variance(*parts)
        paired = "difference" in name
        p_values = None
        if name == "difference" and kind.binary and templates == 1:
            interval = paired_binary_interval(wins, losses, rows)
            p_values = paired_binary_p_value(wins, losses)
        elif paired:
            interval, p_values = of_difference(value, variance, rows, high - low)
        else:
            interval = of_score(value, variance, rows, kind.bounds)
        results.append(summed_up(kind, templates, rows, design, name, value, truth, interval, p_values))
        if name in ("one model", "difference"):
            # Five tasks at a time, out of all that were simulated.
            picks = np.stack([generator.permutation(repetitions) for _ in range(TASKS)])
            picked = Variance(*(part[picks] for part in variance))
            mean_of_tasks = mean_variance(picked, np.full(TASKS, 1 / TASKS))
            mean = value[picks].mean(axis=0)
            together = truth[picks].mean(axis=0)
            if paired:
                over, p_values = of_difference(mean, mean_of_tasks, TASKS * rows, high - low)
            else:
                over = of_score(mean, mean_of_tasks, TASKS * rows, kind.bounds)
            title = f"{name}, mean over tasks"
            results.append(summed_up(kind, templates, rows, design, title, mean, together, over, p_values))
    return results


def of_score(value: Floats, variance: Variance, rows: int, bounds: tuple[float, float]):
    low, high = bounds
    width = high - low
    whole, freedom = total(variance)
    found = bounded_interval(np.clip((value - low) / width, 0, 1), whole / width**2, freedom, rows)
    return found._replace(low=low + width * found.low, high=low + width * found.high, error=width * found.error)


def of_difference(value: Floats, variance: Variance, rows: int, width: float):
    whole, freedom = total(variance)
    found = difference_interval(value / width, whole / width**2, freedom, rows)
    found = found._replace(low=width * found.low, high=width * found.high, error=width * found.error)
    return found, difference_p_value(value, found.error, found.freedom)


def summed_up(kind, templates, rows, design, name, value, truth, interval, p_values) -> Result:
    held = (interval.low <= truth + 1e-12) & (truth - 1e-12 <= interval.high)
    ideal = 2 * 1.959964 * (value - truth).std()
    return Result(
        kind.name,
        design,
        templates,
        rows,
        name,
        float(held.mean()),
        float((interval.high - interval.low).mean() / ideal),
        None if p_values is None else float((p_values < 0.05).mean()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS)
    parser.add_argument("--templates", type=int, nargs="*", default=TEMPLATES)
    parser.add_argument("--metrics", nargs="*", default=[kind.name for kind in KINDS])
    arguments = parser.parse_args()
    started = time.perf_counter()
    results: list[Result] = []
    for kind in KINDS:
        if kind.name not in arguments.metrics:
            continue
        for templates, rows, design in designs():
            if rows in arguments.rows and templates in arguments.templates:
                results += measure(kind, templates, rows, design, arguments.repetitions, arguments.seed, Spread())
                print(f"{time.perf_counter() - started:.0f} s: {kind.name} {templates} x {rows} {design}", file=sys.stderr)
    report(results)
    if arguments.csv:
        write(results, arguments.csv)


def report(results: Sequence[Result]) -> None:
    """Print the share of cells within the limits, and those beyond."""
    print(f"{'quantity':42} {'cells':>5} {'within':>7} {'lowest':>7} {'highest':>8} {'width':>6} {'alarms':>7}")
    for quantity in dict.fromkeys(result.quantity for result in results):
        chosen = [result for result in results if result.quantity == quantity]
        covers = np.array([result.coverage for result in chosen])
        alarms = [result.false_alarms for result in chosen if result.false_alarms is not None]
        print(
            f"{quantity:42} {len(chosen):5} {np.mean((covers >= LOW) & (covers <= HIGH)):7.0%} {covers.min():7.1%}"
            f" {covers.max():8.1%} {np.median([result.width for result in chosen]):6.2f}"
            + (f" {max(alarms):7.1%}" if alarms else "")
        )
    print("\nbeyond 93.5 % to 96.5 %:")
    for result in results:
        if not LOW <= result.coverage <= HIGH:
            print(
                f"{result.metric:14} {result.templates:2} x {result.rows:4} {result.design:3} {result.quantity:32}"
                f" {result.coverage:6.1%} width {result.width:5.2f}"
            )


def write(results: Sequence[Result], path: Path) -> None:
    """Write the table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["metric", "design", "templates", "rows", "quantity", "coverage", "width_over_ideal", "false_alarms"])
        for one in results:
            alarms = "" if one.false_alarms is None else f"{one.false_alarms:.4f}"
            writer.writerow(
                [
                    one.metric,
                    one.design,
                    one.templates,
                    one.rows,
                    one.quantity,
                    f"{one.coverage:.4f}",
                    f"{one.width:.3f}",
                    alarms,
                ]
            )


if __name__ == "__main__":
    main()
