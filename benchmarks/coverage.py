"""How often 95 % intervals hold the truth, and how often tests raise a false alarm, by simulation.

Each cell of the grid below simulates evaluations whose truth is known: templates and rows are drawn again each time, every
score comes from a normal variable that is the sum of what its template, its row, the model and chance add, and intervals are
made by the functions that flanlab uses. The truth is the mean over all wordings and rows; with one template, that over rows.

    python benchmarks/coverage.py --repetitions 1000 --csv docs/results/coverage.csv
    python benchmarks/coverage.py --repetitions 4000 --seed 1 --again docs/results/coverage.csv --csv docs/results/coverage.csv
    python benchmarks/coverage.py --read docs/results/coverage.csv
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from flanlab.results.grids import additive_pseudo_values
from flanlab.results.intervals import (
    LEVEL,
    Interval,
    bounded_interval,
    critical,
    difference_interval,
    difference_p_value,
    paired_binary_interval,
    paired_binary_p_value,
)
from flanlab.results.layout import Variance, mean_variance, seed_variance, total
from flanlab.results.power import shown_in_turns
from flanlab.results.statistics import ONE_TEMPLATE, caution, mean_note

Floats = NDArray[np.float64]

TEMPLATES = (1, 2, 4, 8, 10)
ROWS = (30, 100, 300, 1_000)
PER_ROW = {"all": 0, "two": 2, "one": 1}
"""Templates that each row is shown through; 0 is all."""
ONE_MODEL, DIFFERENCE = "one model", "difference"
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

    `draw` takes a function that draws the variables of an answer to each row, and two constants of each row (a length, a
    label), uniform from 0 to 1; it returns statistics [..., templates, rows, k]. `truth` is the score over all rows, given
    what template and model add together [...], and the standard deviation of the rest.
    """

    name: str
    bounds: tuple[float, float]
    centre: float
    draw: Callable[[Callable[[], Floats], Floats], Floats]
    combine: Callable[[Floats], Floats] | None
    """None for a mean over rows, of which the statistics are the rows' scores."""
    truth: Callable[[Floats, float], Floats]
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
        None,
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

    return Kind("f1", (0.0, 1.0), 0.5, draw, None, truth)


def f1a(sums: Floats) -> Floats:
    return share(2 * sums[..., 0], 2 * sums[..., 0] + sums[..., 1] + sums[..., 2])


def multirc() -> Kind:
    """Questions of one or two right and one to four wrong answers."""

    def draw(again: Callable[[], Floats], rows: Floats) -> Floats:
        two, more = rows[..., 0] < 0.5, np.floor(rows[..., 1] * 4)
        good = (again() > 0).astype(float) + (again() > 0) * two
        first, others = again() <= 0, again() <= 0
        return np.stack([good, first + others * more, 1 + two - good], axis=-1).astype(float)

    def truth(shift: Floats, within: float) -> Floats:
        hit = right(shift, within)
        return f1a(np.stack([1.5 * hit, 2.5 * (1 - hit), 1.5 * (1 - hit)], axis=-1))

    return Kind("multirc_f1a", (0.0, 1.0), 0.9, draw, f1a, truth)


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
    one, two, three, four = np.moveaxis(np.maximum(counts, 1e-3) / np.maximum(totals, 1e-3), -1, 0)
    value: Floats = np.sqrt(np.sqrt(one * two * three * four))  # the geometric mean; logarithms take three times as long
    value *= np.exp(np.minimum(0.0, 1 - reference / np.maximum(system, 1e-3)))
    return value


