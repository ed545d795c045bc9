"""Metrics of rank classification: from the scores of a row's options.

Several options may be right: they are those that stand in the prediction's `references`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from flanlab.data.rendering import BASELINE
from flanlab.evaluation.metrics.metric import Floats, Metric, Prediction, grouped_metric, mean_metric, ratio, summed_metric

Normalization = Literal["sum", "token", "byte", "pmi"]
POSITIVE = 1
"""MultiRC: label id of an answer that is right, so its position among the task's two options."""


def right_options(prediction: Prediction) -> list[int]:
    """Positions of the right options."""
    right = set(prediction["references"])
    return [position for position, option in enumerate(prediction["options"]) if option in right]


def option_scores(prediction: Prediction, end_token: bool, normalization: Normalization = "sum") -> Floats:
    """Scores of the options, [options].

    Args:
        prediction: a row with options.
        end_token: whether an option's end token counts; it never does after a baseline prompt.
        normalization: sum: log-probability of the whole option. token: divided by the tokens it is summed over. byte:
            divided by the option's UTF-8 bytes. pmi: less the option's log-probability after a prompt that asks nothing, as
            in domain-conditional PMI (Holtzman et al. 2021, "Surface Form Competition").
    """
    ending = "" if end_token else "_without_end"
    scores: Floats = np.array(prediction["option_scores" + ending], float)
    if normalization == "token":
        ends = end_token and prediction["template"] != BASELINE
        scores /= np.maximum(np.asarray(prediction["option_tokens"]) - (not ends), 1)
    elif normalization == "byte":
        scores /= [len(option.encode()) for option in prediction["options"]]
    elif normalization == "pmi":
        scores -= prediction["option_scores_alone" + ending]
    return scores


def chosen_option(prediction: Prediction, end_token: bool = True, normalization: Normalization = "sum") -> int:
    """Position of the option with the highest score; of the first one, where several share it."""
    return int(np.argmax(option_scores(prediction, end_token, normalization)))


def chosen_as_text(prediction: Prediction, end_token: bool) -> Prediction:
    """The prediction as if the option ranked first had been generated: it and the references in the task's own words."""
    own = prediction["own_options"]
    chosen, right = chosen_option(prediction, end_token), right_options(prediction)
    return {**prediction, "generated": own[chosen], "references": [own[position] for position in right]}


def accuracy(prediction: Prediction, end_token: bool = True, normalization: Normalization = "sum") -> float:
    """1 where the option with the highest score is a right one."""
    return float(chosen_option(prediction, end_token, normalization) in right_options(prediction))


def answer_probability(prediction: Prediction, end_token: bool = True) -> float:
    """Probability of the right options among all (softmax of their summed log-probabilities)."""
    scores = option_scores(prediction, end_token)
    shares = np.exp(scores - scores.max())
    return float(shares[right_options(prediction)].sum() / shares.sum())


def accuracy_metrics(end_token: bool, pmi: bool) -> list[Metric]:
    """Accuracy by each way to compare options of different length and frequency, the main way first; `pmi`: by PMI too."""

    def metric(name: str, title: str, what: str, way: Normalization) -> Metric:
        definition = f"Share of rows where the option with the highest {what} is a right one."
        return mean_metric(name, title, definition, lambda prediction: accuracy(prediction, end_token, way))

    ways: tuple[tuple[str, str, str, Normalization], ...] = (
        ("accuracy", "accuracy", "log-probability", "sum"),
        ("accuracy_per_token", "accuracy per token", "log-probability per token", "token"),
        ("accuracy_per_byte", "accuracy per byte", "log-probability per UTF-8 byte", "byte"),
        ("accuracy_pmi", "accuracy by PMI", 'log-probability less that after the bare prompt "Answer:"', "pmi"),
    )
    return [metric(*way) for way in ways if pmi or way[3] != "pmi"]


def margin(prediction: Prediction, end_token: bool = True) -> float:
    """By how much the best right option's log-probability is above the best wrong one's; 0 where every option is right."""
    scores, right = option_scores(prediction, end_token), right_options(prediction)
    wrong = np.delete(scores, right)
    return float(scores[right].max() - wrong.max()) if len(wrong) else 0.0


def matthews_metric(predictions: Sequence[Prediction], end_token: bool) -> Metric:
    """Matthews correlation (Gorodkin 2004 for more than two classes) of the chosen with the right option.

    Where several options are right, the chosen one counts as the label if it is one of them. 0 where it is not defined:
    all rows have one label, or one option was always chosen.
    """
    classes = max(len(prediction["options"]) for prediction in predictions)

    def statistics(prediction: Prediction) -> Sequence[float]:
        chosen = chosen_option(prediction, end_token)
        label = chosen if chosen in right_options(prediction) else prediction["answer"]
        return [float(chosen == label), 1.0, *np.eye(classes)[chosen], *np.eye(classes)[label]]

    def combine(sums: Floats) -> Floats:
        hits, rows, chosen, labels = sums[..., 0], sums[..., 1], sums[..., 2 : 2 + classes], sums[..., 2 + classes :]
        covariance = hits * rows - (chosen * labels).sum(axis=-1)
        spread = (rows**2 - (chosen**2).sum(axis=-1)) * (rows**2 - (labels**2).sum(axis=-1))
        return ratio(covariance, np.sqrt(spread))

    return summed_metric(
        "matthews",
        "Matthews correlation",
        "Matthews correlation of the option ranked first with the label, from counts over all rows (-1 to 1).",
        statistics,
        combine,
        bounds=(-1.0, 1.0),
    )


def multirc_f1a_metric(end_token: bool) -> Metric:
    """F1 over all answers of all questions (Khashabi et al. 2018: F1a).

    Rows are answers, judged by a task of two options of which the second (label id 1) says that the answer is right.
    """

    def statistics(prediction: Prediction) -> Sequence[float]:
        said, is_right = chosen_option(prediction, end_token) == POSITIVE, POSITIVE in right_options(prediction)
        return (float(said and is_right), float(said and not is_right), float(is_right and not said))

    return summed_metric(
        "multirc_f1a",
        "F1 over answers",
        "F1 of the judgement that an answer is right (the task's second option), over all answers of all questions.",
        statistics,
        lambda sums: ratio(2 * sums[..., 0], 2 * sums[..., 0] + sums[..., 1] + sums[..., 2]),
    )


def multirc_exact_match_metric(end_token: bool) -> Metric:
    """Share of questions whose answers are all judged right (MultiRC's EM0)."""
    return grouped_metric(
        "multirc_exact_match",
        "questions all right",
        "Share of questions (groups of rows) for which every answer is judged right.",
        lambda unit: (float(all(accuracy(row, end_token) for row in unit)), 1.0),
        lambda sums: ratio(sums[..., 0], sums[..., 1]),
    )
