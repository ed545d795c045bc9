"""Files of predictions that another program has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flanlab.results.files import PREDICTION_SCHEMA, read_predictions
from tests.task_files import refusal

SCORES = ("option_scores", "option_scores_without_end", "option_scores_alone", "option_scores_alone_without_end")
ROW = {
    "task": "reviews",
    "template": 1,
    "prompt": "Good?",
    "options": ["no", "yes"],
    "own_options": ["no", "yes"],
    **{name: [-1.5, -0.5] for name in SCORES},
    "option_tokens": [2, 2],
    "answer": 1,
    "references": ["yes"],
    "exemplars": [],
    "shortened": False,
}
TEXT = {**ROW, "options": [], "own_options": [], **{name: [] for name in SCORES}, "answer": None, "generated": "yes"}


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows), PREDICTION_SCHEMA), folder / "shard-00000.parquet")
    return folder


@pytest.mark.parametrize("row", [ROW, TEXT, {**ROW, "option_scores_alone": None}])
def test_what_is_sound_is_read(row: dict[str, Any], tmp_path: Path) -> None:
    rows = [{**row, "row": 0}, {**row, "row": 1}, {**row, "row": 1, "template": 2}]
    assert read_predictions(write(tmp_path, *rows)).num_rows == 3
    assert read_predictions(write(tmp_path)).num_rows == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"references": None}, "shard-00000.parquet: a value of references is missing"),
        ({"row": None}, "a value of row is missing"),
        ({"option_scores": [float("nan"), -0.5]}, "a number of option_scores is not finite"),
        ({"option_scores_alone": [float("-inf"), -0.5]}, "a number of option_scores_alone is not finite"),
        ({"answer": 2}, "an answer is the position of no option"),
        ({"answer": -1}, "an answer is the position of no option"),
        ({"row": 0}, "has row 0 twice with template 1"),
    ],
)
def test_what_another_program_has_changed_is_refused(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    write(tmp_path, {**ROW, "row": 0}, {**ROW, "row": 1, **change})
    assert told in refusal(lambda: read_predictions(tmp_path)).message
