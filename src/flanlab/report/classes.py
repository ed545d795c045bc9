"""How a classifier errs, in a report: what it takes for what, and how far its probabilities can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from flanlab.errors import FlanlabError
from flanlab.evaluation.classification import calibration, calibration_error, confusion, per_class
from flanlab.report.page import Block, Cell, Group, Row, Table, plain, text
from flanlab.report.wording import count, number
from flanlab.results.schema import Results

_MOST_CLASSES = 12
"""A larger table shows nothing at a glance: then precision and recall alone."""


def classification_blocks(results: Results, shown: str, records: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterable[Block]:
    """For each task with ranked options its confusion matrix, precision and recall by class, and calibration."""
    groups = [
        Group(name, list(_task_blocks(name, predictions)), "fold")
        for name, predictions in records.items()
        if predictions and results.tasks[name].is_classification and predictions[0]["option_scores"]
    ]
    if groups:
        yield text("classes", title=results.variants[shown].title)
        yield from groups


def _task_blocks(name: str, predictions: Sequence[Mapping[str, Any]]) -> Iterable[Block]:
    with suppress(FlanlabError):  # options that differ from row to row are no classes
        yield _classes(name, predictions)
    error = calibration_error(predictions)
    yield f"Calibration: expected calibration error {number(error)} points, over ten ranges of probability."
    rows = []
    for one in calibration(predictions):
        cells = [plain(one["rows"], count), plain(one["confidence"]), plain(one["accuracy"])]
        rows.append(Row(f"{number(one['low'])} to {number(one['high'])} %", cells))
    columns = ["predictions", "mean probability", "right"]
    yield Table(f"{name}, calibration", columns, rows, "probability of the answer")


def _classes(name: str, predictions: Sequence[Mapping[str, Any]]) -> Table:
    """Right answers in rows, predictions in columns."""
    classes = per_class(predictions).rows()
    matrix = confusion(predictions).rows() if len(classes) <= _MOST_CLASSES else []
    said = list(dict.fromkeys(one["prediction"] for one in matrix))
    rows = []
    for one in classes:
        counts = [cell for cell in matrix if cell["gold"] == one["class"]]
        cells = [Cell(cell["count"], count, kind="hit" if cell["prediction"] == one["class"] else "level") for cell in counts]
        cells += [plain(one["precision"]), plain(one["recall"]), plain(one["rows"], count)]
        rows.append(Row(str(one["class"]), cells))
    columns = [*(f"said\n{'none of these' if one is None else one}" for one in said), "precision", "recall", "in all"]
    return Table(f"{name}, right answers against predictions", columns, rows, "right answer")
