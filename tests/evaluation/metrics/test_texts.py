"""ROUGE, BLEU and edit similarity against the programs that define them."""

from __future__ import annotations

import unicodedata
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


# One sentence each: Chinese, Japanese, Thai, Russian, Arabic, Hindi, Korean, Greek, and French letters without one of a to z.
SENTENCES = [
    "\u4eca\u5929\u7684\u5929\u6c14\u5f88\u597d\u3002",
    "\u4eca\u65e5\u306f\u826f\u3044\u5929\u6c17\u3067\u3059\u3002",
    "\u0e27\u0e31\u0e19\u0e19\u0e35\u0e49\u0e2d\u0e32\u0e01\u0e32\u0e28\u0e14\u0e35",
    "\u0421\u0435\u0433\u043e\u0434\u043d\u044f \u0445\u043e\u0440\u043e\u0448\u0430\u044f "
    "\u043f\u043e\u0433\u043e\u0434\u0430",
    "\u0627\u0644\u0637\u0642\u0633 \u062c\u0645\u064a\u0644 \u0627\u0644\u064a\u0648\u0645",
    "\u0906\u091c \u092e\u094c\u0938\u092e \u0905\u091a\u094d\u091b\u093e \u0939\u0948\u0964",
    "\uc624\ub298 \ub0a0\uc528\uac00 \uc88b\ub2e4",
    "\u03a3\u03ae\u03bc\u03b5\u03c1\u03b1 \u03ad\u03c7\u03b5\u03b9 \u03ae\u03bb\u03b9\u03bf",
    "\u00c9\u00e0 \u00f4\u00fb",
]


@pytest.mark.parametrize("sentence", SENTENCES)
@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL"])
def test_rouge_of_any_script(sentence: str, kind: str) -> None:
    assert score(kind, [said(sentence, sentence)], "rouge") == 1.0
    assert score(kind, [said(unicodedata.normalize("NFD", sentence), sentence)], "rouge") == 1.0
    assert score(kind, [said("something else", sentence)], "rouge") == 0.0
    assert "|tok:any-script|" in rouge_signature([said("a", "b"), said("a", sentence)])


def test_rouge_counts_words_between_spaces_and_characters_where_none_are_written() -> None:
    russian = SENTENCES[3].split()
    assert score("rouge1", [said(" ".join(russian[:2]), " ".join(russian))], "rouge") == pytest.approx(2 * 2 / 5)
    chinese = "\u4eca\u5929\u7684\u5929\u6c14"
    assert score("rouge1", [said(chinese[:2], chinese)], "rouge") == pytest.approx(2 * 2 / 7)
    assert score("rougeL", [said(f"{chinese} runs", f"{chinese} running")], "rouge") == 1.0


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL"])
@pytest.mark.parametrize(
    ("given", "reference"),
    [
        (
            "The na\u00efve caf\u00e9 of Beyonc\u00e9 was r\u00e9opened \u2014 today\u2019s news",
            "Beyonce\u2019s naive caf\u00e9, reopened today",
        ),
        ("Alpha (\u03b1) synuclein in \u5317\u4eac", "The \u03b1-synuclein protein, found in laboratories of many countries"),
        ("The answer is \u5317\u4eac \u5317\u4eac", "The answer"),
    ],
)
def test_rouge_of_latin_references_is_that_of_rouge_score(kind: str, given: str, reference: str) -> None:
    expected = RougeScorer([kind], use_stemmer=True).score(reference, given)[kind].fmeasure
    assert score(kind, [said(given, reference)], "rouge") == pytest.approx(expected)
    assert "tok:" not in rouge_signature([said(given, reference)])


@pytest.mark.parametrize(("tokenizer", "chosen"), [("zh", [0]), ("char", [1, 2]), ("13a", [3, 4, 5, 6])])
def test_bleu_takes_the_tokenizer_of_the_references_script(tokenizer: str, chosen: list[int]) -> None:
    references = [SENTENCES[place] for place in chosen]
    given = [reference + reference[:4] for reference in references]
    metric = BLEU(tokenize=tokenizer)
    expected = metric.corpus_score(given, [references]).score / 100
    rows = [said(*pair) for pair in zip(given, references, strict=True)]
    assert 0 < score("bleu", rows) == pytest.approx(expected, abs=1e-12)
    assert bleu_signature(rows) == metric.get_signature().format()
    assert "|tok:13a+zh|" in bleu_signature([said("a", "b"), said("a", SENTENCES[0])])
    one_off = [said(SENTENCES[0][:-3] + SENTENCES[0][-2:], SENTENCES[0])]
    assert 0.3 < score("bleu", one_off) < 1


def test_rouge_signature_names_version_and_rules() -> None:
    assert rouge_signature([said("a", "b")]).startswith(
        "refs:best|stemmer:porter|measure:f|average:mean|version:rouge_score-0."
    )


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
