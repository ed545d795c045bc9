"""From the metrics that a task declares to the metrics that are computed, and what would be reached without understanding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from flanlab.evaluation.metrics.answers import (
    NormalForm,
    composed,
    drop_f1,
    drop_form,
    exact_match,
    most_common_form,
    normalize_answer,
    squad_f1,
    squad_form,
    trivia_qa_f1,
    trivia_qa_form,
    valid_answer,
)
from flanlab.evaluation.metrics.numbers import PEARSON, SPEARMAN
from flanlab.evaluation.metrics.options import (
    ANSWER_PROBABILITY,
    MULTIRC_EXACT_MATCH,
    MULTIRC_F1A,
    POSITIVE,
    accuracy_metrics,
    chosen_as_text,
    matthews_metric,
    right_options,
)
from flanlab.evaluation.metrics.texts import BLEU_METRIC, bleu_signature, edit_similarity, rouge_metrics, rouge_signature
from flanlab.results.grids import Metric, Prediction, groups_of, mean_metric

_FORMS: dict[str, tuple[NormalForm, str]] = {
    "f1": (squad_form, "in SQuAD's normal form (no case, punctuation, articles)"),
    "trivia_qa_f1": (trivia_qa_form, "in TriviaQA's normal form (no case, articles; punctuation parts words)"),
    "drop_f1": (drop_form, "in DROP's normal form (numbers by value, spans in any order)"),
    "edit_similarity": (composed, "character by character"),
}
"""A declared metric, and what is the same answer for exact match beside it."""
_KEEPING_MEANING = (normalize_answer, "but for case, punctuation and articles; numbers and formulas keep their signs")
_WITHOUT_CORRELATION = ("matthews", "pearson", "spearman")
_VALID_ANSWERS = mean_metric(
    "valid_answers", "valid answers", "Share of generated answers that are one of the options, right or wrong.", valid_answer
)
_OF_OPTIONS = {"multirc_f1a": MULTIRC_F1A, "multirc_exact_match": MULTIRC_EXACT_MATCH}
_OF_TEXTS = {
    "f1": mean_metric("f1", "token F1", "Mean F1 of words shared with the best reference, as in SQuAD.", squad_f1),
    "trivia_qa_f1": mean_metric(
        "trivia_qa_f1", "TriviaQA F1", "Mean F1 of words shared with the best reference, as in TriviaQA.", trivia_qa_f1
    ),
    "drop_f1": mean_metric(
        "drop_f1",
        "DROP F1",
        "Mean F1 of words in the best pairing of spans, numbers all or nothing, as in DROP.",
        drop_f1,
    ),
    "edit_similarity": mean_metric(
        "edit_similarity",
        "edit similarity",
        "Mean of 1 - Levenshtein distance / length of the longer text, with the best reference.",
        edit_similarity,
    ),
    "pearson": PEARSON,
    "spearman": SPEARMAN,
    "bleu": BLEU_METRIC,
}


def metrics_for(names: Sequence[str], predictions: Sequence[Prediction]) -> list[Metric]:
    """The metrics of a task with the given declared names, the main one first.

    Classification is measured side by side by ranking the options, by generating the answer, and by whether the generated
    answer is an option at all; beside accuracy stand the probability of the right options and accuracy by other ways to
    compare options. Any other metric of a task with options judges the option ranked first, in the task's own words. Where a
    model gave no log-probabilities, options have no scores, and generated answers alone are measured.

    Args:
        names: as declared in the task, the main one first.
        predictions: some variant's predictions of the task.
    """
    some = predictions[0]
    has_options, generated = bool(some["options"]), some["generated"] is not None
    if has_options and not some["option_scores"]:
        return [_exact_match(names, has_options), _VALID_ANSWERS]
    found: list[Metric] = []
    for name in names:
        if name == "accuracy":
            main, *others = accuracy_metrics(pmi=some["option_scores_alone"] is not None)
            by_text = [_exact_match(names, has_options), _VALID_ANSWERS] if generated else []
            found += [main, *by_text, ANSWER_PROBABILITY, *others]
        elif name == "exact_match" and generated:
            found.append(_exact_match(names, has_options))
        elif name == "matthews":
            found.append(matthews_metric(predictions))
        elif name in _OF_OPTIONS:
            found.append(_OF_OPTIONS[name])
        elif name == "rouge" or name in _OF_TEXTS:
            of_texts = rouge_metrics() if name == "rouge" else [_OF_TEXTS[name]]
            found += [_of_chosen_option(metric) for metric in of_texts] if has_options else of_texts
    return list({metric.name: metric for metric in found}.values())


def normal_form(names: Sequence[str], has_options: bool) -> NormalForm:
    """What is the same answer for exact match, in a task that declares these metrics."""
    return _form(names, has_options)[0]


def signatures(names: Sequence[str], predictions: Sequence[Prediction]) -> dict[str, str]:
    """How metrics that come in many kinds were computed, for results."""
    signatures = {}
    if "bleu" in names:
        signatures["bleu"] = bleu_signature(predictions)
    if "rouge" in names:
        signatures["rouge"] = rouge_signature(predictions)
    return signatures


def _form(names: Sequence[str], has_options: bool) -> tuple[NormalForm, str]:
    if has_options:
        return _KEEPING_MEANING
    return next((_FORMS[name] for name in names if name in _FORMS), _KEEPING_MEANING)


def _exact_match(names: Sequence[str], has_options: bool) -> Metric:
    form, how = _form(names, has_options)
    definition = f"Share of generated answers that equal a right one, {how}."
    return mean_metric("exact_match", "exact match", definition, lambda prediction: exact_match(prediction, form))


def _of_chosen_option(metric: Metric) -> Metric:
    """A metric of texts as one of the options ranked first."""
    return replace(metric, statistics=lambda unit: metric.statistics([chosen_as_text(row) for row in unit]))


def levels(declared: Sequence[str], metrics: Sequence[str], predictions: Sequence[Prediction]) -> dict[str, dict[str, float]]:
    """For each metric where it makes sense, its score by chance and for the best single answer, over the rows evaluated.

    Returns:
        Metric to `chance` (options guessed with equal probability) and `majority` (one answer for all rows).
    """
    rows = {prediction["row"]: prediction for prediction in predictions}
    found: dict[str, dict[str, float]] = {}
    if next(iter(rows.values()))["options"]:
        found = _option_levels(rows)
    else:
        form = normal_form(declared, has_options=False)
        found["exact_match"] = {"majority": most_common_form(rows.values(), form) / len(rows)}
    found |= {metric: {"chance": 0.0, "majority": 0.0} for metric in _WITHOUT_CORRELATION}
    return {metric: found[metric] for metric in metrics if metric in found}


def _option_levels(rows: Mapping[int, Prediction]) -> dict[str, dict[str, float]]:
    right = {row: right_options(prediction) for row, prediction in rows.items()}
    chances = {row: len(right[row]) / len(prediction["options"]) for row, prediction in rows.items()}
    position_counts = Counter(position for positions in right.values() for position in positions)
    accuracy = {
        "chance": float(np.mean(list(chances.values()))),
        "majority": max(position_counts.values()) / len(rows),
    }
    ways = ("accuracy", "accuracy_per_token", "accuracy_per_byte", "accuracy_pmi", "exact_match")
    groups = [[row["row"] for row in group] for group in groups_of(rows.values()).values()]
    # With a share p of positives, the counts that guessing leads one to expect give F1 = p / (p + 1/2), and the judgement
    # "right" for all gives 2p / (1 + p).
    positives = position_counts[POSITIVE] / len(rows)
    return {
        **dict.fromkeys(ways, accuracy),
        "answer_probability": {"chance": accuracy["chance"]},
        "multirc_f1a": {"chance": positives / (positives + 0.5), "majority": 2 * positives / (1 + positives)},
        "multirc_exact_match": {
            "chance": float(np.mean([np.prod([chances[row] for row in group]) for group in groups])),
            "majority": max(
                float(np.mean([all(position in right[row] for row in group) for group in groups]))
                for position in position_counts
            ),
        },
    }