def bleu() -> Kind:
    """Texts of 8 to 24 words; of n words in a row a share q ** n is found, q by the variable."""
    orders = np.arange(4)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)

    def found(variable: Floats) -> Floats:
        """Share of n-grams that is found, [..., orders]."""
        base = (1 + np.exp(-variable / 2)) ** -0.7
        return np.stack([base, base**2, base**3, base**4], axis=-1)

    def draw(again: Callable[[], Floats], rows: Floats) -> Floats:
        shares = found(again())
        length = np.broadcast_to(8 + 16 * rows[..., :1], (*shares.shape[:-1], 1))
        totals = length - 0.5 - orders
        return np.concatenate([length - 0.5, length, totals * shares, totals], axis=-1)

    def truth(shift: Floats, within: float) -> Floats:
        shares = found(np.asarray(shift)[..., None] + within * nodes)
        mean = (shares * (weights / weights.sum())[:, None]).sum(axis=-2)
        totals = 16 - 0.5 - orders
        lengths = np.broadcast_to([15.5, 16.0], (*mean.shape[:-1], 2))
        parts = np.concatenate([lengths, mean * totals, np.broadcast_to(totals, mean.shape)], axis=-1)
        return bleu_of(parts)

    return Kind("bleu", (0.0, 1.0), 0.5, draw, bleu_of, truth)


KINDS = (accuracy("accuracy_0.5", 0.5), accuracy("accuracy_0.95", 0.95), token_f1(), bleu(), multirc(), matthews())


def shown_cells(templates: int, rows: int, design: str) -> Floats:
    """Which row is shown through which template: rows take turns as in `flanlab.evaluation.planning`."""
    return shown_in_turns(templates, rows, PER_ROW[design] or templates)


def designs() -> Iterator[tuple[int, int, str]]:
    for rows, templates in itertools.product(ROWS, TEMPLATES):
        for design, count in PER_ROW.items():
            if count < templates:
                yield templates, rows, design


class Sample:
    """Simulated evaluations of two equally good models, alone and as means over seeds."""

    def __init__(self, kind: Kind, shown: Floats, repetitions: int, generator: np.random.Generator, spread: Spread) -> None:
        self._kind, self._shown, self._spread = kind, shown, spread
        self._generator, self._repetitions = generator, repetitions
        templates, rows = shown.shape
        # Only answers to rows that a template is shown are drawn: of each template these rows come first here.
        self._rows_of = np.argsort(-shown, axis=1, kind="stable")[:, : int(shown.sum(axis=1).max())]
        self._kept = np.take_along_axis(shown, self._rows_of, axis=1)
        self._row = self._normal(spread.row, 1, rows)
        self._constants = generator.random((repetitions, rows, 2))[:, self._rows_of]
        self._template = self._normal(spread.template, templates, 1)
        # With one template the truth is that of this template, and the two models are equally good at it.
        self._model_template = spread.model_template if templates > 1 else 0.0

    def _normal(self, deviation: float, *shape: int) -> Floats:
        shape = (self._repetitions, *shape)
        return np.asarray(deviation * self._generator.standard_normal(shape, dtype=np.float32), float)

    def model(self, seeds: int) -> tuple[Floats, Floats, Floats]:
        """Scores, pseudo-values [repetitions, seeds, templates, rows] and truth of a model, or of the mean of its seeds."""
        templates, rows = self._shown.shape
        spread = self._spread
        shift = self._template + self._normal(self._model_template, templates, 1)
        row = (self._row + self._normal(spread.model_row, 1, rows))[:, 0, self._rows_of]
        values = np.zeros((self._repetitions, seeds, templates, rows))
        scores = []
        for seed in range(seeds):
            place = self._kind.centre + shift + row
            if seeds > 1:
                place = place + self._normal(spread.seed, 1, 1) + self._normal(spread.seed_template, templates, 1)
            statistics = self._kind.draw(partial(self._answers, place), self._constants) * self._kept[..., None]
            if self._kind.combine is None:
                scores.append(statistics[..., 0].sum(axis=-1) / self._kept.sum(axis=1))
                found = statistics[..., 0]
            else:
                scores.append(self._kind.combine(statistics.sum(axis=-2)))
                found = additive_pseudo_values(self._kind.combine, statistics, self._kept)
            np.put_along_axis(values[:, seed], self._rows_of[None], found, axis=-1)
        truth = self._truth(shift, float(np.hypot(spread.seed, spread.seed_template)) if seeds > 1 else 0.0)
        return np.stack(scores, axis=1).mean(axis=(1, 2)), values, truth

    def _answers(self, place: Floats) -> Floats:
        return place + self._normal(self._spread.noise, *self._kept.shape)

    def _truth(self, shift: Floats, seed_spread: float) -> Floats:
        """Score over all rows and seeds, and over all templates where there are several; [repetitions]."""
        known = self._kind.centre + (shift[:, 0, 0] if len(self._shown) == 1 else np.zeros(self._repetitions))
        unknown = seed_spread
        if len(self._shown) > 1:
            unknown = float(np.hypot(seed_spread, np.hypot(self._spread.template, self._model_template)))
        nodes, weights = np.polynomial.hermite_e.hermegauss(40)
        places, inverse = np.unique(known, return_inverse=True)
        scores = self._kind.truth(places[:, None] + unknown * nodes, self._spread.within()) @ (weights / weights.sum())
        truth: Floats = scores[inverse]
        return truth


