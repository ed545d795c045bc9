"""The paper's claims as tests that are written down before a run: what is compared, from which size on an effect counts, and
when a claim is supported, contradicted, or the sample too small to say.

Each claim is made of parts; a part is a weighted sum of cells of one ablation, by task, then averaged over the tasks of each
cluster and over clusters. `claims` is a pure function of the cells' scores.

A claim of a gain is decided by two one-sided tests: that the effect is above zero, and that it is below the smallest effect
worth calling one. Supported: the first is significant, and the effect found is at least the smallest worth calling one.
Contradicted: the second is significant; a clear gain too small to be worth calling one contradicts the claim, too. A claim that
something matters little is decided by equivalence (Schuirmann 1987). All parts must hold, so a claim is as sure as its weakest
part, and one part that fails contradicts it. A claim's p-value is twice the smaller of its two; Holm's correction is over all
nine, whether they could be tested or not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from flanlab.results.grids import ScoreGrid
from flanlab.results.intervals import LEVEL, POWER
from flanlab.results.layout import Variance
from flanlab.results.statistics import (
    Difference,
    contrast,
    holm,
    mean_difference,
    mean_over_clusters,
    spread_difference,
    variance_parts,
)

VerdictName = Literal["supported", "contradicted", "too small a sample", "not tested", "not comparable"]
Weights = Mapping[str, float]
"""Name of a cell to its weight."""


@dataclass(frozen=True)
class ScoredCell:
    """What a claim must know of a cell that is done."""

    grids: Mapping[str, Sequence[ScoreGrid]]
    """Task to its scores by the main metric, a grid for each training seed."""
    clusters: Mapping[str, str]
    """Task to its home cluster."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What cells that are compared must agree in, where both have it: rows, precision, version."""


Cells = Mapping[str, Mapping[str, ScoredCell | None]]
"""Ablation to its cells by name; None for one that is not done."""


class Part(NamedTuple):
    """One comparison: the weighted sums of cells that it is the mean of, each over tasks of its own."""

    title: str
    sums: Sequence[Weights]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and the test of it."""

    name: str
    statement: str
    section: str
    comparison: str
    smallest: float
    """The smallest effect worth calling one; of a claim that something matters little the margin. 0 to 1."""
    ablations: Sequence[str]
    """Where its cells come from: the first of these that has them all."""
    parts: Callable[[Collection[str]], Sequence[Part]]
    """From the names of an ablation's cells; empty where they lack some that the claim needs."""
    kind: Literal["gain", "little"] = "gain"
    statistic: Literal["mean", "spread"] = "mean"
    also: Callable[[Collection[str]], Sequence[Part]] = lambda names: ()
    """What is reported beside it, without a verdict."""


@dataclass(frozen=True)
class PartFound:
    """A part with what was found."""

    title: str
    mean: Difference
    """Over clusters."""
    clusters: Mapping[str, Difference]
    tasks: int


@dataclass(frozen=True)
class Verdict:
    """A claim, and what the cells say of it. Effects are 0 to 1; those that could not be computed are None."""

    claim: Claim
    verdict: VerdictName
    ablation: str | None = None
    parts: Sequence[PartFound] = ()
    also: Sequence[PartFound] = ()
    p_value: float | None = None
    p_holm: float | None = None
    detectable: float | None = None
    """The effect, or the margin, that this design shows with 80 % power at the level that is left to each of nine claims."""
    seeds: int | None = None
    """Fewest trainings of a cell with different seeds; with one, the interval says nothing of another seed."""
    reason: str = ""
    """Why it was not tested, or cells are not comparable."""

    @property
    def effect(self) -> Difference | None:
        """The part that decides: the least gain, or the largest difference of what should matter little."""
        if not self.parts:
            return None
        if self.claim.kind == "little":
            return max((part.mean for part in self.parts), key=lambda found: abs(found.difference))
        return min((part.mean for part in self.parts), key=lambda found: found.difference)


def claims(cells: Cells) -> list[Verdict]:
    """The verdict on each claim of `CLAIMS`, in their order."""
    found = [_found(claim, cells) for claim in CLAIMS]
    tests = {one.claim.name: _p_values(one) for one in found}
    p_values = {name: min(1.0, 2 * min(pair)) if not np.isnan(pair).any() else float("nan") for name, pair in tests.items()}
    corrected = holm(p_values)
    return [
        _decided(one, tests[one.claim.name], p_values[one.claim.name], corrected[one.claim.name]) if one.parts else one
        for one in found
    ]


