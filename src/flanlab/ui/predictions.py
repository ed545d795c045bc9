"""Saved predictions as the pages need them: which are right, which of them a filter leaves, and a page of those.

Of 100,000 predictions, prompts are read for the few that a page shows; a search in text goes through them batch by batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from flanlab.errors import FlanlabError
from flanlab.evaluation.metrics.answers import exact_match
from flanlab.evaluation.metrics.options import accuracy, option_scores, right_options
from flanlab.report.run import Run
from flanlab.results.predictions import PREDICTION_SCHEMA, PREDICTIONS, shard_paths

_OUTCOME = [
    "template",
    "row",
    "options",
    "option_scores",
    "option_scores_without_end",
    "option_tokens",
    "references",
    "generated",
]
"""What tells whether a prediction is right."""
_SEARCHED = ["prompt", "generated"]


@dataclass(frozen=True)
class RankedOption:
    """An option with its share of the probability of all options, 0 to 1."""

    option: str
    probability: float
    is_right: bool


@dataclass(frozen=True)
class Answered:
    """One prediction, ready to be shown."""

    template: int
    row: int
    prompt: str
    ranked: tuple[RankedOption, ...]
    """The likeliest first; empty where nothing was ranked."""
    references: tuple[str, ...]
    generated: str | None
    right: bool


def is_right(prediction: Mapping[str, Any], end_token: bool) -> bool:
    """Whether the option ranked first is a right one; where nothing was ranked, whether the text is a right answer."""
    if prediction["option_scores"]:
        return accuracy(prediction, end_token) == 1
    return prediction["generated"] is not None and exact_match(prediction) == 1


def answered(prediction: Mapping[str, Any], end_token: bool) -> Answered:
    """A prediction as it is shown."""
    ranked: list[RankedOption] = []
    if prediction["option_scores"]:
        scores = option_scores(prediction, end_token).tolist()
        weights = [math.exp(score - max(scores)) for score in scores]
        right = right_options(prediction)
        ranked = [
            RankedOption(option, weight / sum(weights), place in right)
            for place, (option, weight) in enumerate(zip(prediction["options"], weights, strict=True))
        ]
    return Answered(
        prediction["template"],
        prediction["row"],
        prediction["prompt"],
        tuple(sorted(ranked, key=lambda one: -one.probability)),
        tuple(prediction["references"]),
        prediction["generated"],
        is_right(prediction, end_token),
    )


@dataclass(frozen=True)
class Index:
    """The predictions of a task by one variant, without their texts: [predictions] each, in the order of the files."""

    files: tuple[str, ...]
    templates: NDArray[np.int32]
    rows: NDArray[np.int32]
    right: NDArray[np.bool_]
    end_token: bool


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
    end_token = bool(run.results.variants[variant].settings.get("end_token", True))
    return _index(tuple((str(file), file.stat().st_mtime_ns) for file in files), end_token)


@lru_cache(maxsize=32)
def _index(files: tuple[tuple[str, int], ...], end_token: bool) -> Index:
    paths = tuple(path for path, _ in files)
    templates: list[int] = []
    rows: list[int] = []
    right: list[bool] = []
    for batch in _batches(paths, _OUTCOME):
        for prediction in batch.to_pylist():
            templates.append(prediction["template"])
            rows.append(prediction["row"])
            right.append(is_right(prediction, end_token))
    return Index(paths, np.array(templates, np.int32), np.array(rows, np.int32), np.array(right, bool), end_token)


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
        there = dict(zip(_keys(flipped), flipped.right.tolist(), strict=True))
        mask &= [there.get(key, here) != here for key, here in zip(_keys(index), index.right.tolist(), strict=True)]
    if text and mask.any():
        mask &= np.concatenate([_holding(batch, text) for batch in _batches(index.files, _SEARCHED)])
    return np.flatnonzero(mask)


def _keys(index: Index) -> list[tuple[int, int]]:
    return list(zip(index.templates.tolist(), index.rows.tolist(), strict=True))


def _holding(batch: pa.RecordBatch, text: str) -> NDArray[np.bool_]:
    found = [pc.match_substring(batch[name], text, ignore_case=True).fill_null(False) for name in _SEARCHED]
    mask: NDArray[np.bool_] = pc.or_(*found).to_numpy(zero_copy_only=False)
    return mask


def read(index: Index, positions: NDArray[np.int64]) -> list[Answered]:
    """The predictions at some positions.

    Raises:
        FlanlabError: a damaged file.
    """
    try:
        records = _dataset(index.files).take(pa.array(positions)).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise _damaged(index.files, error) from error
    return [answered(record, index.end_token) for record in records]


def _batches(files: tuple[str, ...], columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        yield from (
            _dataset(files).scanner(columns=columns, batch_size=4096, batch_readahead=2, fragment_readahead=1).to_batches()
        )
    except (OSError, pa.ArrowException) as error:
        raise _damaged(files, error) from error


def _dataset(files: tuple[str, ...]) -> Any:
    return ds.dataset(list(files), format="parquet", schema=PREDICTION_SCHEMA)


def _damaged(files: tuple[str, ...], error: Exception) -> FlanlabError:
    return FlanlabError(
        f"{Path(files[0]).parent}: a file of predictions is damaged ({error}).",
        hint="Delete the file and run the command that wrote it again: it computes just that file.",
    )
