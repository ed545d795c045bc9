"""Correlations against scipy, with ties, weights, and answers that are no number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, rankdata, spearmanr

from flanlab.evaluation.metrics.numbers import read_number
from tests.evaluation.predictions import in_rows, named, ranked, said, score, total


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3.8", 3.8),
        ("5", 5.0),
        ("-2.5", -2.5),
        ("\N{MINUS SIGN}4", -4.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("about 3.8 of 5", 3.8),
        ("4/5", 4.0),
        ("1,200.5 metres", 1200.5),
        ("the years 1914-1918", 1914.0),
        ("similarity: 2", 2.0),
        ("three", None),
        ("", None),
        ("B2", None),
        ("1e-3", 0.001),
        ("2.5E+2 m", 250.0),
        ("7e, or 3e4x", 7.0),
        ("1e999", None),
        ("\uff13\uff0e\uff18", 3.8),
        ("9" * 200, None),
    ],
)
def test_reading_a_number(text: str, number: float | None) -> None:
    assert read_number(text) == number


def answers(given: Sequence[object], labels: Sequence[float]) -> list[dict[str, Any]]:
    return in_rows(said(str(text), str(label), gold_value=label) for text, label in zip(given, labels, strict=True))


def tied(rows: int = 40, seed: int = 0) -> tuple[list[float], list[float]]:
    """Labels in steps of 0.2 and answers in whole numbers, as in STS-B."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 26, rows) / 5
    given = np.clip(np.round(labels + generator.normal(0, 1.2, rows)), 0, 5)
    return given.tolist(), labels.tolist()


@pytest.mark.parametrize(("name", "reference"), [("pearson", pearsonr), ("spearman", spearmanr)])
def test_correlation_is_that_of_scipy(name: str, reference: Any) -> None:
    given, labels = tied()
    rows = answers(given, labels)
    metric = named(name, of=rows)
    assert total(metric, rows) == pytest.approx(reference(given, labels).statistic)
    far = answers([1e6 + number / 1000 for number in given], labels)
    assert total(metric, far) == pytest.approx(reference(given, labels).statistic, abs=1e-6)


@pytest.mark.parametrize(("name", "reference"), [("pearson", pearsonr), ("spearman", spearmanr)])
def test_correlation_of_a_resampling_is_that_of_the_rows_repeated(name: str, reference: Any) -> None:
    """Spearman's ranks are those among the rows drawn, not among all."""
    given, labels = tied()
    rows = answers(given, labels)
    metric = named(name, of=rows)
    for seed in range(20):
        weights = np.random.default_rng(seed).multinomial(40, np.full(40, 1 / 40))
        expected = reference(np.repeat(given, weights), np.repeat(labels, weights)).statistic
        assert total(metric, rows, weights.tolist()) == pytest.approx(expected)


def test_published_examples() -> None:
    """Those of the pages of both metrics in Hugging Face's `evaluate`."""
    rows = answers([10, 9, 2.5, 6, 4], [1, 2, 3, 4, 5])
    assert score("pearson", rows) == pytest.approx(-0.74, abs=0.005)
    assert score("spearman", rows) == pytest.approx(-0.7)


def test_an_answer_that_is_no_number_counts_as_the_mean() -> None:
    given, labels = tied()
    spoken: list[Any] = ["no idea" if row % 7 == 0 else number for row, number in enumerate(given)]
    numbers = [number for number in spoken if not isinstance(number, str)]
    filled = [float(np.mean(numbers)) if isinstance(one, str) else one for one in spoken]
    rows = answers(spoken, labels)
    assert score("pearson", rows) == pytest.approx(pearsonr(filled, labels).statistic)
    ranks = iter(rankdata(numbers))
    filled_ranks = [(len(numbers) + 1) / 2 if isinstance(one, str) else next(ranks) for one in spoken]
    assert score("spearman", rows) == pytest.approx(pearsonr(filled_ranks, rankdata(labels)).statistic)


def test_silence_never_pays() -> None:
    given, labels = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    for name in ("pearson", "spearman"):
        scores = [score(name, answers(["?"] * silent + given[silent:], labels)) for silent in range(5)]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] == pytest.approx(1.0)
        assert scores[1] < 0.98


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.parametrize("given", [["0.1"] * 7, ["no number"] * 7, ["no", "0.3", *["no"] * 5]])
def test_correlation_that_is_not_defined_is_zero(name: str, given: list[str]) -> None:
    labels = [0.1, 0.7, 1.3, 2.9, 3.1, 3.3, 4.7]
    assert score(name, answers(given, labels)) == 0.0
    assert score(name, answers([str(label) for label in labels], [1.1] * 7)) == 0.0


def test_of_a_task_with_options_the_first_ranked_is_read() -> None:
    rows = in_rows(
        ranked([0.0, -1.0, -2.0], 0, options=options, references=[options[0]], gold_value=label)
        for options, label in ((["0", "1", "2"], 0.4), (["1", "0", "2"], 0.9), (["2", "0", "1"], 2.0))
    )
    assert score("pearson", rows, "pearson", "accuracy") == pytest.approx(pearsonr([0, 1, 2], [0.4, 0.9, 2.0]).statistic)
