"""Verdicts on the paper's claims, from made-up scores whose truth is known; no model and no files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from flanlab.experiments.claims import Cells, ScoredCell, Verdict, claims
from flanlab.experiments.paper_claims import CLAIMS
from flanlab.results.grids import ScoreGrid, mean_metric
from flanlab.results.intervals import Floats
from flanlab.results.statistics import contrast, difference, spread_difference, variance_parts

TASKS = {"rte": "inference", "cb": "inference", "copa": "commonsense", "piqa": "commonsense"}
TEMPLATES = 8
LUCK = np.linspace(-1, 1, TEMPLATES)
"""How much better each template is, in spreads."""


METRIC = mean_metric("accuracy", "accuracy", "Mean over rows of 0/1 scores.", lambda prediction: float(prediction["score"]))


def grid(right: Floats) -> ScoreGrid:
    """Of 0/1 scores [templates, rows]."""
    templates, rows = right.shape
    statistics = np.stack([right, np.ones_like(right)], axis=-1)
    return ScoreGrid(METRIC, tuple(range(1, templates + 1)), tuple(range(rows)), statistics, np.ones_like(right))


def cell(score: float, rows: int, seed: int, *, spread: float = 0.01, own_share: float = 0.5) -> ScoredCell:
    """A cell whose true score is known; what is random is the question's, the same for every cell, but for a share."""
    made: dict[str, list[ScoreGrid]] = {}
    for number, task in enumerate(TASKS):
        shared = np.random.default_rng((8, number)).random((TEMPLATES, rows))
        own = np.random.default_rng((7, number, seed))
        luck = np.where(own.random(shared.shape) < own_share, own.random(shared.shape), shared)
        made[task] = [grid((luck < score + spread * LUCK[:, None]).astype(float))]
    return ScoredCell(made, TASKS, {"precision": "float32"})


def study(scores: Mapping[str, Mapping[str, float]], rows: int, **spreads: float) -> dict[str, dict[str, ScoredCell | None]]:
    return {
        ablation: {
            name: cell(score, rows, 100 * place + number, spread=spreads.get(name.replace("-", "_"), 0.01))
            for number, (name, score) in enumerate(cells.items())
        }
        for place, (ablation, cells) in enumerate(scores.items())
    }


GRID = [(tasks, templates) for tasks in (1, 2, 4) for templates in (1, 4, 10)]


def as_the_paper_says(effect: float) -> dict[str, dict[str, float]]:
    """Scores in which every claim is true with so large an effect; with 0 the claims of a gain are all false."""
    return {
        "instructions": {"untuned": 0.5, "none-full": 0.5, "name-full": 0.5, "full-full": 0.5 + effect},
        "clusters": {"untuned": 0.5, **{f"clusters-{number}": 0.5 + effect * (number - 1) / 3 for number in (1, 2, 3, 4)}},
        "tasks-by-templates": {f"tasks-{one}-templates-{two}": 0.5 + effect * (one - 1) / 3 for one, two in GRID},
        "scale": {
            "untuned-held-out-1": 0.5, "tuned-held-out-1": 0.5 - effect,
            "untuned-held-out-2": 0.5, "tuned-held-out-2": 0.5 + effect,
        },
        "few-shot": {"tuned-0-shot": 0.5, "tuned-16-shot": 0.5, "tuned-with-exemplars-16-shot": 0.5 + effect},
        "prompt-tuning": {"untuned-32-rte": 0.5, "tuned-32-rte": 0.5 + effect, "tuned-full-rte": 0.1, "untuned-full-rte": 0.1},
    }  # fmt: skip


def verdicts(cells: Cells) -> dict[str, str]:
    return {one.claim.name: one.verdict for one in claims(cells)}


@pytest.fixture(scope="module")
def true_claims() -> dict[str, dict[str, ScoredCell | None]]:
    return study(as_the_paper_says(0.1), 400, tuned_0_shot=0.15)


