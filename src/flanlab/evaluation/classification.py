"""How a classifier errs: which class it takes for which, how far its probabilities can be trusted, and for whom it is worse.

All functions take predictions: rows that `predict` gives or has written (those without their own answer are passed over), or
predictions of an evaluation. A row asked through several templates counts once for each in an evaluation, and once in a vote.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flanlab.data.table_files import read_table
from flanlab.errors import FlanlabError
from flanlab.evaluation.given import table_of
from flanlab.evaluation.metrics.options import chosen_option, option_scores, option_shares, right_options
from flanlab.results.intervals import bounded_interval
from flanlab.results.table import Table
from flanlab.tasks.printing import is_missing

Predictions = str | Path | Iterable[Mapping[str, Any]]
"""Rows, or a file of them."""
_MOST_CLASSES = 200
"""More are no classes, but the texts of rows."""


@dataclass(frozen=True)
class _Judged:
    """A prediction beside the right answer, in the task's own words."""

    gold: str
    said: str | None
    probabilities: Mapping[str, float] | None
    record: Mapping[str, Any]

    @property
    def is_right(self) -> bool:
        return self.said == self.gold


def confusion(predictions: Predictions) -> Table:
    """Count how often each class was predicted for each right answer.

    Returns:
        For each pair of classes `gold`, `prediction` (in the task's words and order; None for a generated text that is none of
        the options, where there are any) and `count`. Where several options are right and the prediction is one of them,
        `gold` is that one.

    Raises:
        FlanlabError: no prediction with its right answer, or options that differ from row to row.

    Examples:
        >>> import flanlab as fl
        >>> fl.confusion([{"prediction": "no", "gold": "yes", "probabilities": {"yes": 0.4, "no": 0.6}}]).where(gold="yes")
        gold  prediction  count
        yes   yes         0
        yes   no          1
    """
    judged = _judged(predictions)
    classes = _classes(judged)
    counts = Counter((one.gold, one.said) for one in judged)
    said: list[str | None] = [*classes, *([None] if any(one.said is None for one in judged) else [])]
    return Table.from_rows(
        [{"gold": gold, "prediction": prediction, "count": counts[gold, prediction]} for gold in classes for prediction in said]
    )


def per_class(predictions: Predictions) -> Table:
    """Precision and recall of each class.

    Returns:
        For each class, in the task's order: `class`, `rows` (whose answer it is), `predicted` (how often it was the answer),
        `precision`, `recall` and `f1` (0 to 1; None where they are not defined, such as the precision of a class that was
        never predicted).

    Raises:
        FlanlabError: as `confusion`.

    >>> from flanlab.evaluation.classification import per_class
    >>> per_class([{"prediction": "no", "gold": "yes", "probabilities": {"yes": 0.4, "no": 0.6}}]).rows()[0]
    {'class': 'yes', 'rows': 1, 'predicted': 0, 'precision': None, 'recall': 0.0, 'f1': 0.0}
    """
    judged = _judged(predictions)
    rows, predicted = Counter(one.gold for one in judged), Counter(one.said for one in judged)
    hits = Counter(one.gold for one in judged if one.is_right)
    return Table.from_rows(
        [
            {
                "class": name,
                "rows": rows[name],
                "predicted": predicted[name],
                "precision": _share(hits[name], predicted[name]),
                "recall": _share(hits[name], rows[name]),
                "f1": _share(2 * hits[name], rows[name] + predicted[name]),
            }
            for name in _classes(judged)
        ]
    )


def calibration(predictions: Predictions, bins: int = 10) -> Table:
    """The reliability curve: how often predictions are right, for each range of the probability that the model gave them.

    Args:
        predictions: with probabilities of options, which may differ from row to row.
        bins: number of equally wide ranges of probability.

    Returns:
        For each range that holds predictions: its ends `low` (excluded, but for 0) and `high` (included), the number of
        `rows`, their mean `confidence` (probability of the predicted option) and `accuracy`, all 0 to 1. A model that is
        well calibrated has the same number in both.

    Raises:
        FlanlabError: no prediction with probabilities and its right answer, or no range.

    Examples:
        >>> import flanlab as fl
        >>> fl.calibration([{"prediction": "yes", "gold": "yes", "probabilities": {"yes": 0.75, "no": 0.25}}]).rows()
        [{'low': 0.7, 'high': 0.8, 'rows': 1, 'confidence': 0.75, 'accuracy': 1.0}]
    """
    if bins < 1:
        raise FlanlabError(f"{bins} ranges of probability hold nothing.", hint="Use 1 or more.")
    judged = [
        (one.probabilities[one.said], one.is_right)
        for one in _judged(predictions)
        if one.probabilities is not None and one.said is not None
    ]
    if not judged:
        raise FlanlabError("No prediction has probabilities.", hint="Use a model that ranks options by log-probabilities.")
    members: dict[int, list[tuple[float, bool]]] = {}
    for confidence, is_right in judged:
        place = next(number for number in range(bins) if confidence <= (number + 1) / bins or number == bins - 1)
        members.setdefault(place, []).append((confidence, is_right))
    found = [
        {
            "low": place / bins,
            "high": (place + 1) / bins,
            "rows": len(some),
            "confidence": sum(confidence for confidence, _ in some) / len(some),
            "accuracy": sum(right for _, right in some) / len(some),
        }
        for place, some in sorted(members.items())
    ]
    return Table.from_rows(found)