def variance_shares(cells: Cells) -> list[dict[str, str | float | int]]:
    """For each cell trained with several seeds: what share of its scores' variance rows, templates and seeds contribute.

    The variances of the tasks' mean scores are added up before they are divided, so shares are of the mean over tasks.
    """
    table: list[dict[str, str | float | int]] = []
    for ablation, named in cells.items():
        for name, cell in named.items():
            seeds = min(map(len, cell.grids.values())) if cell is not None and cell.grids else 1
            if cell is None or seeds < 2:
                continue
            parts = [variance_parts(grids) for grids in cell.grids.values()]
            sums = {of: float(sum(part[of] for part in parts)) for of in ("rows", "templates", "seeds")}
            total = sum(sums.values())
            shares = {f"{of}_share": one / total if total else 0.0 for of, one in sums.items()}
            table.append({"ablation": ablation, "cell": name, "seeds": seeds, "tasks": len(parts), **shares})
    return table


def _found(claim: Claim, cells: Cells) -> Verdict:
    """The effects of a claim, from the first of its ablations that has all cells, or why there are none."""
    reason = ""
    for ablation in claim.ablations:
        known = cells.get(ablation, {})
        parts = claim.parts(known)
        wanted = {name for part in parts for weights in part.sums for name in weights}
        done = {name: cell for name, cell in known.items() if cell is not None}
        if not parts or not wanted <= set(done):
            lacking = ", ".join(sorted(wanted - set(done))[:4]) if parts else ""
            of = f"the cells {lacking} are not done" if lacking else f"there are no such cells ({claim.comparison})"
            reason = reason or f"{ablation}: {of}."
            continue
        if differing := list(_differing(parts, done)):
            return Verdict(claim, "not comparable", ablation, reason=" ".join(differing))
        seeds = min(len(grids) for name in wanted for grids in done[name].grids.values() if not name.startswith("untuned"))
        also = [_part_found(part, done, claim.statistic) for part in claim.also(set(done))]
        found = [_part_found(part, done, claim.statistic) for part in parts]
        if any(part.tasks == 0 for part in found):
            return Verdict(claim, "not comparable", ablation, reason=f"{ablation}: the cells have no task in common.")
        return Verdict(claim, "too small a sample", ablation, found, also, seeds=seeds)
    return Verdict(claim, "not tested", reason=reason)


def _differing(parts: Sequence[Part], cells: Mapping[str, ScoredCell]) -> Iterator[str]:
    """Where cells that are compared do not agree, a sentence for each of the first three."""
    told = 0
    for weights in (weights for part in parts for weights in part.sums):
        first, *others = weights
        for other in others:
            ours, theirs = cells[first].facts, cells[other].facts
            for name in ours:
                if name in theirs and ours[name] != theirs[name] and told < 3:
                    told += 1
                    yield f"{name} differs: {ours[name]} in {first}, {theirs[name]} in {other}."


def _part_found(part: Part, cells: Mapping[str, ScoredCell], statistic: str) -> PartFound:
    """A part by task, then over the tasks of each cluster, then over clusters; the subtasks of a task count as one."""
    by_task: dict[str, list[Difference]] = {}
    homes: dict[str, str] = {}
    for weights in part.sums:
        sides = [cells[name] for name in weights]
        for task in sides[0].grids:
            if all(task in side.grids for side in sides):
                grids = [side.grids[task] for side in sides]
                by_task.setdefault(task, []).append(_of_task(grids, list(weights.values()), statistic))
                homes[task] = sides[0].clusters[task]
    found = {task: mean_difference(some) for task, some in by_task.items()}
    clusters = mean_over_clusters(found, homes)
    nothing = float("nan")
    none = Difference(
        nothing, nothing, nothing, nothing, nothing, nothing, "none", (-1.0, 1.0), 0, Variance(*[np.array(np.nan)] * 5)
    )
    return PartFound(part.title, mean_difference(list(clusters.values())) if clusters else none, clusters, len(found))


def _of_task(grids: Sequence[Sequence[ScoreGrid]], weights: Sequence[float], statistic: str) -> Difference:
    if statistic == "mean":
        return contrast(grids, weights)
    # The part is written before minus after, so that a smaller spread is a gain.
    before, after = (grids[weights.index(sign)] for sign in (1, -1))
    return spread_difference(after, before)


def _p_values(found: Verdict) -> tuple[float, float]:
    """One-sided p-values: that the claim holds, and that it does not. NaN where nothing can be tested."""
    holds, fails = [], []
    smallest = found.claim.smallest
    for part in found.parts:
        value, error, freedom = part.mean.difference, part.mean.standard_error, part.mean.freedom
        if found.claim.kind == "gain":
            holds.append(stats.t.sf(value / error, freedom))
            fails.append(stats.t.cdf((value - smallest) / error, freedom))
        else:
            holds.append(stats.t.sf((smallest - abs(value)) / error, freedom))
            fails.append(min(1.0, 2 * stats.t.sf((abs(value) - smallest) / error, freedom)))
    if not found.parts or np.isnan([*holds, *fails]).any():
        return float("nan"), float("nan")
    return float(max(holds)), float(min(1.0, len(fails) * min(fails)))