def test_there_are_nine_claims_with_names_of_their_own() -> None:
    assert len({claim.name for claim in CLAIMS}) == 9


def test_what_is_true_is_supported(true_claims: Cells) -> None:
    found = claims(true_claims)
    assert [one.verdict for one in found] == ["supported"] * 9
    for one in found:
        assert one.effect is not None
        expected = {"templates matter little": 0.0, "few-shot shrinks the spread": 0.14 * LUCK.std()}
        assert one.effect.low <= expected.get(one.claim.name, 0.1) <= one.effect.high
        assert one.detectable is not None
        assert one.detectable < 0.1
        assert set(one.parts[0].clusters) == {"inference", "commonsense"}
    assert found[-1].also[0].mean.low < 0 < found[-1].also[0].mean.high, "there is no interaction"


def test_what_is_false_is_contradicted() -> None:
    """No effect at all, and rows enough to say so: a gain as large as the smallest that counts is excluded."""
    found = verdicts(study(as_the_paper_says(0.0), 3000))
    assert found.pop("templates matter little") == "supported"
    assert found.pop("few-shot shrinks the spread") in ("contradicted", "too small a sample")
    assert set(found.values()) == {"contradicted"}


def test_few_rows_say_nothing() -> None:
    assert set(verdicts(study(as_the_paper_says(0.0), 12)).values()) == {"too small a sample"}


def test_templates_that_matter_contradict_that_they_do_not() -> None:
    scores = as_the_paper_says(0.1)
    scores["tasks-by-templates"] = {f"tasks-{one}-templates-{two}": 0.4 + 0.02 * two * one / 4 for one, two in GRID}
    found = claims(study(scores, 1500))[-1]
    assert found.verdict == "contradicted"
    assert found.also[0].mean.low > 0, "more templates bring more where there are more tasks"


def test_one_part_that_fails_contradicts_the_claim() -> None:
    """At both sizes tuning helps, where the claim is that it hurts the small model."""
    scores = as_the_paper_says(0.1)
    scores["scale"]["tuned-held-out-1"] = 0.6
    found = next(one for one in claims(study(scores, 400)) if one.claim.name == "scale")
    assert found.verdict == "contradicted"
    assert found.effect is not None
    assert found.effect.high < 0


def test_a_clear_gain_too_small_to_matter_contradicts() -> None:
    pair = {"tuned-0-shot": 0.5, "tuned-with-exemplars-16-shot": 0.505}
    cells = {name: cell(score, 3000, place, own_share=0.01) for place, (name, score) in enumerate(pair.items())}
    found = claims({"few-shot": cells})[5]
    assert found.effect is not None
    assert found.effect.low > 0
    assert found.verdict == "contradicted"


def test_cells_that_are_missing_are_named(true_claims: Cells) -> None:
    cells = {**true_claims, "scale": {**true_claims["scale"], "tuned-held-out-2": None}}
    del cells["few-shot"]
    found = {one.claim.name: one for one in claims(cells)}
    assert found["scale"].verdict == found["few-shot adds"].verdict == "not tested"
    assert "tuned-held-out-2 are not done" in found["scale"].reason
    assert "few-shot: there are no such cells" in found["few-shot adds"].reason
    assert found["more clusters"].verdict == "supported"


def test_part_of_a_crossed_grid_is_not_enough(true_claims: Cells) -> None:
    some = {name: one for name, one in true_claims["tasks-by-templates"].items() if name != "tasks-2-templates-4"}
    assert verdicts({**true_claims, "tasks-by-templates": some})["more data sets"] == "not tested"


def test_cells_that_differ_are_refused_with_what_differs(true_claims: Cells) -> None:
    other = true_claims["few-shot"]["tuned-with-exemplars-16-shot"]
    assert other is not None
    cells = dict(true_claims["few-shot"]) | {"tuned-with-exemplars-16-shot": replace(other, facts={"precision": "bfloat16"})}
    found = claims({**true_claims, "few-shot": cells})[5]
    assert found.verdict == "not comparable"
    assert found.reason.startswith("precision differs: float32 in tuned-0-shot, bfloat16 in tuned-with-exemplars-16-shot")