def calibration_error(predictions: Predictions, bins: int = 10) -> float:
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017): the mean distance of confidence and accuracy, 0 to 1.

    The mean is over the ranges of `calibration`, each by its share of the rows. It depends on their number, and is above
    zero for few rows even where a model is perfectly calibrated.

    Raises:
        FlanlabError: as `calibration`.

    >>> from flanlab.evaluation.classification import calibration_error
    >>> calibration_error([{"prediction": "yes", "gold": "no", "probabilities": {"yes": 0.75, "no": 0.25}}])
    0.75
    """
    curve = calibration(predictions, bins).rows()
    rows = sum(part["rows"] for part in curve)
    return float(sum(part["rows"] * abs(part["confidence"] - part["accuracy"]) for part in curve) / rows)


def accuracy_by(predictions: Predictions, column: str | None = None) -> Table:
    """Accuracy for each value of a column, such as a team or a language. Without a column: of all rows together.

    Returns:
        For each value, in the order of occurrence: `value` (None for all rows), `rows`, `accuracy`, and the ends `low` and
        `high` of its 95 % interval over rows (Wilson's score interval), all 0 to 1.

    Raises:
        FlanlabError: no prediction with its right answer, or no such column.

    Examples:
        >>> import flanlab as fl
        >>> rows = [{"team": "sales", "prediction": "yes", "gold": "yes", "probabilities": None}]
        >>> fl.accuracy_by(rows, "team").column("accuracy")
        [1.0]
    """
    judged = _judged(predictions)
    if absent := [one for one in judged if column is not None and column not in one.record]:
        known = ", ".join(map(str, absent[0].record))
        raise FlanlabError(f"The predictions have no column `{column}`.", hint=f"Their columns are: {known}.")
    groups: dict[Any, list[bool]] = {}
    for one in judged:
        groups.setdefault(None if column is None else one.record[column], []).append(one.is_right)
    found = []
    for value, right in groups.items():
        share = sum(right) / len(right)
        interval = bounded_interval(share, share * (1 - share) / len(right), np.inf, len(right))  # Wilson's
        ends = {"low": float(interval.low), "high": float(interval.high)}
        found.append({"value": value, "rows": len(right), "accuracy": share, **ends})
    return Table.from_rows(found)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _judged(predictions: Predictions) -> list[_Judged]:
    records: Iterable[Mapping[str, Any]]
    if isinstance(predictions, str | Path):
        records = read_table(Path(predictions)).to_pylist()
    elif hasattr(predictions, "__arrow_c_stream__"):  # also a frame of pandas, which iterates over the names of its columns
        records = table_of(predictions).to_pylist()
    else:
        records = predictions
    judged = [one for one in map(_judge, records) if one is not None]
    if not judged:
        raise FlanlabError(
            "No prediction comes with its right answer.", hint="Give rows with the task's answer to `predict`, or evaluate."
        )
    return judged


def _judge(record: Mapping[str, Any]) -> _Judged | None:
    """A prediction with its right answer; None where that is not known."""
    if "option_scores" in record:
        return _judge_evaluated(record)
    if not {"prediction", "gold", "probabilities"} <= record.keys():
        raise FlanlabError(
            "These rows are no predictions: they have no `prediction`, `gold` and `probabilities`.",
            hint="Give what `predict` returns or has written, or predictions of an evaluation.",
        )
    gold, said, shares = (
        None if is_missing(record[name]) else record[name] for name in ("gold", "prediction", "probabilities")
    )
    if gold is None:
        return None
    gold, said = str(gold), None if said is None else str(said)
    if shares is not None:
        try:
            pairs = dict(json.loads(shares) if isinstance(shares, str) else shares)  # a CSV file has JSON
            shares = {name: share for name, share in pairs.items() if share is not None}  # a frame has options of other rows
        except (ValueError, TypeError) as error:
            raise FlanlabError(
                f"The probabilities {shares!r} are no mapping of options to numbers.", hint="Leave them as `predict` gave them."
            ) from error
        # A program that reads 0 as 0.0 or 01 as 1 would make each prediction wrong.
        if strange := [one for one in (gold, said) if one is not None and one not in shares]:
            raise FlanlabError(
                f"{strange[0]!r} is none of the options that have probabilities: {', '.join(shares)}.",
                hint="Read the columns `gold` and `prediction` as text.",
            )
    return _Judged(gold, said, shares, record)


def _judge_evaluated(record: Mapping[str, Any]) -> _Judged:
    options = record["own_options"]
    if not options or not record["option_scores"]:
        raise FlanlabError(
            f"The predictions of {record['task']} rank no options.", hint="Use a task with options and a model that ranks them."
        )
    weights = dict(zip(options, option_shares(option_scores(record)).tolist(), strict=True))
    chosen = chosen_option(record)
    gold = chosen if chosen in right_options(record) else record["answer"]
    return _Judged(options[gold], options[chosen], weights, record)


def _classes(judged: Iterable[_Judged]) -> list[str]:
    """What the right answer can be, in the task's order; without probabilities, what it is and was said to be."""
    judged = list(judged)
    sets = [list(one.probabilities) for one in judged if one.probabilities is not None]
    if not sets:
        found = list(dict.fromkeys([*(one.gold for one in judged), *(one.said for one in judged if one.said is not None)]))
    elif all(set(one) == set(sets[0]) for one in sets):
        found = sets[0]
    else:
        found = []
    if not 1 <= len(found) <= _MOST_CLASSES:
        raise FlanlabError(
            "These predictions have no classes: their options differ from row to row, or there are none.",
            hint="Use `calibration` and `accuracy_by`, which need no classes.",
        )
    return found
