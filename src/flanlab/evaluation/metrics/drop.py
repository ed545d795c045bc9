"""DROP's exact match and F1 (Dua et al. 2019), by the rules of its program.

An answer may be several spans. Here they are written in one text, parted by a semicolon and a space, in references and
generated answers alike; a text without one is a single span, which is all that the program sees of a model's plain string.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

import numpy as np

from flanlab.evaluation.metrics.answers import ANY_ARTICLE, ASCII_PUNCTUATION, composed
from flanlab.results.grids import Prediction

SPAN_SEPARATOR = "; "


def drop_form(text: str) -> Hashable:
    """What exact match compares: the spans in normal form, in any order, and how many they are."""
    spans = [_normalize(span) for span in text.split(SPAN_SEPARATOR)]
    return frozenset(spans), len(spans)


def drop_f1(prediction: Prediction) -> float:
    """Best F1 with a reference: spans are paired so that their F1 is highest, and spans left over count 0."""
    given = _bags(prediction["generated"])
    return max(_f1(given, _bags(reference)) for reference in prediction["references"])


def _f1(given: Sequence[frozenset[str]], reference: Sequence[frozenset[str]]) -> float:
    scores = np.asarray([[_bag_f1(one, other) for one in given] for other in reference])
    from scipy.optimize import linear_sum_assignment  # slow to import

    rows, columns = linear_sum_assignment(scores, maximize=True)
    # The program rounds the F1 of each row to two decimals before it averages.
    return float(np.round(scores[rows, columns].sum() / max(len(given), len(reference)), 2))


def _bag_f1(given: frozenset[str], reference: frozenset[str]) -> float:
    """F1 of different words (not of how often each occurs); 0 where the reference has numbers and none of them is given."""
    numbers = {word for word in reference if _is_number(word)}
    if numbers and not numbers & given:
        return 0.0
    shared = len(given & reference)
    precision = shared / len(given) if given else 1.0
    recall = shared / len(reference) if reference else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _bags(text: str) -> list[frozenset[str]]:
    return [frozenset(_normalize(span).split()) for span in text.split(SPAN_SEPARATOR)]


def _normalize(span: str) -> str:
    """As in SQuAD, but word by word, parted at spaces and hyphens, and a number is the number it reads as: 3.50 is 3.5."""
    words = []
    for word in re.split("[ -]", composed(span).lower()):
        if not _is_number(word):
            word = word.translate(ASCII_PUNCTUATION)
        words.append(str(float(word)) if _is_number(word) else ANY_ARTICLE.sub(" ", word))
    return " ".join(" ".join(words).split())


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