def test_holm_counts_the_claims_that_were_not_tested() -> None:
    """An effect that a single test would call clear is none of nine."""

    def alone(effect: float) -> Verdict:
        scores = {"few-shot": {"tuned-0-shot": 0.5, "tuned-with-exemplars-16-shot": 0.5 + effect}}
        return claims(study(scores, 60))[5]

    found = next(one for effect in np.arange(-0.03, 0.05, 0.004) if 0.006 < ((one := alone(effect)).p_value or 1) < 0.05)
    assert found.p_holm == pytest.approx(9 * (found.p_value or 0))
    assert found.verdict == "too small a sample"


def test_the_prompt_learned_from_the_fewest_rows_counts(true_claims: Cells) -> None:
    found = next(one for one in claims(true_claims) if one.claim.name == "prompt tuning")
    assert found.effect is not None
    assert found.effect.difference > 0.05, "not mixed with the pair `full`, which does not differ"


def right(score: float, seed: int, rows: int = 60) -> Floats:
    return (np.random.default_rng(seed).random((TEMPLATES, rows)) < score).astype(float)


def test_a_contrast_of_two_is_their_difference() -> None:
    first, second = grid(right(0.5, 1)), grid(right(0.6, 2))
    assert contrast([[first], [second]], [-1, 1]) == difference(first, second)
    reversed_order = contrast([[second], [first]], [1, -1])
    assert reversed_order.difference == pytest.approx(difference(first, second).difference)
    assert reversed_order.standard_error == pytest.approx(difference(first, second).standard_error)


def test_a_contrast_over_seeds_is_wider_where_seeds_differ() -> None:
    untuned = grid(right(0.5, 1))
    alike, apart = (
        [grid(right(score, 10 + seed)) for seed, score in enumerate(scores)] for scores in ([0.6] * 3, [0.5, 0.6, 0.7])
    )
    errors = [contrast([[untuned], seeds], [-2, 2]).standard_error for seeds in (alike, apart)]
    assert errors[1] > 1.5 * errors[0]
    with pytest.raises(ValueError, match="cannot be paired"):
        contrast([alike, alike[:2]], [-1, 1])


def test_each_source_of_variance_is_found_where_it_is() -> None:
    def shares(luck: Floats) -> dict[str, float]:
        """Of three models whose scores are shifted by [seed, template]."""
        draws = [np.random.default_rng((9, seed)).random((TEMPLATES, 300)) for seed in range(3)]
        parts = variance_parts(
            [grid((draw < 0.5 + shift[:, None]).astype(float)) for draw, shift in zip(draws, luck, strict=True)]
        )
        return {name: part / sum(parts.values()) for name, part in parts.items()}

    seeds, none = np.array([[-0.2], [0.0], [0.2]]), np.zeros((3, TEMPLATES))
    assert shares(seeds + none)["seeds"] > 0.9
    assert shares(none + 0.3 * LUCK)["templates"] > 0.9
    assert shares(none)["seeds"] < 0.7


def test_no_more_false_alarms_of_the_spread_than_promised() -> None:
    """Two models with the same spread: the 95 % interval excludes zero about one time in twenty."""

    def excludes(seed: int) -> bool:
        draw = np.random.default_rng(seed)
        both = [grid((draw.random((10, 80)) < 0.5 + 0.05 * draw.standard_normal((10, 1))).astype(float)) for _ in range(2)]
        found = spread_difference([both[0]], [both[1]])
        return found.low > 0 or found.high < 0

    alarms: Callable[[int], bool] = excludes
    assert sum(alarms(seed) for seed in range(400)) / 400 < 0.08


def test_a_spread_needs_templates_that_were_asked_the_same_rows() -> None:
    few = grid(right(0.5, 1)[:3])
    assert "fewer than 4 templates" in spread_difference([few], [few]).note
