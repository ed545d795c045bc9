"""From the metrics that a task declares to the metrics that are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flanlab.evaluation.metrics.answers import (
    NormalForm,
    composed,
    exact_match,
    normalize_answer,
    squad_f1,
    squad_form,
    trivia_qa_f1,
    trivia_qa_form,
    valid_answer,
)
from flanlab.evaluation.metrics.drop import drop_f1, drop_form
from flanlab.evaluation.metrics.metric import Metric, Prediction, mean_metric
from flanlab.evaluation.metrics.numbers import pearson_metric, spearman_metric
from flanlab.evaluation.metrics.options import (
    accuracy_metrics,
    answer_probability,
    chosen_as_text,
    matthews_metric,
    multirc_exact_match_metric,
    multirc_f1a_metric,
)
from flanlab.evaluation.metrics.texts import bleu_metric, bleu_signature, edit_similarity, rouge_metrics, rouge_signature

_FORMS: dict[str, tuple[NormalForm, str]] = {
    "f1": (squad_form, "in SQuAD's normal form (no case, punctuation, articles)"),
    "trivia_qa_f1": (trivia_qa_form, "in TriviaQA's normal form (no case, articles; punctuation parts words)"),
    "drop_f1": (drop_form, "in DROP's normal form (numbers by value, spans in any order)"),
    "edit_similarity": (composed, "character by character"),
}
"""A declared metric, and what is the same answer for exact match beside it."""
_KEEPING_MEANING = (normalize_answer, "but for case, punctuation and articles; numbers and formulas keep their signs")
_TEXT_SCORES: dict[str, tuple[Callable[[Prediction], float], str, str]] = {
    "f1": (squad_f1, "token F1", "Mean F1 of words shared with the best reference, as in SQuAD."),
    "trivia_qa_f1": (trivia_qa_f1, "TriviaQA F1", "Mean F1 of words shared with the best reference, as in TriviaQA."),
    "drop_f1": (drop_f1, "DROP F1", "Mean F1 of words in the best pairing of spans, numbers all or nothing, as in DROP."),
    "edit_similarity": (
        edit_similarity,
        "edit similarity",
        "Mean of 1 - Levenshtein distance / length of the longer text, with the best reference.",
    ),
}


def metrics_for(names: Sequence[str], predictions: Sequence[Prediction], *, end_token: bool) -> list[Metric]:
    """The metrics of a task with the given declared names, the main one first.

    Classification is measured side by side by ranking the options, by generating the answer, and by whether the generated
    answer is an option at all; beside accuracy stand the probability of the right options and accuracy by other ways to
    compare options. Any other metric of a task with options judges the option ranked first, in the task's own words. Where a
    model gave no log-probabilities, options have no scores, and generated answers alone are measured.

    Args:
        names: as declared in the task, the main one first.
        predictions: some variant's predictions of the task.
        end_token: whether an option's end token counts in its score.
    """
    has_options = bool(predictions[0]["options"])
    generated = predictions[0]["generated"] is not None
    if has_options and not predictions[0]["option_scores"]:
        return [_exact_match(names, has_options), _valid_answers()]

    def as_text(prediction: Prediction) -> Prediction:
        return chosen_as_text(prediction, end_token) if has_options else prediction

    found: list[Metric] = []
    for name in names:
        if name == "accuracy":
            main, *others = accuracy_metrics(end_token, pmi=predictions[0]["option_scores_alone"] is not None)
            found.append(main)
            if generated:
                found += [_exact_match(names, has_options), _valid_answers()]
            found += [_answer_probability(end_token), *others]
        elif name == "exact_match" and generated:
            found.append(_exact_match(names, has_options))
        elif name == "matthews":
            found.append(matthews_metric(predictions, end_token))
        elif name == "multirc_f1a":
            found.append(multirc_f1a_metric(end_token))
        elif name == "multirc_exact_match":
            found.append(multirc_exact_match_metric(end_token))
        elif name == "pearson":
            found.append(pearson_metric(as_text))
        elif name == "spearman":
            found.append(spearman_metric(as_text))
        elif name == "rouge":
            found += rouge_metrics(as_text)
        elif name == "bleu":
            found.append(bleu_metric(as_text))
        elif name in _TEXT_SCORES:
            found.append(_text_score(name, as_text))
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


def _text_score(name: str, as_text: Callable[[Prediction], Prediction]) -> Metric:
    score, title, definition = _TEXT_SCORES[name]
    return mean_metric(name, title, definition, lambda prediction: score(as_text(prediction)))


def _exact_match(names: Sequence[str], has_options: bool) -> Metric:
    form, how = _form(names, has_options)
    definition = f"Share of generated answers that equal a right one, {how}."
    return mean_metric("exact_match", "exact match", definition, lambda p: exact_match(p, form))


def _valid_answers() -> Metric:
    definition = "Share of generated answers that are one of the options, right or wrong."
    return mean_metric("valid_answers", "valid answers", definition, valid_answer)


def _answer_probability(end_token: bool) -> Metric:
    definition = "Mean probability of the right options among all options of the row."
    return mean_metric("answer_probability", "probability of right", definition, lambda p: answer_probability(p, end_token))
