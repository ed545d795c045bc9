"""Metrics of rank classification: from the scores of a row's options.

Several options may be right: they are those that stand in the prediction's `references`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from flanlab.data.rendering import BASELINE
from flanlab.results.grids import Metric, Prediction, mean_metric, ratio, summed_metric
from flanlab.results.intervals import Floats

Normalization = Literal["sum", "token", "byte", "pmi"]
POSITIVE = 1
"""MultiRC: label id of an answer that is right, so its position among the task's two options."""


def right_options(prediction: Prediction) -> list[int]:
    """Positions of the right options."""
    right = set(prediction["references"])
    return [position for position, option in enumerate(prediction["options"]) if option in right]


def with_counted_scores(predictions: Iterable[Prediction], end_token: bool) -> list[Prediction]:
    """Saved predictions with the scores that metrics judge by: those of options without end tokens, where these do not count.

    Args:
        predictions: as they are saved.
        end_token: the setting: whether an option's end token counts in its score.
    """
    return list(predictions) if end_token else [_without_end_tokens(prediction) for prediction in predictions]


def _without_end_tokens(prediction: Prediction) -> Prediction:
    counts = {name: prediction[f"{name}_without_end"] for name in ("option_scores", "option_scores_alone")}
    ends = prediction["template"] != BASELINE  # those of a baseline prompt are left out already
    return {**prediction, **counts, "option_tokens": [tokens - ends for tokens in prediction["option_tokens"]]}


def option_scores(prediction: Prediction, normalization: Normalization = "sum") -> Floats:
    """Scores of the options, [options].

    Args:
        prediction: a row with options.
        normalization: sum: log-probability of the whole option. token: divided by the tokens it is summed over; an end token
            never counts after a baseline prompt. byte: divided by the option's UTF-8 bytes. pmi: less the option's
            log-probability after a prompt that asks nothing, as in domain-conditional PMI (Holtzman et al. 2021, "Surface Form
            Competition").
    """
    scores: Floats = np.array(prediction["option_scores"], float)
    if normalization == "token":
        scores /= np.maximum(np.asarray(prediction["option_tokens"]) - (prediction["template"] == BASELINE), 1)
    elif normalization == "byte":
        scores /= [len(option.encode()) for option in prediction["options"]]
    elif normalization == "pmi":
        scores -= prediction["option_scores_alone"]
    return scores


def chosen_option(prediction: Prediction, normalization: Normalization = "sum") -> int:
    """Position of the option with the highest score; of the first one, where several share it."""
    return int(np.argmax(option_scores(prediction, normalization)))


def chosen_as_text(prediction: Prediction) -> Prediction:
    """The prediction as if the option ranked first had been generated: it and the references in the task's own words."""
    own = prediction["own_options"]
    chosen, right = chosen_option(prediction), right_options(prediction)
    return {**prediction, "generated": own[chosen], "references": [own[position] for position in right]}


def accuracy(prediction: Prediction, normalization: Normalization = "sum") -> float:
    """1 where the option with the highest score is a right one."""
    return float(chosen_option(prediction, normalization) in right_options(prediction))


def option_shares(scores: Sequence[float] | Floats) -> Floats:
    """Each option's share of the probability of all options (softmax of their summed log-probabilities), [options]."""
    weights = np.exp(np.asarray(scores) - np.max(scores))
    shares: Floats = weights / weights.sum()
    return shares


def answer_probability(prediction: Prediction) -> float:
    """Probability of the right options among all."""
    return float(option_shares(option_scores(prediction))[right_options(prediction)].sum())


ANSWER_PROBABILITY = mean_metric(
    "answer_probability",
    "probability of right",
    "Mean probability of the right options among all options of the row.",
    answer_probability,
)


def accuracy_metrics(pmi: bool) -> list[Metric]:
    """Accuracy by each way to compare options of different length and frequency, the main way first; `pmi`: by PMI too."""

    def metric(name: str, title: str, what: str, way: Normalization) -> Metric:
        definition = f"Share of rows where the option with the highest {what} is a right one."
        return mean_metric(name, title, definition, lambda prediction: accuracy(prediction, way))

    ways: tuple[tuple[str, str, str, Normalization], ...] = (
        ("accuracy", "accuracy", "log-probability", "sum"),
        ("accuracy_per_token", "accuracy per token", "log-probability per token", "token"),
        ("accuracy_per_byte", "accuracy per byte", "log-probability per UTF-8 byte", "byte"),
        ("accuracy_pmi", "accuracy by PMI", 'log-probability less that after the bare prompt "Answer:"', "pmi"),
    )
    return [metric(*way) for way in ways if pmi or way[3] != "pmi"]


def margin(prediction: Prediction) -> float:
    """By how much the best right option's log-probability is above the best wrong one's; 0 where every option is right."""
    scores, right = option_scores(prediction), right_options(prediction)
    wrong = np.delete(scores, right)
    return float(scores[right].max() - wrong.max()) if len(wrong) else 0.0


def matthews_metric(predictions: Sequence[Prediction]) -> Metric:
    """Matthews correlation (Gorodkin 2004 for more than two classes) of the chosen with the right option.

    Where several options are right, the chosen one counts as the label if it is one of them. 0 where it is not defined:
    all rows have one label, or one option was always chosen.
    """
    classes = max(len(prediction["options"]) for prediction in predictions)

    def statistics(prediction: Prediction) -> Sequence[float]:
        chosen = chosen_option(prediction)
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


def _judgement(prediction: Prediction) -> Sequence[float]:
    """Of a MultiRC answer, whether it is rightly called right, wrongly called right, wrongly called wrong."""
    said, is_right = chosen_option(prediction) == POSITIVE, POSITIVE in right_options(prediction)
    return (float(said and is_right), float(said and not is_right), float(is_right and not said))


MULTIRC_F1A = summed_metric(
    "multirc_f1a",
    "F1 over answers",
    "F1 of the judgement that an answer is right (the task's second option), over all answers of all questions.",
    _judgement,
    lambda sums: ratio(2 * sums[..., 0], 2 * sums[..., 0] + sums[..., 1] + sums[..., 2]),
)
"""F1a of Khashabi et al. (2018). Rows are answers, judged by a task of two options of which the second says "right"."""
MULTIRC_EXACT_MATCH = Metric(
    "multirc_exact_match",
    "questions all right",
    "Share of questions (groups of rows) for which every answer is judged right.",
    lambda unit: (float(all(accuracy(row) for row in unit)), 1.0),
    lambda sums: ratio(sums[..., 0], sums[..., 1]),
)
"""MultiRC's EM0."""
