"""Power before the run: what the cells of a pilot vary by, and the difference that another design will detect.

The two-way layout (`flanlab.results.layout`) read backwards: from a pilot's cells to variance components, and from these to the
variance that the layout will find on average in a design that nobody has asked yet. From there on a planned difference is a
`Difference` like any other, and its smallest detectable effect is the one that is told after a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from flanlab.results import layout
from flanlab.results.grids import ScoreGrid, common_cells
from flanlab.results.intervals import Floats
from flanlab.results.layout import Variance, common_part, total
from flanlab.results.statistics import Difference, caution, difference_of

_NAN = float("nan")


class Parts(NamedTuple):
    """Variances of the cells of one difference; NaN where they cannot be estimated."""

    template: float
    """What a template adds."""
    within: float
    """Between rows (or groups) of one template, all of it."""
    row: float
    """The share of `within` that a row adds through every template."""


UNKNOWN = Parts(_NAN, _NAN, _NAN)


@dataclass(frozen=True)
class Components:
    """What the cells of a paired difference on one task vary by, in the metric's unit squared.

    `one` is of one trained model, `shared` what models trained with other seeds have in common of that, and `seed` what a seed
    adds to the mean score; NaN where the pilot has a single seed. `why` says what the pilot lacks.
    """

    one: Parts
    shared: Parts = UNKNOWN
    seed: float = _NAN
    templates: int = 0
    noise: float = _NAN
    """Templates of the pilot, and the part of the variance of their scores that is not theirs."""
    bounds: tuple[float, float] = (-1.0, 1.0)
    """The lowest and the highest difference there can be."""
    why: str = ""


def shown_in_turns(templates: int, units: int, per_unit: int) -> Floats:
    """Which unit is shown through which template, [templates, units] of 1 or 0: units take turns as in an evaluation.

    Templates for which there are too few units are left out.
    """
    templates = min(templates, units * per_unit)
    shown = np.zeros((templates, units))
    turns = np.arange(units * per_unit)
    shown[turns % templates, turns // per_unit] = 1
    return shown


def components(before: Sequence[ScoreGrid], after: Sequence[ScoreGrid]) -> Components:
    """Variance components of `after` minus `before`, over the cells that both have.

    Args:
        before: of one model; or several, as many as `after`, each paired with the one in the same place.
        after: of the other model; or several, of models trained with different seeds.

    Returns:
        The components; where something cannot be estimated it is NaN, and `why` is set.
    """
    pairs = [common_cells(one, other) for one, other in zip(before, after, strict=True)]
    kept = [pair for pair in pairs if pair is not None]
    if not kept or len(kept) < len(pairs) or len({pair[0].shown.tobytes() for pair in kept}) > 1:
        return Components(UNKNOWN, why="the pilot's models were not asked the same")
    low, high = kept[0][0].metric.bounds
    values = np.stack([other.pseudo_values() - one.pseudo_values() for one, other in kept])
    return cell_components(values, kept[0][0].shown, (low - high, high - low))


def cell_components(values: Floats, shown: Floats, bounds: tuple[float, float] = (-1.0, 1.0)) -> Components:
    """As `components`, from the differences of cells, [seeds, templates, units]."""
    seeds = len(values)
    one = np.mean([_parts(each, shown) for each in values], axis=0)
    noise = float(np.subtract(*_noise(Parts(*one), shown)))
    if np.isnan(one[1]):
        return Components(UNKNOWN, bounds=bounds, why="the pilot has one row, or one for each template")
    if one[1] < 1e-20:
        return Components(UNKNOWN, bounds=bounds, why="no row of the pilot differs from the others")
    if seeds == 1:
        return Components(Parts(*one), UNKNOWN, _NAN, len(shown), noise, bounds)
    # The mean over seeds has the shared part whole, and of each seed's own part a share.
    own = (one - _parts(values.mean(axis=0), shown)) * seeds / (seeds - 1)
    means = ((values * shown).sum(axis=-1) / shown.sum(axis=1)).mean(axis=1)
    expected = _expected_variance(Parts(*own), shown)
    seed = float(means.var(ddof=1) - expected.between - expected.common)
    return Components(Parts(*one), Parts(*(one - own)), seed, len(shown), noise, bounds)


def planned(found: Components, shown: Floats, seeds: int = 1) -> Difference:
    """The difference that a design is expected to give; `detectable` is the smallest that it shows with 80 % power.

    Args:
        found: of a pilot.
        shown: of the design, [templates, units], as `shown_in_turns` makes it.
        seeds: models trained alike. Of one, nothing is said of other seeds.

    Returns:
        A difference of zero; `detectable` is NaN where it cannot be estimated, and `note` says why; it is infinite
        where none would be seen.
    """
    why = found.why if np.isnan(found.one.within) else _lacking(found, shown, seeds)
    if why:
        variance, note = layout.UNKNOWN, f"cannot be estimated: {why}"
    else:
        variance = _variance_over_seeds(found, shown, seeds)
        note = caution(shown, seeds, np.inf, correlation=found.bounds[1] > 1)
    return difference_of(0.0, variance, found.bounds, shown.shape[1], note)


def pooled(found: Mapping[str, Components]) -> dict[str, Components]:
    """Components of the tasks of a pilot, each from what the task and what all of them together say.

    Ten templates say little of their own variance, and by chance its estimate is negative. So its ratio to the variance within
    templates is shrunk towards the mean of all tasks, the more the less the tasks differ beyond chance (empirical Bayes by
    moments: Morris 1983). What a seed adds, of which a pilot has two or three, is the mean of all tasks.
    """
    own = {name: one for name, one in found.items() if not np.isnan(one.one.template)}
    if not own:
        return dict(found)
    within, template, noise = (
        np.array(numbers)
        for numbers in zip(*((one.one.within, one.one.template, one.noise) for one in own.values()), strict=True)
    )
    ratio, count = template / within, np.array([one.templates for one in own.values()])
    mean = max(0.0, float(ratio.mean()))
    error = 2 * (mean + noise / within) ** 2 / (count - 1)
    spread = max(0.0, float(ratio.var(ddof=1) - error.mean())) if len(ratio) > 1 else np.inf
    weight = 1.0 if spread == np.inf else spread / (spread + error)
    shrunk = dict(zip(own, np.maximum(mean + weight * (ratio - mean), 0.0), strict=True))
    seeded = [one for one in own.values() if not np.isnan(one.seed)]
    seed = max(0.0, float(np.mean([one.seed / one.one.within for one in seeded]))) if seeded else _NAN
    common = float(np.mean([one.shared.template / one.one.within for one in seeded])) if seeded else _NAN
    share = min(max(common / mean, 0.0), 1.0) if mean > 0 else 0.0 * common
    return {name: one if name not in own else _possible(one, float(shrunk[name]), share, seed) for name, one in found.items()}


def _possible(found: Components, ratio: float, share: float, seed: float) -> Components:
    """With these ratios, and with a row's part no less than none and no more than the whole."""
    within, shared = found.one.within, min(found.shared.within, found.one.within)
    return replace(
        found,
        one=Parts(ratio * within, within, float(np.clip(found.one.row, 0.0, within))),
        shared=Parts(share * ratio * within, shared, float(np.clip(found.shared.row, 0.0, shared))),
        seed=seed * within,
    )


