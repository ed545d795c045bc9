"""Predictions as they are saved: one row for each question, in Parquet files that are written whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flanlab.errors import FlanlabError
from flanlab.files import reading

PREDICTIONS = "predictions"
"""Folder of predictions within that of a run or an evaluation: `predictions/<variant>/<task>`."""
PREDICTION_SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("template", pa.int32()),
        ("row", pa.int32()),
        ("group", pa.string()),
        ("prompt", pa.string()),
        ("options", pa.list_(pa.string())),
        ("own_options", pa.list_(pa.string())),
        ("option_scores", pa.list_(pa.float64())),
        ("option_scores_without_end", pa.list_(pa.float64())),
        ("option_scores_alone", pa.list_(pa.float64())),
        ("option_scores_alone_without_end", pa.list_(pa.float64())),
        ("option_tokens", pa.list_(pa.int32())),
        ("answer", pa.int32()),
        ("references", pa.list_(pa.string())),
        ("exemplars", pa.list_(pa.int32())),
        ("gold_value", pa.float64()),
        ("generated", pa.string()),
        ("shortened", pa.bool_()),
    ]
)
"""One prediction. Scores are natural-log probabilities, options in the task's own order; `options` are in the template's
words, `own_options` the same in the task's. Scores "alone" are after a prompt that asks nothing (`evaluation.predict`),
null where the settings do without PMI. `option_tokens` counts end tokens. `answer` is the position of the right option that is
trained on, null for generation; `references` are all right options, or all right texts; `exemplars` are train rows of
`Task.exemplar_source`. `generated` is null where nothing was generated, `group` and `gold_value` where the task has none."""


READ_AGAIN = "Delete the file and run the command that wrote it again: it computes just that shard."
"""What to do about a damaged file."""


def read_shard(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """One file of predictions, or some of its columns.

    Raises:
        FlanlabError: the file is damaged.
    """
    # pyarrow's `read_table` would import pyarrow.dataset, which takes longer than reading.
    with reading(path, READ_AGAIN), pq.ParquetFile(path) as file:
        return file.read(columns, use_threads=False)


def shard_paths(folder: Path) -> list[Path]:
    """The files of a task's predictions, in order; none if the folder is missing."""
    return sorted(folder.glob("shard-*.parquet"))


def read_predictions(folder: Path) -> pa.Table:
    """All predictions of one task.

    Raises:
        FlanlabError: none are there, or a file is damaged.
    """
    shards = shard_paths(folder)
    if not shards:
        raise FlanlabError(f"{folder}: holds no predictions.", hint="Run the evaluation first.")
    tables = [read_shard(shard).replace_schema_metadata(None) for shard in shards]
    try:
        table = pa.concat_tables(tables)
    except pa.ArrowException as error:
        other = next(shard for shard, table in zip(shards, tables, strict=True) if not table.schema.equals(PREDICTION_SCHEMA))
        raise FlanlabError(f"{other}: does not have the columns of predictions.", hint=READ_AGAIN) from error
    for shard, table_of_shard in zip(shards, tables, strict=True):
        if fault := _fault(table_of_shard):
            raise FlanlabError(f"{shard}: {fault}.", hint=READ_AGAIN)
    asked = table.group_by(["row", "template"]).aggregate([([], "count_all")])
    if asked.num_rows < table.num_rows:
        twice = asked.filter(pc.greater(asked["count_all"], 1)).slice(0, 1).to_pylist()[0]
        raise FlanlabError(
            f"{folder}: has row {twice['row']} twice with template {twice['template']}.",
            hint="Delete this folder and run the command that wrote it again.",
        )
    return table


def _fault(table: pa.Table) -> str | None:
    """What makes predictions meaningless, which no evaluation writes: another program has changed the file."""
    for name in ("template", "row", "prompt", "options", "own_options", "option_scores", "references"):
        if table[name].null_count:
            return f"a value of {name} is missing"
    for name in (name for name in table.column_names if name.startswith("option_scores")):
        if not pc.all(pc.is_finite(pc.list_flatten(table[name])), min_count=0).as_py():
            return f"a number of {name} is not finite"
    place = table["answer"]
    if pc.any(pc.or_(pc.less(place, 0), pc.greater_equal(place, pc.list_value_length(table["options"])))).as_py():
        return "an answer is the position of no option"
    return None