class Simulated(NamedTuple):
    """One quantity, over all repetitions: estimates, their variances, the truth, and rows won and lost where scores are 0/1."""

    value: Floats
    variance: Variance
    truth: Floats
    to_bound: Floats
    """How far the score, or the nearer of two, is from its nearer bound, as a share of the distance between these."""
    wins: Floats
    losses: Floats


def simulate(
    kind: Kind, shown: Floats, repetitions: int, generator: np.random.Generator, spread: Spread
) -> dict[str, Simulated]:
    """The quantities of one cell, in chunks that fit in memory."""
    found: dict[str, list[Simulated]] = {}
    chunk = max(50, CHUNK_CELLS // shown.size)
    for start in range(0, repetitions, chunk):
        sample = Sample(kind, shown, min(chunk, repetitions - start), generator, spread)
        one, other, seeds, seeds_too = sample.model(1), sample.model(1), sample.model(SEEDS), sample.model(SEEDS)
        quantities = {
            ONE_MODEL: (one, one),
            DIFFERENCE: (other, one),
            "mean over seeds": (seeds, seeds),
            "difference of means over seeds": (seeds_too, seeds),
        }
        for name, both in quantities.items():
            value, values, truth = _minus(*both) if "difference" in name else both[0]
            to_bound = np.minimum(*(_to_bound(kind, score) for score, _, _ in both))
            through_one = values[:, 0, 0]
            wins, losses = ((sign * through_one > 0).sum(axis=-1).astype(float) for sign in (1, -1))
            found.setdefault(name, []).append(Simulated(value, seed_variance(values, shown), truth, to_bound, wins, losses))
    return {name: _joined(chunks) for name, chunks in found.items()}


def _minus(one: tuple[Floats, ...], other: tuple[Floats, ...]) -> tuple[Floats, Floats, Floats]:
    value, values, truth = (left - right for left, right in zip(one, other, strict=True))
    return value, values, truth


def _to_bound(kind: Kind, score: Floats) -> Floats:
    low, high = kind.bounds
    nearer: Floats = np.minimum(score - low, high - score) / (high - low)
    return nearer


def _joined(chunks: Sequence[Simulated]) -> Simulated:
    variance = Variance(*(np.concatenate(parts) for parts in zip(*(one.variance for one in chunks), strict=True)))
    value, _, *others = zip(*chunks, strict=True)
    return Simulated(np.concatenate(value), variance, *map(np.concatenate, others))


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
    marked: float
    """Share of intervals that have a note which says that they may hold the truth more or less often."""
    repetitions: int


def measure(
    kind: Kind, templates: int, rows: int, design: str, repetitions: int, seed: int = 0, spread: Spread = Spread()
) -> list[Result]:
    """All quantities of one cell."""
    generator = np.random.default_rng([seed, KINDS.index(kind), templates, rows, PER_ROW[design]])
    shown = shown_cells(templates, rows, design)
    found = simulate(kind, shown, repetitions, generator, spread)
    results = []
    for name, one in found.items():
        binary = name == DIFFERENCE and kind.binary and templates == 1
        held: tuple[Interval, Floats | None]
        if binary:
            held = paired_binary_interval(one.wins, one.losses, rows), paired_binary_p_value(one.wins, one.losses)
        else:
            held = _interval(kind, name, one, rows)
        notes = np.array([_note(kind, name, shown, to_bound) for to_bound in one.to_bound])
        results.append(_result(kind, templates, rows, design, name, one, *held, notes))
        if name in (ONE_MODEL, DIFFERENCE):
            # Several tasks at a time, out of all that were simulated.
            picks = np.stack([generator.permutation(repetitions) for _ in range(TASKS)])
            variance = mean_variance(Variance(*(part[picks] for part in one.variance)), np.full(TASKS, 1 / TASKS))
            tasks = one._replace(value=one.value[picks].mean(axis=0), variance=variance, truth=one.truth[picks].mean(axis=0))
            held = _interval(kind, name, tasks, TASKS * rows)
            together = [mean_note(several) for several in notes[picks].T.tolist()]
            results.append(_result(kind, templates, rows, design, f"{name}, mean over tasks", tasks, *held, together))
    return results


def _note(kind: Kind, name: str, shown: Floats, to_bound: float) -> str:
    return caution(shown, SEEDS if "seeds" in name else 1, to_bound, correlation=kind.bounds[0] < 0)


def _interval(kind: Kind, name: str, one: Simulated, units: int) -> tuple[Interval, Floats | None]:
    """The interval in the metric's unit, and p-values of a difference."""
    low, high = kind.bounds
    width = high - low
    variance, freedom = total(one.variance)
    if "difference" not in name:
        share = np.clip((one.value - low) / width, 0, 1)
        found = bounded_interval(share, variance / width**2, freedom, units)
        return found._replace(low=low + width * found.low, high=low + width * found.high), None
    found = difference_interval(one.value / width, variance / width**2, freedom, units)
    p_values = difference_p_value(one.value / width, found.error, found.freedom)
    return found._replace(low=width * found.low, high=width * found.high), p_values


def _result(
    kind: Kind,
    templates: int,
    rows: int,
    design: str,
    name: str,
    one: Simulated,
    interval: Interval,
    p_values: Floats | None,
    notes: Iterable[str],
) -> Result:
    held = (interval.low <= one.truth + 1e-12) & (one.truth - 1e-12 <= interval.high)
    ideal = 2 * float(critical(np.inf)) * (one.value - one.truth).std()
    alarms = None if p_values is None else float((p_values < 1 - LEVEL).mean())
    width = float((interval.high - interval.low).mean() / ideal)
    marked = float(np.mean([note not in ("", ONE_TEMPLATE) for note in notes]))
    return Result(kind.name, design, templates, rows, name, float(held.mean()), width, alarms, marked, len(held))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS)
    parser.add_argument("--templates", type=int, nargs="*", default=TEMPLATES)
    parser.add_argument("--metrics", nargs="*", default=[kind.name for kind in KINDS])
    parser.add_argument("--read", type=Path, help="print what a table says, and simulate nothing")
    parser.add_argument("--again", type=Path, help="simulate the doubtful designs of a table again, and replace their lines")
    arguments = parser.parse_args()
    if arguments.read:
        report(read(arguments.read))
        return
    started = time.perf_counter()
    results = {_place(one): one for one in read(arguments.again)} if arguments.again else {}
    doubtful = {_place(one)[:4] for one in results.values() if is_doubtful(one)}
    chosen = [kind for kind in KINDS if kind.name in arguments.metrics]
    for (templates, rows, design), kind in itertools.product(designs(), chosen):
        if rows in arguments.rows and templates in arguments.templates:
            if arguments.again and (kind.name, design, templates, rows) not in doubtful:
                continue
            found = measure(kind, templates, rows, design, arguments.repetitions, arguments.seed)
            results |= {_place(one): one for one in found}
            print(f"{time.perf_counter() - started:.0f} s: {kind.name} {templates} x {rows} {design}", file=sys.stderr)
            if arguments.csv:
                write(list(results.values()), arguments.csv)
    report(list(results.values()))


