"""Metrics against the programs that define them, and by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from flanlab.evaluation.metrics import (
    Metric,
    accuracy,
    answer_probability,
    bleu_signature,
    exact_match,
    metrics_for,
    normalize_answer,
    token_f1,
    valid_answer,
)


def ranked(scores: list[float], answer: int, without_end: list[float] | None = None) -> dict[str, Any]:
    return {"option_scores": scores, "option_scores_without_end": without_end or scores, "answer": answer}


def said(generated: str, *references: str, options: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"generated": generated, "references": list(references), "options": list(options)}


def total(metric: Metric, predictions: list[dict[str, Any]]) -> float:
    statistics = np.asarray([metric.statistics(prediction) for prediction in predictions], dtype=float)
    return float(metric.combine(statistics.sum(axis=0), np.asarray(float(len(predictions)))))


def named(name: str, declared: str, **changes: Any) -> Metric:
    (found,) = [m for m in metrics_for([declared], **{"generated": True, "end_token": True, **changes}) if m.name == name]
    return found


def test_accuracy_takes_the_highest_score() -> None:
    assert accuracy(ranked([-3.0, -1.5, -2.0], 1)) == 1.0
    assert accuracy(ranked([-3.0, -1.5, -2.0], 0)) == 0.0


def test_accuracy_of_a_tie_is_that_of_the_first() -> None:
    """One rule for all: a tie is never counted as right because the right option happens to be among the best."""
    assert accuracy(ranked([-2.0, -1.0, -1.0], 1)) == 1.0
    assert accuracy(ranked([-2.0, -1.0, -1.0], 2)) == 0.0


def test_accuracy_with_and_without_end_token() -> None:
    prediction = ranked([-4.0, -3.0], 0, without_end=[-1.0, -2.0])
    assert accuracy(prediction, end_token=True) == 0.0
    assert accuracy(prediction, end_token=False) == 1.0
    assert total(named("accuracy", "accuracy", end_token=False), [prediction]) == 1.0
    assert total(named("accuracy", "accuracy", end_token=True), [prediction]) == 0.0


def test_answer_probability_is_the_share_among_the_options() -> None:
    prediction = ranked([math.log(0.03), math.log(0.01)], 0)
    assert answer_probability(prediction) == pytest.approx(0.75)
    # Sums of hundreds of tokens must not underflow.
    assert answer_probability(ranked([-5000.0, -5000.0 + math.log(3)], 1)) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("a cat, an owl,  the  dog", "cat owl dog"),
        ("theatre", "theatre"),
        ("U.S.A.", "usa"),
        ("it's", "its"),
        ("well-known", "wellknown"),
        ("3,000", "3000"),
        ("1914-1918", "19141918"),
        ("5.", "5"),
        ("it is ...5", "it is 5"),
        ("", ""),
    ],
)
def test_normalization_as_in_squad(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("left", "right"), [("-32", "32"), ("1.5", "15"), (".5", "5"), ("-.5", ".5"), ("(-3)", "3"), ("$1.50", "$150")]
)
def test_a_number_keeps_its_sign_and_point(left: str, right: str) -> None:
    assert normalize_answer(left) != normalize_answer(right)
    assert exact_match(said(left, right)) == 0.0
    assert exact_match(said(f"The {left}.", left)) == 1.0


def test_minus_sign_and_hyphen_are_one() -> None:
    assert exact_match(said("\N{MINUS SIGN}32", "-32")) == 1.0


# Examples published with SQuAD and in Rajpurkar et al. (2016): articles and case do not count; any reference will do.
@pytest.mark.parametrize(
    ("given", "references", "match", "f1"),
    [
        ("Denver Broncos", ("Denver Broncos",) * 3, 1.0, 1.0),
        ("the Denver Broncos.", ("Denver Broncos", "Broncos"), 1.0, 1.0),
        ("Santa Clara, California", ("Levi's Stadium", "Santa Clara"), 0.0, 0.8),
        ("gold", ("gold", "golden"), 1.0, 1.0),
        ("February 7", ("February 7, 2016",), 0.0, 0.8),
        ("black black cat", ("black cat cat",), 0.0, 2 / 3),
        ("Carolina", ("Denver Broncos",), 0.0, 0.0),
        ("", ("Denver",), 0.0, 0.0),
        ("the", ("a",), 1.0, 1.0),
    ],
)
def test_squad_exact_match_and_f1(given: str, references: tuple[str, ...], match: float, f1: float) -> None:
    assert exact_match(said(given, *references)) == match
    assert token_f1(said(given, *references)) == pytest.approx(f1)


def test_valid_answer_asks_for_an_option_right_or_wrong() -> None:
    options = ("positive", "negative")
    assert valid_answer(said("Negative.", "positive", options=options)) == 1.0
    assert valid_answer(said("I think positive", "positive", options=options)) == 0.0


TEXTS = [
    said("The cat sat on the mat.", "The cat is sitting on the mat.", "There is a cat on the mat."),
    said("Running quickly, the dogs barked loudly at night.", "The dog runs quick and barks loud."),
    said("", "something"),
    said("Completely unrelated words here", "the quick brown fox", "jumps over the lazy dog"),
]


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_that_of_rouge_score(kind: str) -> None:
    scorer = RougeScorer([kind], use_stemmer=True)
    expected = [
        max(scorer.score(reference, text["generated"])[kind].fmeasure for reference in text["references"]) for text in TEXTS
    ]
    metric = named(kind, "rouge")
    assert [metric.statistics(text)[0] for text in TEXTS] == pytest.approx(expected)
    assert 0 < total(metric, TEXTS) < 1
    assert total(metric, TEXTS) == pytest.approx(sum(expected) / len(expected))


HYPOTHESES = [
    "The cat sat on the mat.",
    "There was a lengthy discussion about the new law in parliament on Tuesday.",
    'He said, "I don\'t know!"',
    "",
    "short",
    "It is raining cats and dogs outside of the house today.",
]
REFERENCES = [
    ["The cat is sitting on the mat.", "A cat sat on the mat."],
    ["On Tuesday there was a long discussion about the new law in parliament.", "A lengthy discussion about the law."],
    ['He said: "I do not know!"', '"I don\'t know!", he said.'],
    ["Nothing at all was said.", "Silence."],
    ["A short one", "short"],
    ["It is raining cats and dogs outside the house today.", "It rains."],
]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("chosen", [slice(None), slice(0, 1), slice(3, 5), slice(3, 4)])
def test_bleu_from_summed_statistics_is_the_corpus_score(count: int, chosen: slice) -> None:
    hypotheses = HYPOTHESES[chosen]
    references = [one[:count] for one in REFERENCES[chosen]]
    streams = [[one[number] for one in references] for number in range(count)]
    expected = BLEU().corpus_score(hypotheses, streams).score / 100
    predictions = [said(given, *wanted) for given, wanted in zip(hypotheses, references, strict=True)]
    assert total(named("bleu", "bleu"), predictions) == pytest.approx(expected, abs=1e-12)


def test_bleu_of_a_resampling_is_that_of_the_rows_repeated() -> None:
    weights = np.asarray([2, 0, 1, 1, 0, 3])
    repeated = [position for position, weight in enumerate(weights) for _ in range(weight)]
    expected = BLEU().corpus_score(
        [HYPOTHESES[position] for position in repeated], [[REFERENCES[position][0] for position in repeated]]
    )
    metric = named("bleu", "bleu")
    statistics = np.asarray([metric.statistics(said(h, r[0])) for h, r in zip(HYPOTHESES, REFERENCES, strict=True)], float)
    sums = np.stack([weights @ statistics, statistics.sum(axis=0)])[:, None, :]
    scores = metric.combine(sums, np.ones((2, 1)))
    assert scores.shape == (2, 1)
    assert scores[0, 0] == pytest.approx(expected.score / 100)


def test_bleu_signature_is_that_of_sacrebleu() -> None:
    metric = BLEU()
    metric.corpus_score(["a b c d"], [["a b c d"]])
    official = dict(part.split(":", 1) for part in metric.get_signature().format().split("|"))
    ours = dict(part.split(":", 1) for part in bleu_signature().split("|"))
    assert ours == {name: official[name] for name in ("case", "eff", "tok", "smooth", "version")}


def test_metrics_of_a_task() -> None:
    def names(*declared: str, generated: bool) -> list[str]:
        return [metric.name for metric in metrics_for(declared, generated=generated, end_token=True)]

    assert names("accuracy", generated=True) == ["accuracy", "exact_match", "valid_answers", "answer_probability"]
    assert names("accuracy", generated=False) == ["accuracy", "answer_probability"]
    assert names("f1", "exact_match", generated=True) == ["f1", "exact_match"]
    assert names("rouge", generated=True) == ["rouge1", "rouge2", "rougeL"]
    assert names("bleu", generated=True) == ["bleu"]
