"""Words of texts in any script, for metrics whose programs know the letters a to z alone.

ROUGE's program (rouge-score, as Lin's own) takes everything but a-z and 0-9 for space between words, so that a text in another
script has no words, and a perfect answer scores 0. BLEU's usual tokenizer (13a) parts words at spaces, which Chinese, Japanese
and Thai do not write. What is done instead depends on the references of a row, so that scores of texts in Latin letters stay
those of the programs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import regex

from flanlab.evaluation.metrics.answers import composed

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


@cache
def sentence_bleu(tokenizer: str) -> Any:
    """sacrebleu's BLEU by this tokenizer. It counts n-grams of one sentence; a score is only ever made from summed counts."""
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True, tokenize=tokenizer)
