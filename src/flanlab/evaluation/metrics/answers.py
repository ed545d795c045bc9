"""Short answers as text: when they are the same, and how much of one is in the other.

Each data set's own program has a rule of its own, and its published numbers are only comparable by that rule. A rule is a
normal form: texts with the same normal form are the same answer.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache

import numpy as np

from flanlab.results.grids import Prediction

NormalForm = Callable[[str], Hashable]
_REMEMBERED = 2**16
"""Normal forms: a reference comes again with every template."""

ANY_ARTICLE = re.compile(r"\b(a|an|the)\b")
ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SPACED = str.maketrans(dict.fromkeys(string.punctuation + "\u2018\u2019\u00b4`", " "))

# Punctuation that says something else than its absence would: numbers keep their sign, point, and what stands between their
# digits (1/2, 10:30, 3-1, 1e-5, but 3,000 is 3000); words keep + and # after them (C++, C#), and capitals the - of a mark or a
# blood group (A-, AB-); comparisons, sums and the sign of a variable stay (x < y, -x).
_KEPT = "|".join(
    (
        r"(?<![\w.])-(?=[.]?\d)|(?<![\w.])[.](?=\d)|(?<=\d)[./:^-](?=\d)|(?<=\d)\*\*?(?=\d)",
        r"(?<=\d),(?!(?:\d{2,3},)*\d{3}(?!\d))(?=\d)",
        r"(?<=\d[eE])-(?=\d)|(?<=\b[A-Z])-(?![\w-])|(?<=\bAB)-(?![\w-])|(?<![\w.)-])-(?=[^\W\d_](?![^\W_]))",
        r"(?<=[\w)])[<>=](?=[<>=]?\s?[\w(.-])|(?<=[\w)] )[<>=]|(?<=[\w)][<>=!])[<>=]|(?<=[\w)] [<>=!])[<>=]",
        r"!(?==)|[<>](?==?\s?\d)|(?<=[<>])=(?=\s?\d)",
        r"(?<=[\w+)])\+|(?<=\s)\+(?=\s)|(?<=[^\W\d_])#|(?<=[^\W_])\^(?=[\w(-])",
        r"(?<=[\w)] )[*/](?= [\w(])|(?<=[\d)] )-(?= [\d(])",
    )
)
DROPPED = f"(?!{_KEPT})[{re.escape(string.punctuation)}]"
"""What a normal form leaves out, among ASCII: lm-evaluation-harness is given the same pattern."""
ARTICLES = r"\b(?:(?:an|a|the)\s+)+(?=(?!(?:an|a|the)\b)(?:\w|[-.]+\d))"
"""Articles are dropped before a word: the A of "vitamin A" or "a > b" is none."""
_DROPPED = re.compile(DROPPED)
_ARTICLES_BEFORE_WORDS = re.compile(ARTICLES, re.IGNORECASE)
SPAN_SEPARATOR = "; "
"""Of DROP: an answer may be several spans, in one text, in references and generated answers alike. A text without it is a
single span, which is all that the program of DROP sees of a model's plain string."""
HALF_WIDTH = {0xFF01 + place: 0x21 + place for place in range(94)} | {0x3000: " "}
_LIKE_ASCII = {"\N{MINUS SIGN}": "-", "\N{FRACTION SLASH}": "/", "\N{DIVISION SLASH}": "/", "\N{EN DASH}": "-"}
_INVISIBLE = dict.fromkeys(
    map(ord, "\u00ad\u200b\u200e\u200f\u2060\ufeff\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
)
_FRACTIONS = {code: " " + unicodedata.normalize("NFKD", chr(code)) for code in (*range(0xBC, 0xBF), *range(0x2150, 0x215F))}
_FRACTIONS = {code: text.replace("\N{FRACTION SLASH}", "/") for code, text in _FRACTIONS.items()}
_TO_ASCII = HALF_WIDTH | _FRACTIONS | {ord(sign): plain for sign, plain in _LIKE_ASCII.items()} | _INVISIBLE


def composed(text: str) -> str:
    """The text in Unicode's form NFC: a letter with its accent as one character or as two is the same letter."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


@lru_cache(_REMEMBERED)
def normalize_answer(text: str) -> str:
    """Lower case, without articles, extra space, and punctuation that says nothing.

    As in SQuAD for plain words, but what SQuAD's rule would confuse stays apart: -32 and 32, 1.5 and 15, 1/2 and 12, C and C++,
    `x < y` and `x > y`, vitamin A and vitamin. Punctuation is that of all scripts, full-width forms are the plain ones, and
    accents may be written either way (NFC or NFD). Where it leaves nothing, as of an option "?", the text stays.
    """
    plain = composed(text)
    if not plain.isascii():
        plain = "".join(sign for sign in plain.translate(_TO_ASCII) if sign.isascii() or unicodedata.category(sign)[0] != "P")
    kept = " ".join(_ARTICLES_BEFORE_WORDS.sub("", _DROPPED.sub("", plain)).lower().split())
    return kept or as_written(text)


def as_written(text: str) -> str:
    """The text but for case and extra space."""
    return " ".join(composed(text).lower().split())


@lru_cache(_REMEMBERED)
def squad_form(text: str) -> str:
    """Lower case, without ASCII punctuation, articles and extra space: the rule of the SQuAD, CoQA and QuAC programs."""
    return " ".join(ANY_ARTICLE.sub(" ", composed(text).lower().translate(ASCII_PUNCTUATION)).split())


@lru_cache(_REMEMBERED)
def trivia_qa_form(text: str) -> str:
    """As in SQuAD, but punctuation parts words instead of joining them, and curly and slanted quotes are punctuation."""
    return " ".join(ANY_ARTICLE.sub(" ", composed(text).lower().translate(_SPACED)).split())


def exact_match(prediction: Prediction, form: NormalForm = normalize_answer) -> float:
    """1 where the generated answer has the normal form of a reference; options that differ never count as the same."""
    if prediction["options"]:
        form = _form_for(prediction["options"], form)
    return float(form(prediction["generated"]) in _reference_forms(prediction, form))


def valid_answer(prediction: Prediction) -> float:
    """1 where the generated answer is one of the options, right or wrong: the model did what it was asked."""
    form = _form_for(prediction["options"], normalize_answer)
    return float(form(prediction["generated"]) in map(form, prediction["options"]))


def option_said(text: str, options: Sequence[str]) -> int | None:
    """Position of the option that a generated text is; None where it is none of them."""
    form = _form_for(options, normalize_answer)
    forms = [form(option) for option in options]
    return forms.index(form(text)) if form(text) in forms else None


def _form_for(options: Sequence[str], form: NormalForm) -> NormalForm:
    """The normal form, or a stricter one where it would make two of the options one."""
    stricter: tuple[NormalForm, ...] = (form, as_written, composed)
    return next((one for one in stricter if len(set(map(one, options))) == len(options)), str)


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
