"""Metrics of longer generated text: ROUGE, BLEU, edit similarity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version

import numpy as np
from rapidfuzz.distance import Levenshtein
from sacrebleu import __version__ as sacrebleu_version
from sacrebleu.metrics.bleu import BLEU

from flanlab.evaluation.metrics.answers import composed
from flanlab.evaluation.metrics.metric import Floats, Metric, Prediction, mean_metric, summed_metric
from flanlab.evaluation.metrics.scripts import RougeTokenizer, bleu_tokenizer, need_any_script, sentence_bleu

_BLEU_ORDERS = 4


def rouge_metrics(as_text: Callable[[Prediction], Prediction]) -> list[Metric]:
    """ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004) as rouge-score has them, each with the reference best for it.

    A row with references in a script other than Latin is tokenized as `RougeTokenizer` says.
    """
    kinds = (
        ("rouge1", "ROUGE-1", "words"),
        ("rouge2", "ROUGE-2", "word pairs"),
        ("rougeL", "ROUGE-L", "the longest common sequence of words"),
    )
    return [
        mean_metric(kind, title, f"Mean F-measure of {what} shared with the best reference, stemmed.", _rouge(kind, as_text))
        for kind, title, what in kinds
    ]


def _rouge(kind: str, as_text: Callable[[Prediction], Prediction]) -> Callable[[Prediction], float]:
    # Here, since it brings nltk and scikit-learn with it, which take seconds and are needed for few tasks.
    from rouge_score.rouge_scorer import RougeScorer

    scorers = [RougeScorer([kind], tokenizer=RougeTokenizer(any_script)) for any_script in (False, True)]

    def score(prediction: Prediction) -> float:
        text = as_text(prediction)
        scorer = scorers[need_any_script(text["references"])]
        return float(max(scorer.score(reference, text["generated"])[kind].fmeasure for reference in text["references"]))

    return score


def rouge_signature(predictions: Sequence[Prediction]) -> str:
    """How ROUGE was computed, for results, in the manner of sacrebleu's; `tok` says that some rows are in other scripts."""
    tokens = "|tok:any-script" if any(need_any_script(prediction["references"]) for prediction in predictions) else ""
    return f"refs:best|stemmer:porter{tokens}|measure:f|average:mean|version:rouge_score-{version('rouge-score')}"


def bleu_metric(as_text: Callable[[Prediction], Prediction]) -> Metric:
    """Corpus BLEU (0 to 1) as sacrebleu has it, from the summed counts of rows; a row may have several references.

    Each row is tokenized by what suits its references (`bleu_tokenizer`).
    """

    def statistics(prediction: Prediction) -> Sequence[float]:
        text = as_text(prediction)
        references = [composed(reference) for reference in text["references"]]
        scored = sentence_bleu(bleu_tokenizer(references)).sentence_score(composed(text["generated"]), references)
        return [scored.sys_len, scored.ref_len, *scored.counts, *scored.totals]

    definition = "Corpus BLEU against all references of each row, from n-gram counts over all rows (0 to 1)."
    return summed_metric("bleu", "BLEU", definition, statistics, _bleu)


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
