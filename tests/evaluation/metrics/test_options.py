"""Rank classification: accuracy and its normalizations by hand, the rest against scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import f1_score, matthews_corrcoef

from flanlab.data.rendering import BASELINE
from flanlab.evaluation.metrics.options import accuracy, answer_probability, option_scores, right_options, with_counted_scores
from tests.evaluation.predictions import chose, in_rows, named, ranked, score, total


def test_accuracy_takes_the_highest_score() -> None:
    assert accuracy(ranked([-3.0, -1.5, -2.0], 1)) == 1.0
    assert accuracy(ranked([-3.0, -1.5, -2.0], 0)) == 0.0


def test_any_right_option_will_do() -> None:
    prediction = ranked([-3.0, -2.0, -1.0], 0, 2)
    assert right_options(prediction) == [0, 2]
    assert accuracy(prediction) == 1.0
    assert accuracy(ranked([-3.0, -1.0, -2.0], 0, 2)) == 0.0
    assert score("accuracy", [chose(option, 0, 2, count=3) for option in range(3)]) == pytest.approx(2 / 3)


def test_accuracy_of_a_tie_is_that_of_the_first() -> None:
    """One rule for all: a tie is never counted as right because the right option happens to be among the best."""
    assert accuracy(ranked([-2.0, -1.0, -1.0], 1)) == 1.0
    assert accuracy(ranked([-2.0, -1.0, -1.0], 2)) == 0.0


def test_accuracy_with_and_without_end_token() -> None:
    prediction = ranked([-4.0, -3.0], 0, without_end=[-1.0, -2.0])
    assert score("accuracy", [prediction], end_token=True) == 0.0
    assert score("accuracy", [prediction], end_token=False) == 1.0


def test_answer_probability_is_the_share_among_the_options() -> None:
    assert answer_probability(ranked([math.log(0.03), math.log(0.01)], 0)) == pytest.approx(0.75)
    assert answer_probability(ranked([math.log(0.03), math.log(0.01), math.log(0.04)], 0, 1)) == pytest.approx(0.5)
    # Sums of hundreds of tokens must not underflow.
    assert answer_probability(ranked([-5000.0, -5000.0 + math.log(3)], 1)) == pytest.approx(0.75)


def test_normalizations_by_hand() -> None:
    prediction = ranked(
        [-6.0, -4.0],
        0,
        without_end=[-5.0, -2.0],
        options=["ein schönes Haus", "no"],
        references=["ein schönes Haus"],
        option_tokens=[5, 2],
        option_scores_alone=[-9.0, -3.0],
        option_scores_alone_without_end=[-8.0, -2.5],
    )
    [without_end] = with_counted_scores([prediction], False)
    assert option_scores(prediction, "token").tolist() == [-6 / 5, -4 / 2]
    assert option_scores(without_end, "token").tolist() == [-5 / 4, -2 / 1]
    assert option_scores(prediction, "byte").tolist() == [-6 / 17, -4 / 2], "the umlaut is two bytes"
    assert option_scores(prediction, "pmi").tolist() == [3.0, -1.0]
    assert option_scores(without_end, "pmi").tolist() == [3.0, 0.5]
    names = ("accuracy", "accuracy_per_token", "accuracy_per_byte", "accuracy_pmi")
    assert [score(name, [prediction], "accuracy") for name in names] == [0.0, 1.0, 1.0, 1.0]


def test_after_a_baseline_prompt_no_end_token_is_scored_nor_counted() -> None:
    prediction = ranked([-5.0, -2.0], 0, template=BASELINE, option_tokens=[5, 2])
    for counted in with_counted_scores([prediction], True) + with_counted_scores([prediction], False):
        assert option_scores(counted, "token").tolist() == [-5 / 4, -2 / 1]


def random_choices(classes: int, rows: int, seed: int = 0) -> tuple[Sequence[int], Sequence[int]]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    chosen = np.where(generator.random(rows) < 0.5, labels, generator.integers(0, classes, rows))
    return labels.tolist(), chosen.tolist()


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_matthews_is_that_of_scikit_learn(classes: int) -> None:
    labels, chosen = random_choices(classes, 60)
    rows = in_rows(chose(option, label, count=classes) for option, label in zip(chosen, labels, strict=True))
    metric = named("matthews", of=rows)
    assert total(metric, rows) == pytest.approx(matthews_corrcoef(labels, chosen))
    weights = np.random.default_rng(1).integers(0, 4, 60)
    assert total(metric, rows, weights.tolist()) == pytest.approx(matthews_corrcoef(labels, chosen, sample_weight=weights))


def test_matthews_of_published_examples() -> None:
    """Those of the metric's page in Hugging Face's `evaluate`, and of GLUE's CoLA."""
    labels, chosen = [1, 3, 2, 0, 3, 2], [1, 2, 2, 0, 3, 3]
    assert score("matthews", [chose(p, label, count=4) for p, label in zip(chosen, labels, strict=True)]) == pytest.approx(
        0.5384615384615384
    )
    assert score("matthews", [chose(0, 0), chose(1, 1)]) == 1.0


def test_matthews_that_is_not_defined_is_zero() -> None:
    assert score("matthews", [chose(1, 0), chose(1, 1)]) == 0.0
    assert score("matthews", [chose(1, 1), chose(0, 1)]) == 0.0


def test_matthews_takes_a_right_choice_for_the_label() -> None:
    rows = [chose(2, 0, 2, count=3), chose(1, 1, count=3), chose(0, 0, count=3)]
    assert score("matthews", rows) == pytest.approx(matthews_corrcoef([2, 1, 0], [2, 1, 0]))
    wrong = [chose(1, 0, 2, count=3), chose(1, 1, count=3), chose(0, 0, count=3)]
    assert score("matthews", wrong) == pytest.approx(matthews_corrcoef([0, 1, 0], [1, 1, 0]))


def test_multirc_f1a_is_that_of_scikit_learn() -> None:
    labels, chosen = random_choices(2, 50, seed=3)
    rows = in_rows(chose(option, label) for option, label in zip(chosen, labels, strict=True))
    metric = named("multirc_f1a", of=rows)
    assert total(metric, rows) == pytest.approx(f1_score(labels, chosen))
    assert total(metric, rows) != pytest.approx(f1_score(labels, chosen, pos_label=0))
    weights = np.random.default_rng(1).integers(0, 4, 50)
    assert total(metric, rows, weights.tolist()) == pytest.approx(f1_score(labels, chosen, sample_weight=weights))
    assert score("multirc_f1a", [chose(0, 0), chose(0, 0)]) == 0.0
    # The example of the page of F1 in Hugging Face's `evaluate`.
    assert score("multirc_f1a", [chose(p, y) for p, y in zip([0, 0, 1, 1, 0], [0, 1, 0, 1, 0], strict=True)]) == 0.5


def test_multirc_exact_match_is_by_question() -> None:
    rows = [
        chose(1, 1, group="p1-q1"),
        chose(0, 0, group="p1-q1"),
        chose(1, 1, group="p1-q2"),
        chose(1, 0, group="p1-q2"),
        chose(1, 1, group="p1-q1"),
        chose(0, 0, group="p2-q1"),
    ]
    assert score("multirc_exact_match", rows) == pytest.approx(2 / 3)
    metric = named("multirc_exact_match", of=rows)
    assert total(metric, in_rows(rows), [1, 2, 1]) == 0.5
    assert score("accuracy", rows) == pytest.approx(5 / 6)
