"""Saved predictions as the pages need them: which are right, which of them a filter leaves, and a page of those.

Of 100,000 predictions, prompts are read for the few that a page shows; a search in text goes through them batch by batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from flanlab.errors import FlanlabError
from flanlab.evaluation.metrics.options import with_counted_scores
from flanlab.files import reading
from flanlab.report.predictions import RankedOption, is_right, ranked_options, which_are_right
from flanlab.report.run import Run
from flanlab.results.files import PREDICTION_SCHEMA, PREDICTIONS, READ_AGAIN, read_shard, shard_paths
from flanlab.results.grids import Prediction

_OUTCOME = ["template", "row", "options", "references", "generated"]
"""What tells, with an option's scores, whether a prediction is right."""
_SEARCHED = ["prompt", "generated"]


@dataclass(frozen=True)
class Answered:
    """One prediction, ready to be shown."""

    template: int
    row: int
    prompt: str
    ranked: Sequence[RankedOption]
    """The likeliest first; empty where nothing was ranked."""
    references: Sequence[str]
    generated: str | None
    right: bool


def answered(prediction: Prediction, metrics: Sequence[str]) -> Answered:
    """A prediction as it is shown; see `is_right`."""
    return Answered(
        prediction["template"],
        prediction["row"],
        prediction["prompt"],
        ranked_options(prediction),
        prediction["references"],
        prediction["generated"],
        is_right(prediction, metrics),
    )


@dataclass(frozen=True)
class Index:
    """The predictions of a task by one variant, without their texts: [predictions] each, in the order of the files."""

    files: tuple[str, ...]
    file_of: NDArray[np.int32]
    templates: NDArray[np.int32]
    rows: NDArray[np.int32]
    right: NDArray[np.bool_]
    metrics: tuple[str, ...]
    end_token: bool

    @cached_property
    def outcomes(self) -> dict[tuple[int, int], bool]:
        """Template and row to whether the prediction is right."""
        return dict(zip(self.questions, self.right.tolist(), strict=True))

    @property
    def questions(self) -> list[tuple[int, int]]:
        """Template and row of each prediction."""
        return list(zip(self.templates.tolist(), self.rows.tolist(), strict=True))


def index_of(run: Run, variant: str, task: str) -> Index:
    """Find out which predictions are right; remembered until the files change.

    Raises:
        FlanlabError: no such task or variant, no predictions, or a damaged file.
    """
    for kind, name, known in (("variant", variant, run.results.variants), ("task", task, run.results.tasks)):
        if name not in known:
            raise FlanlabError(f"{run.folder}: there is no such {kind}.", hint=f"There are: {', '.join(known)}.")
    files = shard_paths(run.folder / PREDICTIONS / variant / task)
    if not files:
        raise FlanlabError(f"{run.folder}: holds no predictions of {task} by {variant}.", hint="Run the evaluation first.")
    end_token = run.results.variants[variant].end_token
    metrics = tuple(run.results.tasks[task].declared_metrics)
    return _index(tuple((str(file), file.stat().st_mtime_ns) for file in files), metrics, end_token)


@lru_cache(maxsize=32)
def _index(files: tuple[tuple[str, int], ...], metrics: tuple[str, ...], end_token: bool) -> Index:
    paths = tuple(path for path, _ in files)
    columns = [*_OUTCOME, "option_scores" if end_token else "option_scores_without_end"]
    # One by one: of many small files, a data set of pyarrow takes twice as long.
    shards = [read_shard(Path(path), columns).select(columns).replace_schema_metadata(None) for path in paths]
    # In one piece, or each operation would go through all pieces.
    table = pa.concat_tables(shards).combine_chunks().rename_columns([*_OUTCOME, "option_scores"])
    file_of = np.repeat(np.arange(len(shards), dtype=np.int32), [len(shard) for shard in shards])
    right = which_are_right(table, metrics)
    return Index(paths, file_of, table["template"].to_numpy(), table["row"].to_numpy(), right, metrics, end_token)


def matching(
    index: Index, *, template: int | None = None, right: bool | None = None, text: str = "", flipped: Index | None = None
) -> NDArray[np.int64]:
    """Positions of the predictions that pass every filter.

    Args:
        index: the predictions.
        template: only those through this template.
        right: only right or only wrong ones.
        text: only those with this in prompt or generated answer; case does not matter.
        flipped: only those that are right here and wrong there, or the other way round; what is not there is left out.

    Raises:
        FlanlabError: a damaged file.
    """
    mask = np.ones(len(index.rows), bool)
    if template is not None:
        mask &= index.templates == template
    if right is not None:
        mask &= index.right == right
    if flipped is not None:
        there = flipped.outcomes
        mask &= [there.get(one, here) != here for one, here in zip(index.questions, index.right.tolist(), strict=True)]
    if text and mask.any():
        mask &= np.concatenate([_holding(batch, text) for batch in _batches(index.files, _SEARCHED)])
    return np.flatnonzero(mask)


def _holding(batch: pa.RecordBatch, text: str) -> NDArray[np.bool_]:
    found = [pc.match_substring(batch[name], text, ignore_case=True).fill_null(False) for name in _SEARCHED]
    mask: NDArray[np.bool_] = pc.or_(*found).to_numpy(zero_copy_only=False)
    return mask


def read(index: Index, positions: NDArray[np.int64]) -> list[Answered]:
    """The predictions at some positions; no other file is opened than theirs.

    Raises:
        FlanlabError: a damaged file.
    """
    firsts = np.searchsorted(index.file_of, index.file_of[positions])
    with _reading(index.files):
        records = [
            record
            for file, place in zip(index.file_of[positions], positions - firsts, strict=True)
            for record in _dataset(index.files[file : file + 1]).take(pa.array([place])).to_pylist()
        ]
    return [answered(record, index.metrics) for record in with_counted_scores(records, index.end_token)]


def _batches(files: tuple[str, ...], columns: list[str]) -> Iterator[pa.RecordBatch]:
    with _reading(files):
        yield from _dataset(files).to_batches(columns=columns, batch_size=4096, batch_readahead=2)


def _dataset(files: tuple[str, ...]) -> Any:
    return ds.dataset(list(files), format="parquet", schema=PREDICTION_SCHEMA)


def _reading(files: tuple[str, ...]) -> AbstractContextManager[None]:
    return reading(Path(files[0]).parent, READ_AGAIN)
