"""Metrics over predictions. Each gives every prediction a row of statistics, and turns their sum into a score.

For most metrics the statistic is the score of one prediction and the sum is averaged; corpus BLEU keeps n-gram counts. Kept
this way, any resampling of rows is a weighted sum, so intervals need no metric to be computed again.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import __version__ as sacrebleu_version
from sacrebleu.metrics.bleu import BLEU

Prediction = Mapping[str, Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A metric: its name, statistics of one prediction [k], and score from summed statistics [..., k] and weight [...]."""

    name: str
    title: str
    statistics: Callable[[Prediction], Sequence[float]]
    combine: Callable[[Floats, Floats], Floats]


def _mean(sums: Floats, weight: Floats) -> Floats:
    result: Floats = sums[..., 0] / weight
    return result


def _single(score: Callable[[Prediction], float]) -> Callable[[Prediction], Sequence[float]]:
    return lambda prediction: (score(prediction),)


def option_scores(prediction: Prediction, end_token: bool) -> Floats:
    """Scores of the options, with or without their end token."""
    return np.asarray(prediction["option_scores" if end_token else "option_scores_without_end"])


def accuracy(prediction: Prediction, end_token: bool = True) -> float:
    """1 where the option with the highest summed log-probability is the right one."""
    return float(int(np.argmax(option_scores(prediction, end_token))) == prediction["answer"])


def answer_probability(prediction: Prediction, end_token: bool = True) -> float:
    """Probability of the right option among the options (softmax of their summed log-probabilities)."""
    scores = option_scores(prediction, end_token)
    shares = np.exp(scores - scores.max())
    return float(shares[prediction["answer"]] / shares.sum())


def exact_match(prediction: Prediction) -> float:
    """1 where the generated answer equals a reference after `normalize_answer`."""
    given = normalize_answer(prediction["generated"])
    return float(any(given == normalize_answer(reference) for reference in prediction["references"]))


def valid_answer(prediction: Prediction) -> float:
    """1 where the generated answer is one of the options, right or wrong: the model did what it was asked."""
    given = normalize_answer(prediction["generated"])
    return float(any(given == normalize_answer(option) for option in prediction["options"]))


def token_f1(prediction: Prediction) -> float:
    """Best F1 of shared words with a reference, as SQuAD defines it (Rajpurkar et al. 2016, section 6.1)."""
    return max(_f1(prediction["generated"], reference) for reference in prediction["references"])


def _f1(given: str, reference: str) -> float:
    given_words, reference_words = normalize_answer(given).split(), normalize_answer(reference).split()
    if not given_words or not reference_words:
        return float(given_words == reference_words)
    shared = sum((Counter(given_words) & Counter(reference_words)).values())
    return 2 * shared / (len(given_words) + len(reference_words))


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation, articles and extra space, as the SQuAD script does; a number keeps its sign and point.

    SQuAD's rule drops every punctuation mark, which would make -32 equal to 32 and 1.5 to 15.
    """
    text = re.sub(r"(?<![\w.])-(?=[.]?\d)|(?<=\d)[.](?=\d)|(?<![\w.])[.](?=\d)", _protect, text.lower())
    text = "".join(character for character in text if character not in string.punctuation)
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return " ".join(text.split())


def _protect(match: re.Match[str]) -> str:
    return {"-": "\N{MINUS SIGN}", ".": "\N{MIDDLE DOT}"}[match.group()]


_ROUGE = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


def _rouge(kind: str) -> Callable[[Prediction], float]:
    def score(prediction: Prediction) -> float:
        return float(
            max(_ROUGE.score(reference, prediction["generated"])[kind].fmeasure for reference in prediction["references"])
        )

    return score


_SENTENCE_BLEU = BLEU(effective_order=True)
"""Counts n-grams of one sentence; the score itself is only ever made from summed counts."""
_BLEU_ORDERS = 4


def _bleu_statistics(prediction: Prediction) -> Sequence[float]:
    scored = _SENTENCE_BLEU.sentence_score(prediction["generated"], list(prediction["references"]))
    return [scored.sys_len, scored.ref_len, *scored.counts, *scored.totals]


def _bleu(sums: Floats, _: Floats) -> Floats:
    # Counts are whole numbers, and sacrebleu takes them as nothing else.
    flat = sums.reshape(-1, sums.shape[-1]).round().astype(int).tolist()
    scores = [
        BLEU.compute_bleu(
            correct=row[2 : 2 + _BLEU_ORDERS],
            total=row[2 + _BLEU_ORDERS :],
            sys_len=row[0],
            ref_len=row[1],
            smooth_method="exp",
        ).score
        / 100.0
        for row in flat
    ]
    return np.asarray(scores).reshape(sums.shape[:-1])


def bleu_signature() -> str:
    """How sacrebleu computed BLEU, in its own notation, for results."""
    return f"case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu_version}"


def metrics_for(names: Sequence[str], *, generated: bool, ranked: bool = True, end_token: bool) -> list[Metric]:
    """The metrics of a task with the given declared names, the main one first.

    Classification is measured three ways, side by side: by ranking the options, by generating the answer, and by whether
    the generated answer is an option at all; beside accuracy stands the probability of the right option.
    """
    found: list[Metric] = []
    for name in names:
        if name == "accuracy":
            if ranked:
                found.append(Metric("accuracy", "accuracy", _single(lambda p: accuracy(p, end_token)), _mean))
            if generated:
                found.append(Metric("exact_match", "exact match", _single(exact_match), _mean))
                found.append(Metric("valid_answers", "valid answers", _single(valid_answer), _mean))
            if ranked:
                found.append(
                    Metric(
                        "answer_probability",
                        "probability of right",
                        _single(lambda p: answer_probability(p, end_token)),
                        _mean,
                    )
                )
        elif name == "exact_match":
            found.append(Metric("exact_match", "exact match", _single(exact_match), _mean))
        elif name == "f1":
            found.append(Metric("f1", "token F1", _single(token_f1), _mean))
        elif name == "rouge":
            found.extend(
                Metric(kind, title, _single(_rouge(kind)), _mean)
                for kind, title in (("rouge1", "ROUGE-1"), ("rouge2", "ROUGE-2"), ("rougeL", "ROUGE-L"))
            )
        elif name == "bleu":
            found.append(Metric("bleu", "BLEU", _bleu_statistics, _bleu))
    return found