def _lacking(found: Components, shown: Floats, seeds: int) -> str:
    if len(shown) > 1 and np.isnan(found.one.template):
        return "the pilot has one template, which says nothing of others"
    if row_overlap(shown) > 0 and np.isnan(found.one.row):
        return "the pilot shows each row through one template, the design through several"
    if seeds > 1 and np.isnan(found.seed):
        return "the pilot has one training seed, which says nothing of others"
    return ""


def _parts(values: Floats, shown: Floats) -> Floats:
    """The three parts of `Parts`, without bias: by chance they may be negative."""
    counts = shown.sum(axis=1)
    spare = (counts - 1).sum()
    if spare == 0:
        return np.full(3, _NAN)
    means = (values * shown).sum(axis=1) / counts
    within = float((((values - means[:, None]) * shown) ** 2).sum() / spare)
    if len(counts) == 1:
        return np.array([_NAN, within, _NAN])
    common, overlap = float(common_part(values, shown)[0]), row_overlap(shown)
    template = means.var(ddof=1) - within * float((1 / counts).mean()) + common
    return np.array([template, within, common / overlap if overlap > 0 else _NAN])


def row_overlap(shown: Floats) -> float:
    """Covariance of two templates' scores, in units of what a row adds to both; the mean over pairs of templates."""
    templates = len(shown)
    if templates == 1:
        return 0.0
    counts = shown.sum(axis=1)
    both = shown @ shown.T / np.outer(counts, counts)
    np.fill_diagonal(both, 0)
    return float(both.sum() / (templates * (templates - 1)))


def _noise(parts: Parts, shown: Floats) -> tuple[float, float]:
    """Variance of a template's score over its units, and what two templates' scores have in common of it."""
    overlap = row_overlap(shown)
    return parts.within * float((1 / shown.sum(axis=1)).mean()), parts.row * overlap if overlap > 0 else 0.0


def _variance_over_seeds(found: Components, shown: Floats, seeds: int) -> Variance:
    """What `seed_variance` finds on average in a design."""
    if seeds == 1:
        return _expected_variance(found.one, shown)
    own = np.subtract(found.one, found.shared)
    together = _expected_variance(Parts(*(np.array(found.shared) + own / seeds)), shown)
    each, shared = (_expected_variance(Parts(*parts), shown) for parts in (own, found.shared))
    between = (found.seed + each.between + each.common) / seeds
    whole, freedom = total(together)
    return Variance(between, np.array(seeds - 1.0), shared.between + shared.common, whole / np.sqrt(freedom), whole)


def _expected_variance(parts: Parts, shown: Floats) -> Variance:
    """What `template_unit_variance` finds on average in a design; NaN with a single unit for each template."""
    templates, units = shown.shape
    counts, meetings = shown.sum(axis=1), shown.sum(axis=0)
    if counts.max() < 2:
        return layout.UNKNOWN
    if templates == 1:
        over_units = np.array(parts.within / units)
        return Variance(np.array(0.0), np.array(np.inf), over_units, over_units / np.sqrt(units - 1), over_units)
    overlap, (spread, common), error = row_overlap(shown), _noise(parts, shown), 0.0
    if overlap > 0:
        row, cell = parts.row, parts.within - parts.row
        # Variance of what a unit adds to the sum of products, for normal effects.
        pairs = meetings * (meetings - 1)
        by_unit = pairs * (pairs * row**2 + 2 * (meetings - 1) * row * cell + cell**2)
        error = overlap / pairs.sum() * np.sqrt(by_unit.sum())
    between = (parts.template + spread - common) / templates
    floor = spread / templates + common * (templates - 1) / templates
    return Variance(*(np.array(number) for number in (between, templates - 1.0, common, error, floor)))
