"""Metrics of longer generated text: ROUGE, BLEU, edit similarity.

ROUGE's program (rouge-score, as Lin's own) takes everything but a-z and 0-9 for space between words, so that a text in another
script has no words, and a perfect answer scores 0. BLEU's usual tokenizer (13a) parts words at spaces, which Chinese, Japanese
and Thai do not write. What is done instead depends on the references of a row, so that scores of texts in Latin letters stay
those of the programs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.metadata import version

import numpy as np
import regex
from rapidfuzz.distance import Levenshtein
from sacrebleu import __version__ as sacrebleu_version
from sacrebleu.metrics.bleu import BLEU

from flanlab.evaluation.metrics.answers import composed
from flanlab.results.grids import Metric, Prediction, mean_metric, summed_metric
from flanlab.results.intervals import Floats

_BLEU_ORDERS = 4
_WITHOUT_SPACES = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_OTHER_LETTER = regex.compile(r"[\p{L}--\p{Latin}]", regex.V1)
_LETTER = regex.compile(r"\p{L}")
_WITHOUT_SPACES_LETTER = regex.compile(rf"[{_WITHOUT_SPACES}]")
_JAPANESE_OR_INDOCHINESE = regex.compile(r"[\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
_WORD = regex.compile(rf"[{_WITHOUT_SPACES}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{_WITHOUT_SPACES}]]+", regex.V1)
_KNOWN = regex.compile(r"[a-z0-9]")


class RougeTokenizer:
    """rouge-score's tokenizer, and for other scripts the words between spaces, or the characters where none are written."""

    def __init__(self, any_script: bool) -> None:
        from rouge_score.tokenizers import DefaultTokenizer

        self._latin = DefaultTokenizer(use_stemmer=True)
        self._any_script = any_script

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text; words of a to z are stemmed."""
        text = composed(text)
        if not self._any_script:
            return list(self._latin.tokenize(text))
        found = _WORD.findall(text.lower())
        return [token for word in found for token in (self._latin.tokenize(word) if word.isascii() else [word])]


def need_any_script(references: Iterable[str]) -> bool:
    """Whether more than one in ten of a reference's letters are other than Latin, or it has none that rouge-score knows."""
    for text in (composed(reference) for reference in references if not reference.isascii()):
        letters = len(_LETTER.findall(text))
        if 10 * len(_OTHER_LETTER.findall(text)) > letters or (letters and not _KNOWN.search(text.lower())):
            return True
    return False


def bleu_tokenizer(references: Sequence[str]) -> str:
    """The name of sacrebleu's tokenizer for a row.

    `zh` where more than half of the letters of its references are Chinese, `char` where they are of a script that writes no
    spaces, such as Japanese and Thai; else `13a`.
    """
    text = "".join(references)
    letters = 0 if text.isascii() else len(_WITHOUT_SPACES_LETTER.findall(text))
    if 2 * letters <= len(_LETTER.findall(text)):
        return "13a"
    return "char" if _JAPANESE_OR_INDOCHINESE.search(text) else "zh"


def rouge_metrics() -> list[Metric]:
    """ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004) as rouge-score has them, each with the reference best for it.

    A row with references in a script other than Latin is tokenized as `RougeTokenizer` says.
    """
    kinds = (
        ("rouge1", "ROUGE-1", "words"),
        ("rouge2", "ROUGE-2", "word pairs"),
        ("rougeL", "ROUGE-L", "the longest common sequence of words"),
    )
    return [
        mean_metric(kind, title, f"Mean F-measure of {what} shared with the best reference, stemmed.", _rouge(kind))
        for kind, title, what in kinds
    ]


def _rouge(kind: str) -> Callable[[Prediction], float]:
    # Here, since it brings nltk and scikit-learn with it, which take seconds and are needed for few tasks.
    from rouge_score.rouge_scorer import RougeScorer

    scorers = [RougeScorer([kind], tokenizer=RougeTokenizer(any_script)) for any_script in (False, True)]

    def score(prediction: Prediction) -> float:
        text, references = prediction["generated"], prediction["references"]
        scorer = scorers[need_any_script(references)]
        return float(max(scorer.score(reference, text)[kind].fmeasure for reference in references))

    return score


def rouge_signature(predictions: Sequence[Prediction]) -> str:
    """How ROUGE was computed, for results, in the manner of sacrebleu's; `tok` says that some rows are in other scripts."""
    tokens = "|tok:any-script" if any(need_any_script(prediction["references"]) for prediction in predictions) else ""
    return f"refs:best|stemmer:porter{tokens}|measure:f|average:mean|version:rouge_score-{version('rouge-score')}"


@cache
def _sentence_bleu(tokenizer: str) -> BLEU:
    """Counts n-grams of one sentence; a score is only ever made from summed counts."""
    return BLEU(effective_order=True, tokenize=tokenizer)


def _bleu_counts(prediction: Prediction) -> Sequence[float]:
    references = [composed(reference) for reference in prediction["references"]]
    scored = _sentence_bleu(bleu_tokenizer(references)).sentence_score(composed(prediction["generated"]), references)
    return [scored.sys_len, scored.ref_len, *scored.counts, *scored.totals]


def _bleu(sums: Floats) -> Floats:
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


BLEU_METRIC = summed_metric(
    "bleu",
    "BLEU",
    "Corpus BLEU against all references of each row, from n-gram counts over all rows (0 to 1).",
    _bleu_counts,
    _bleu,
)
"""As sacrebleu has it. A row may have several references, and is tokenized by what suits these (`bleu_tokenizer`)."""


def bleu_signature(predictions: Sequence[Prediction]) -> str:
    """How sacrebleu computed BLEU, in its own notation, for results."""
    counts = {len(prediction["references"]) for prediction in predictions}
    references = counts.pop() if len(counts) == 1 else "var"
    tokenizers = "+".join(sorted({bleu_tokenizer(prediction["references"]) for prediction in predictions}))
    return f"nrefs:{references}|case:mixed|eff:no|tok:{tokenizers}|smooth:exp|version:{sacrebleu_version}"


def edit_similarity(prediction: Prediction) -> float:
    """Best 1 - Levenshtein distance / length of the longer text, in characters, over references; case and space count."""
    given = composed(prediction["generated"])
    return max(Levenshtein.normalized_similarity(given, composed(reference)) for reference in prediction["references"])