def is_doubtful(result: Result) -> bool:
    """Whether a cell is worth more repetitions: beyond the limits without a mark, or of the fewest rows."""
    return result.rows == min(ROWS) or (not is_within(result) and mark_of(result) == "not marked")


def _place(result: Result) -> tuple[str, str, int, int, str]:
    return result.metric, result.design, result.templates, result.rows, result.quantity


def report(results: Sequence[Result]) -> None:
    """Print how many cells lie within the limits, and those beyond."""
    print(f"{'':42} {'cells':>5} {'within':>6} {'lowest':>7} {'highest':>8} {'width':>6} {'alarms: mean':>13} {'highest':>8}")
    for group in (quantity_of, metric_and_design_of, mark_of, lambda result: "all"):
        for name in dict.fromkeys(map(group, results)):
            chosen = [result for result in results if group(result) == name]
            covers = [result.coverage for result in chosen]
            alarms = [result.false_alarms for result in chosen if result.false_alarms is not None]
            print(
                f"{name:42} {len(chosen):5} {sum(map(is_within, chosen)):6} {min(covers):7.1%} {max(covers):8.1%}"
                f" {np.median([result.width for result in chosen]):6.2f}"
                + (f" {np.mean(alarms):13.1%} {max(alarms):8.1%}" if alarms else "")
            )
        print()
    print("beyond 93.5 % to 96.5 %:")
    for result in results:
        if not is_within(result):
            print(
                f"{result.metric:14} {result.templates:2} x {result.rows:4} {result.design:3} {result.quantity:32}"
                f" {result.coverage:6.1%} width {result.width:5.2f} {mark_of(result)}"
            )


