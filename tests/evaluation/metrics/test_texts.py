"""ROUGE, BLEU and edit similarity against the programs that define them."""

from __future__ import annotations

from functools import cache

import pytest
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.scoring import BootstrapAggregator
from sacrebleu.metrics import BLEU

from flanlab.evaluation.metrics.texts import bleu_signature, edit_similarity, rouge_signature
from tests.evaluation.predictions import in_rows, named, said, score, total

TEXTS = [
    said("The cat sat on the mat.", "The cat is sitting on the mat.", "There is a cat on the mat."),
    said("Running quickly, the dogs barked loudly at night.", "The dog runs quick and barks loud."),
    said("", "something"),
    said("Completely unrelated words here", "the quick brown fox", "jumps over the lazy dog"),
]


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_that_of_rouge_score(kind: str) -> None:
    """Row by row, and the mean that its own aggregation gives."""
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    aggregator = BootstrapAggregator(n_samples=10)
    for text in TEXTS:
        best = scorer.score_multi(text["references"], text["generated"])
        assert score(kind, [text], "rouge") == pytest.approx(best[kind].fmeasure)
        aggregator.add_scores(best)
    fmeasures = [scorer.score_multi(text["references"], text["generated"])[kind].fmeasure for text in TEXTS]
    assert 0 < score(kind, TEXTS, "rouge") < 1
    assert score(kind, TEXTS, "rouge") == pytest.approx(sum(fmeasures) / len(fmeasures))
    low, _, high = aggregator.aggregate()[kind]
    assert low.fmeasure <= score(kind, TEXTS, "rouge") <= high.fmeasure


def test_rouge_of_published_example() -> None:
    """That of the metric's page in Hugging Face's `evaluate`."""
    rows = [said("hello there", "hello", "there"), said("general kenobi", "general kenobi", "general yoda")]
    assert score("rouge1", rows, "rouge") == pytest.approx(0.8333333333333333)
    assert score("rouge2", rows, "rouge") == pytest.approx(0.5)
    assert score("rougeL", rows, "rouge") == pytest.approx(0.8333333333333333)


def test_rouge_signature_names_version_and_rules() -> None:
    assert rouge_signature().startswith("refs:best|stemmer:porter|measure:f|average:mean|version:rouge_score-0.")


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
    assert score("bleu", predictions) == pytest.approx(expected, abs=1e-12)


def ragged() -> tuple[list[list[str]], list[list[str | None]]]:
    """References of which every other row has but one; by row, and as sacrebleu's streams."""
    references = [one[: 1 + number % 2] for number, one in enumerate(REFERENCES)]
    return references, [[one[0] for one in references], [one[1] if len(one) > 1 else None for one in references]]


def test_bleu_with_as_many_references_as_a_row_has() -> None:
    references, streams = ragged()
    metric = BLEU()
    expected = metric.corpus_score(HYPOTHESES, streams).score / 100  # type: ignore[arg-type]
    predictions = [said(given, *wanted) for given, wanted in zip(HYPOTHESES, references, strict=True)]
    assert score("bleu", predictions) == pytest.approx(expected, abs=1e-12)
    assert bleu_signature(predictions) == metric.get_signature().format()


def test_bleu_of_published_example() -> None:
    """That of SacreBLEU's page in Hugging Face's `evaluate`."""
    rows = [
        said("hello there general kenobi", "hello there general kenobi", "hello there !"),
        said("foo bar foobar", "foo bar foobar", "foo bar foobar"),
    ]
    assert score("bleu", rows) == pytest.approx(1.0)


def test_bleu_of_a_resampling_is_that_of_the_rows_repeated() -> None:
    weights = [2, 0, 1, 1, 0, 3]
    repeated = [position for position, weight in enumerate(weights) for _ in range(weight)]
    expected = BLEU().corpus_score(
        [HYPOTHESES[position] for position in repeated], [[REFERENCES[position][0] for position in repeated]]
    )
    rows = in_rows(said(given, wanted[0]) for given, wanted in zip(HYPOTHESES, REFERENCES, strict=True))
    assert total(named("bleu", of=rows), rows, weights) == pytest.approx(expected.score / 100)


@pytest.mark.parametrize("count", [1, 2])
def test_bleu_signature_is_that_of_sacrebleu(count: int) -> None:
    metric = BLEU()
    metric.corpus_score(["a b c d"], [["a b c d"]] * count)
    assert bleu_signature([said("a b c d", *["a b c d"] * count)]) == metric.get_signature().format()


def distance(left: str, right: str) -> int:
    """Levenshtein distance straight from its definition."""

    @cache
    def between(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(between(i - 1, j) + 1, between(i, j - 1) + 1, between(i - 1, j - 1) + (left[i - 1] != right[j - 1]))

    return between(len(left), len(right))


@pytest.mark.parametrize(
    ("given", "reference", "similarity"),
    [
        ("kitten", "sitting", 1 - 3 / 7),
        ("Hello, world.", "hello world", 1 - 3 / 13),
        ("ab", "ba", 0.0),
        ("", "", 1.0),
        ("", "abc", 0.0),
        ("na\u00efve", "naive", 0.8),
    ],
)
def test_edit_similarity(given: str, reference: str, similarity: float) -> None:
    assert edit_similarity(said(given, reference)) == pytest.approx(similarity)
    if given or reference:
        assert similarity == pytest.approx(1 - distance(given, reference) / max(len(given), len(reference)))


def test_edit_similarity_takes_the_best_reference_and_exact_match_beside_it_is_exact() -> None:
    rows = [said("Hello, world.", "hello world", "Hello, world!"), said("the end", "The end.")]
    assert score("edit_similarity", rows) == pytest.approx((12 / 13 + 6 / 8) / 2)
    assert score("exact_match", rows, "edit_similarity", "exact_match") == 0.0
    assert score("exact_match", [said("The end.", "the end", "The end.")], "edit_similarity", "exact_match") == 1.0