def _decided(found: Verdict, tests: tuple[float, float], p_value: float, p_holm: float) -> Verdict:
    if np.isnan(p_value):
        notes = next((part.mean.note for part in found.parts if part.mean.note), "no standard error can be estimated")
        return Verdict(
            found.claim, "too small a sample", found.ablation, found.parts, found.also, seeds=found.seeds, reason=notes
        )
    # What Holm's correction makes of the smaller p-value, it makes of both.
    factor = p_holm / p_value if 0 < p_value < 1 else float(len(CLAIMS))
    holds, fails = (min(1.0, 2 * factor * one) for one in tests)
    large_enough = found.claim.kind == "little" or all(part.mean.difference >= found.claim.smallest for part in found.parts)
    verdict: VerdictName = "too small a sample"
    if fails < 1 - LEVEL:
        verdict = "contradicted"
    elif holds < 1 - LEVEL and large_enough:
        verdict = "supported"
    detectable = max(_detectable(part.mean, found.claim.kind) for part in found.parts)
    return Verdict(
        found.claim, verdict, found.ablation, found.parts, found.also, p_value, p_holm, detectable, found.seeds, found.reason
    )


def _detectable(found: Difference, kind: str) -> float:
    """At the strictest level that Holm's correction may leave; equivalence has two sides to exclude."""
    beta = (1 - POWER) / (2 if kind == "little" else 1)
    quantiles = stats.t.isf((1 - LEVEL) / 2 / len(CLAIMS), found.freedom) + stats.t.isf(beta, found.freedom)
    return float(quantiles * found.standard_error)


def _trend(title: str, names: Mapping[int, str]) -> list[Part]:
    """The rise of the least-squares line from the lowest number to the highest; empty for fewer than two numbers."""
    if len(names) < 2:
        return []
    numbers = np.array(sorted(names), float)
    centred = numbers - numbers.mean()
    weights = centred / (centred**2).sum() * (numbers[-1] - numbers[0])
    return [
        Part(title, [{names[int(number)]: float(weight) for number, weight in zip(numbers, weights, strict=True) if weight}])
    ]


def _numbered(names: Collection[str], pattern: str) -> dict[int, str]:
    return {int(found[1]): name for name in names if (found := re.fullmatch(pattern, name))}


def _gain(names: Collection[str]) -> list[Part]:
    pairs: list[Weights] = [
        {f"untuned-{name.removeprefix('tuned-')}": -1, name: 1}
        for name in names
        if name.startswith("tuned-") and f"untuned-{name.removeprefix('tuned-')}" in names
    ]
    if not pairs and {"untuned", "full-full"} <= set(names):
        pairs = [{"untuned": -1, "full-full": 1}]
    return [Part("tuned minus untuned", pairs)] if pairs else []


def _clusters(names: Collection[str]) -> list[Part]:
    return _trend("rise from fewest to most training clusters", _numbered(names, r"clusters-(\d+)"))


def _grid(names: Collection[str]) -> dict[tuple[int, int], str]:
    found = {name: re.fullmatch(r"tasks-(\d+)-templates-(\d+)", name) for name in names}
    return {(int(match[1]), int(match[2])): name for name, match in found.items() if match}


def _corners(names: Collection[str]) -> tuple[dict[tuple[int, int], str], list[int], list[int]]:
    """The grid's cells, and its numbers of tasks and of templates; nothing unless it is whole and has two of each."""
    grid = _grid(names)
    rows, columns = sorted({row for row, _ in grid}), sorted({column for _, column in grid})
    whole = len(grid) == len(rows) * len(columns) and min(len(rows), len(columns)) > 1
    return (grid, rows, columns) if whole else ({}, [], [])


def _tasks(names: Collection[str]) -> list[Part]:
    grid, rows, columns = _corners(names)
    weights = {grid[rows[0], column]: -1 / len(columns) for column in columns}
    weights |= {grid[rows[-1], column]: 1 / len(columns) for column in columns}
    return [Part(f"{rows[-1]} minus {rows[0]} tasks of each cluster, mean over templates", [weights])] if grid else []


def _templates(names: Collection[str]) -> list[Part]:
    grid, rows, columns = _corners(names)
    weights = {grid[row, columns[0]]: -1 / len(rows) for row in rows}
    weights |= {grid[row, columns[-1]]: 1 / len(rows) for row in rows}
    return [Part(f"{columns[-1]} minus {columns[0]} templates, mean over tasks", [weights])] if grid else []


def _interaction(names: Collection[str]) -> list[Part]:
    grid, rows, columns = _corners(names)
    if not grid:
        return []
    ends = [(rows[end], columns[other]) for end in (0, -1) for other in (0, -1)]
    weights = {grid[end]: sign for end, sign in zip(ends, (1, -1, -1, 1), strict=True)}
    return [Part("interaction: what templates bring with most tasks, minus with fewest", [weights])]


