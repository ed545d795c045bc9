"""The files of results: `results.json`, the one truth; `scores.parquet`, its score table for other programs; and predictions.

Predictions are saved as one row for each question, in Parquet files that are written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from flanlab.errors import FlanlabError
from flanlab.files import new_file, read_json, reading, write_text
from flanlab.results.schema import FORMAT, Difference, Results, Score
from flanlab.yaml_files import faults_in_words

RESULTS_FILE = "results.json"
SCORES_FILE = "scores.parquet"
Content = TypeVar("Content", bound=BaseModel)

_FIRST_COLUMNS = ("task", "subtask", "cluster", "level", "variant", "metric")
"""What a row is of; its other fields follow in their order."""
_ARROW_TYPES = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_()}
_ASKED_COLUMNS = ("title", "model", "identity", "parameters", "dtype", "stamped", "scoring", "style", "seed")
"""What is told of the variant in every row; its settings follow, a column each."""
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


def write_results(results: Results, folder: Path) -> None:
    """Write results.json and scores.parquet into `folder`, each whole or not at all."""
    with new_file(folder / SCORES_FILE) as temporary:
        pq.write_table(score_table(results), temporary)
    # Last: where it is, the table beside it is of the same results.
    write_text(folder / RESULTS_FILE, as_text(results))


def as_text(results: Results) -> str:
    """results.json: JSON with a line for each score and difference, so that people can read it and compare two."""
    tables = ("scores", "differences")
    facts = json.dumps(results.model_dump(mode="json", exclude=set(tables)), indent=1, ensure_ascii=False)
    rows = (f' "{name}": [\n{_lines(getattr(results, name))} ]' for name in tables)
    return ",\n".join([facts.removesuffix("\n}"), *rows]) + "\n}\n"


def read_results(folder: Path) -> Results:
    """Read the results of a run's or an evaluation's folder.

    Raises:
        FlanlabError: results.json is missing, damaged, or of another format.
    """
    path = folder / RESULTS_FILE
    content = read_json(path)
    if isinstance(content, dict) and isinstance(found := content.get("format"), int) and found != FORMAT:
        raise FlanlabError(
            f"{path}: has format {found}, and this version of flanlab reads format {FORMAT}.",
            hint="Run the command that wrote it again; predictions that are there are kept."
            if found < FORMAT
            else "Update flanlab.",
        )
    return parse(Results, path, content)


def score_table(results: Results) -> pa.Table:
    """The scores as a table with a row for each: what it is of, the number, and what was asked of which model.

    Columns are those of `Score`, then `in_domain`, then of the variant `title`, `model`, `identity`, `parameters`, `dtype`,
    `stamped`, `scoring`, `style` and `seed`, then one for each evaluation setting (`split`, `shots`, `options`, ...).
    """
    columns = _columns(Score, results.scores)
    trained = set(results.in_domain)
    columns["in_domain"] = pa.array(
        [score.name in trained if score.level == "task" else score.level == "in_domain" for score in results.scores]
    )
    asked = [results.variants[score.variant] for score in results.scores]
    for name in _ASKED_COLUMNS:
        columns[name] = pa.array([getattr(variant, name) for variant in asked])
    settings = dict.fromkeys(name for variant in results.variants.values() for name in variant.settings)
    for name in settings:
        if name not in columns:
            columns[name] = pa.array([_plain(variant.settings.get(name)) for variant in asked])
    return pa.table(columns)


def difference_table(results: Results) -> pa.Table:
    """The differences as a table with a row for each; columns are the fields of `Difference`."""
    return pa.table(_columns(Difference, results.differences))


def _columns(kind: type[BaseModel], rows: Sequence[BaseModel]) -> dict[str, pa.Array]:
    """A column for each field of some rows of one kind."""
    fields = kind.model_fields
    names = dict.fromkeys([*(name for name in _FIRST_COLUMNS if name in fields), *fields])
    return {name: pa.array([getattr(row, name) for row in rows], _arrow_type(fields[name].annotation)) for name in names}


def _arrow_type(annotation: Any) -> pa.DataType:
    """Of a field that holds a text, a number, or yes or no; or nothing."""
    if isinstance(annotation, str):  # one of the values of a Literal
        return pa.string()
    inner = get_args(annotation)
    return _arrow_type(inner[0]) if inner else _ARROW_TYPES[annotation]


def parse(kind: type[Content], path: Path, content: Any) -> Content:
    """The content of a file, checked.

    Raises:
        FlanlabError: it is not what it should be.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise FlanlabError(
            f"{path}: is damaged, or from another version of flanlab: {faults_in_words(error, kind)[0]}",
            hint="Run the command that wrote it again; predictions that are there are kept.",
        ) from error


def _plain(value: Any) -> Any:
    """A setting as one cell of a table: a list or a dict as JSON."""
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


def _lines(rows: Iterable[BaseModel]) -> str:
    texts = [f"  {json.dumps(row.model_dump(mode='json', exclude_none=True), ensure_ascii=False)}" for row in rows]
    return ",\n".join(texts) + "\n" if texts else ""


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
    # Not by `group_by`, which imports what takes longer than reading.
    asked, counts = np.unique(np.stack([table["row"], table["template"]]), axis=1, return_counts=True)
    if twice := next(iter(asked[:, counts > 1].T.tolist()), None):
        raise FlanlabError(
            f"{folder}: has row {twice[0]} twice with template {twice[1]}.",
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
