"""Short answers as text: when they are the same, and how much of one is in the other.

Each data set's own program has a rule of its own, and its published numbers are only comparable by that rule. A rule is a
normal form: texts with the same normal form are the same answer.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Iterable

from flanlab.evaluation.metrics.metric import Prediction

NormalForm = Callable[[str], Hashable]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_REMOVED = str.maketrans("", "", string.punctuation)
_SPACED = str.maketrans(dict.fromkeys(string.punctuation + "\u2018\u2019\u00b4`", " "))


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation, articles and extra space, as in SQuAD; but a number keeps its sign and point.

    SQuAD's rule drops every punctuation mark, which would make -32 equal to 32 and 1.5 to 15. Where it leaves nothing, as of
    an option "A", articles stay, and if need be punctuation too.
    """
    protected = re.sub(r"(?<![\w.])-(?=[.]?\d)|(?<=\d)[.](?=\d)|(?<![\w.])[.](?=\d)", _protect, text)
    plain = protected.lower()
    return squad_form(protected) or " ".join(plain.translate(_REMOVED).split()) or " ".join(plain.split())


def _protect(match: re.Match[str]) -> str:
    return {"-": "\N{MINUS SIGN}", ".": "\N{MIDDLE DOT}"}[match.group()]


def squad_form(text: str) -> str:
    """Lower case, without ASCII punctuation, articles and extra space: the rule of the SQuAD, CoQA and QuAC programs."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_REMOVED)).split())


def trivia_qa_form(text: str) -> str:
    """As in SQuAD, but punctuation parts words instead of joining them, and curly and slanted quotes are punctuation."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_SPACED)).split())


def exact_match(prediction: Prediction, form: NormalForm = normalize_answer) -> float:
    """1 where the generated answer has the normal form of a reference."""
    return float(form(prediction["generated"]) in _reference_forms(prediction, form))


def valid_answer(prediction: Prediction) -> float:
    """1 where the generated answer is one of the options, right or wrong: the model did what it was asked."""
    given = normalize_answer(prediction["generated"])
    return float(any(given == normalize_answer(option) for option in prediction["options"]))


def squad_f1(prediction: Prediction) -> float:
    """Best F1 of shared words with a reference (Rajpurkar et al. 2016, section 6.1), by the program of SQuAD 2.0.

    CoQA and QuAC count words alike, but where a turn has several human answers they leave out each in turn and average, to
    be comparable with a human; here as in SQuAD the best of all references counts. With a single reference, as the Hub's
    copy of CoQA has, there is no difference.
    """
    words = squad_form(prediction["generated"])
    return max(_shared_words(words, form) for form in _reference_forms(prediction, squad_form))


def trivia_qa_f1(prediction: Prediction) -> float:
    """Best F1 of shared words with a reference, in TriviaQA's normal form (Joshi et al. 2017)."""
    words = trivia_qa_form(prediction["generated"])
    # TriviaQA's program, like the first of SQuAD, gives two empty answers no shared words.
    return max(_shared_words(words, form) if form else 0.0 for form in _reference_forms(prediction, trivia_qa_form))


def _reference_forms(prediction: Prediction, form: NormalForm) -> list[Hashable]:
    forms = [form(reference) for reference in prediction["references"]]
    if form is squad_form:
        # The program of SQuAD 2.0 passes over references of which nothing is left, unless nothing is left of any.
        return [one for one in forms if one] or forms
    return forms


def _shared_words(given: str, reference: Hashable) -> float:
    assert isinstance(reference, str)
    given_words, reference_words = given.split(), reference.split()
    if not given_words or not reference_words:
        return float(given_words == reference_words)
    shared = sum((Counter(given_words) & Counter(reference_words)).values())
    return 2 * shared / (len(given_words) + len(reference_words))


def most_common_form(predictions: Iterable[Prediction], form: NormalForm) -> int:
    """How many rows the answer that is right most often would get right."""
    counts = Counter(one for prediction in predictions for one in set(_reference_forms(prediction, form)))
    return max(counts.values())