def _scale(names: Collection[str]) -> list[Part]:
    sizes = sorted(_numbered(names, r"tuned-held-out-(\d+)"))
    if len(sizes) < 2:
        return []
    small, large = sizes[0], sizes[-1]
    return [
        Part("smallest model: loss by tuning", [{f"untuned-held-out-{small}": 1, f"tuned-held-out-{small}": -1}]),
        Part("largest model: gain by tuning", [{f"untuned-held-out-{large}": -1, f"tuned-held-out-{large}": 1}]),
    ]


def _instructions(names: Collection[str]) -> list[Part]:
    others = {"none-full": "bare inputs", "name-full": "task names"}
    if not {"full-full", *others} <= set(names):
        return []
    return [Part(f"trained with instructions minus with {told}", [{name: -1, "full-full": 1}]) for name, told in others.items()]


def _shots(names: Collection[str]) -> tuple[str, str] | None:
    """Cells without exemplars, and with most in training and before the question."""
    most = max(_numbered(names, r"tuned-with-exemplars-(\d+)-shot"), default=0)
    return ("tuned-0-shot", f"tuned-with-exemplars-{most}-shot") if most and "tuned-0-shot" in names else None


def _few_shot(names: Collection[str]) -> list[Part]:
    cells = _shots(names)
    return [Part("with exemplars minus without", [{cells[0]: -1, cells[1]: 1}])] if cells else []


def _spread(names: Collection[str]) -> list[Part]:
    cells = _shots(names)
    return [Part("spread over templates without exemplars minus with", [{cells[0]: 1, cells[1]: -1}])] if cells else []


def _prompts(names: Collection[str]) -> list[Part]:
    rows = sorted(
        {match[1] for name in names if (match := re.fullmatch(r"tuned-(\d+|full)-.+", name))}, key=lambda row: len(row)
    )
    if not rows:
        return []
    # With the fewest rows, where the paper finds most.
    fewest = min((row for row in rows if row != "full"), key=int, default="full")
    pairs: list[Weights] = [
        {f"un{name}": -1, name: 1} for name in names if name.startswith(f"tuned-{fewest}-") and f"un{name}" in names
    ]
    return [Part("prompt on the tuned minus on the untuned model", pairs)] if pairs else []


CLAIMS = (
    Claim(
        "held-out gain",
        "Instruction tuning raises zero-shot scores on kinds of task that it did not train on.",
        "4, figure 5",
        "tuned minus untuned, each by its best prompt",
        0.02,
        ("holdouts", "instructions"),
        _gain,
    ),
    Claim(
        "more clusters",
        "Held-out scores rise with the number of training clusters.",
        "4.1, figure 6",
        "rise of the line through all numbers of clusters",
        0.02,
        ("figure-6", "clusters"),
        _clusters,
    ),
    Claim(
        "more data sets",
        "Held-out scores rise with the number of data sets in each training cluster.",
        "B.1, figure 11",
        "most minus fewest tasks of each cluster",
        0.02,
        ("tasks-by-templates",),
        _tasks,
    ),
    Claim(
        "scale",
        "Tuning raises held-out scores of large models and lowers those of small ones.",
        "4.2, figure 7",
        "untuned minus tuned for the smallest model, and tuned minus untuned for the largest",
        0.01,
        ("scale",),
        _scale,
    ),
    Claim(
        "instructions matter",
        "Training with instructions raises held-out scores more than training on the same tasks without.",
        "4.3, figure 8",
        "trained with instructions minus bare inputs, and minus task names, all asked with instructions",
        0.02,
        ("instructions",),
        _instructions,
    ),
    Claim(
        "few-shot adds",
        "Exemplars in training and before the question raise the scores of a tuned model.",
        "4.4, figure 9",
        "trained and asked with exemplars minus trained and asked without",
        0.02,
        ("few-shot",),
        _few_shot,
    ),
    Claim(
        "few-shot shrinks the spread",
        "With exemplars, scores vary less over templates.",
        "4.4, figure 9",
        "standard deviation over templates, without exemplars minus with",
        0.005,
        ("few-shot",),
        _spread,
        statistic="spread",
    ),
    Claim(
        "prompt tuning",
        "A tuned model is a better start for continuous prompts than an untuned one.",
        "4.5, figure 10",
        "prompt learned on the tuned model minus on the untuned one, from the fewest rows",
        0.02,
        ("prompt-tuning",),
        _prompts,
    ),
    Claim(
        "templates matter little",
        "The number of templates of each training task hardly changes held-out scores.",
        "B.1, figure 11",
        "most minus fewest templates, within the margin on either side of zero",
        0.02,
        ("tasks-by-templates",),
        _templates,
        kind="little",
        also=_interaction,
    ),
)
