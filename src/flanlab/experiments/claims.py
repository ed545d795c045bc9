"""The paper's claims as tests that are written down before a run: what is compared, from which size on an effect counts, and
when a claim is supported, contradicted, or the sample too small to say.

Each claim is made of parts; a part is a weighted sum of cells of one ablation, by task, then averaged over the tasks of each
cluster and over clusters. `claims` is a pure function of the cells' scores.

A claim of a gain is decided by two one-sided tests: that the effect is above zero, and that it is below the smallest effect
that counts. Supported: the first is significant, and the effect found is at least the smallest that counts. Contradicted: the
second is significant, even if a smaller gain is clear. A claim that
something matters little is decided by equivalence (Schuirmann 1987). All parts must hold, so a claim is as sure as its weakest
part, and one part that fails contradicts it. A claim's p-value is twice the smaller of its two; Holm's correction is over all
nine, whether they could be tested or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

import numpy as np
from scipy import stats

from flanlab.experiments.paper_claims import CLAIMS, Claim, Part
from flanlab.results.grids import ScoreGrid
from flanlab.results.intervals import LEVEL, POWER
from flanlab.results.layout import UNKNOWN
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
        if differing := list(islice(_differing(parts, done), 3)):
            return Verdict(claim, "not comparable", ablation, reason=" ".join(differing))
        seeds = min(len(grids) for name in wanted for grids in done[name].grids.values() if not name.startswith("untuned"))
        also = [_part_found(part, done, claim.statistic) for part in claim.also(set(done))]
        found = [_part_found(part, done, claim.statistic) for part in parts]
        if any(part.tasks == 0 for part in found):
            return Verdict(claim, "not comparable", ablation, reason=f"{ablation}: the cells have no task in common.")
        return Verdict(claim, "too small a sample", ablation, found, also, seeds=seeds)
    return Verdict(claim, "not tested", reason=reason)


def _differing(parts: Sequence[Part], cells: Mapping[str, ScoredCell]) -> Iterator[str]:
    """Where cells that are compared do not agree, in sentences."""
    for weights in (weights for part in parts for weights in part.sums):
        first, *others = weights
        for other in others:
            ours, theirs = cells[first].facts, cells[other].facts
            for name in ours:
                if name in theirs and ours[name] != theirs[name]:
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
    return over_clusters(part.title, by_task, homes)


def over_clusters(title: str, by_task: Mapping[str, Sequence[Difference]], homes: Mapping[str, str]) -> PartFound:
    """A part from its differences on each task: their mean, then over the tasks of each cluster, then over clusters."""
    found = {task: mean_difference(some) for task, some in by_task.items()}
    clusters = mean_over_clusters(found, homes)
    none = Difference(difference=float("nan"), bounds=(-1.0, 1.0), units=0, variance=UNKNOWN)
    return PartFound(title, mean_difference(list(clusters.values())) if clusters else none, clusters, len(found))


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
        return replace(found, reason=notes)
    # What Holm's correction makes of the smaller p-value, it makes of both.
    factor = p_holm / p_value if 0 < p_value < 1 else float(len(CLAIMS))
    holds, fails = (min(1.0, 2 * factor * one) for one in tests)
    large_enough = found.claim.kind == "little" or all(part.mean.difference >= found.claim.smallest for part in found.parts)
    verdict: VerdictName = "too small a sample"
    if fails < 1 - LEVEL:
        verdict = "contradicted"
    elif holds < 1 - LEVEL and large_enough:
        verdict = "supported"
    detectable = max(detectable_effect(part.mean, found.claim.kind) for part in found.parts)
    return replace(found, verdict=verdict, p_value=p_value, p_holm=p_holm, detectable=detectable)


def detectable_effect(found: Difference, kind: str, power: float = POWER) -> float:
    """At the strictest level that Holm's correction may leave; equivalence has two sides to exclude."""
    beta = (1 - power) / (2 if kind == "little" else 1)
    quantiles = stats.t.isf((1 - LEVEL) / 2 / len(CLAIMS), found.freedom) + stats.t.isf(beta, found.freedom)
    return float(quantiles * found.standard_error)
