"""What would be reached without understanding: by guessing, or by the same answer every time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from flanlab.evaluation.metrics.answers import most_common_form
from flanlab.evaluation.metrics.declared import normal_form
from flanlab.evaluation.metrics.options import POSITIVE, right_options
from flanlab.results.grids import Prediction, groups_of

_WITHOUT_CORRELATION = ("matthews", "pearson", "spearman")


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