def is_within(result: Result) -> bool:
    """Whether a cell's coverage lies within the limits."""
    return LOW <= result.coverage <= HIGH


def quantity_of(result: Result) -> str:
    """What a cell is about."""
    return result.quantity


def metric_and_design_of(result: Result) -> str:
    """How a cell's rows are asked and scored."""
    return f"{result.metric}, {result.design}"


def mark_of(result: Result) -> str:
    """Whether a report tells of most such intervals that they may hold the truth more or less often."""
    return "marked" if result.marked > 0.5 else "not marked"


COLUMNS = ("metric", "design", "templates", "rows", "quantity")


def read(path: Path) -> list[Result]:
    """The table that `write` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Result(
                row["metric"],
                row["design"],
                int(row["templates"]),
                int(row["rows"]),
                row["quantity"],
                float(row["coverage"]),
                float(row["width_over_ideal"]),
                float(row["false_alarms"]) if row["false_alarms"] else None,
                float(row["marked"]),
                int(row["repetitions"]),
            )
            for row in csv.DictReader(file)
        ]


def write(results: Sequence[Result], path: Path) -> None:
    """Write the table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, "coverage", "width_over_ideal", "false_alarms", "marked", "repetitions"])
        for one in results:
            alarms = "" if one.false_alarms is None else f"{one.false_alarms:.4f}"
            numbers = (f"{one.coverage:.4f}", f"{one.width:.3f}", alarms, f"{one.marked:.2f}", one.repetitions)
            writer.writerow([*(getattr(one, column) for column in COLUMNS), *numbers])


if __name__ == "__main__":
    main()
