"""Example predictions, chosen by rule: three right and three wrong ones of each task, spread over its templates."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from flanlab.errors import FlanlabError
from flanlab.results.predictions import read_shard

_EACH = 3
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_COLUMNS = [
    "template",
    "row",
    "prompt",
    "options",
    "option_scores",
    "option_scores_without_end",
    "references",
    "generated",
]


@dataclass(frozen=True)
class ShownPrediction:
    """One prediction as the page shows it; `ranked` holds options with their probabilities, the likeliest first."""

    template: int
    row: int
    prompt: str
    right_answers: list[str]
    ranked: list[tuple[str, float]]
    generated: str | None


@dataclass(frozen=True)
class TaskExamples:
    """Examples of one task."""

    right: list[ShownPrediction]
    wrong: list[ShownPrediction]
    total: int
    total_right: int


def task_examples(folder: Path, end_token: bool) -> TaskExamples | None:
    """Choose examples from one task's predictions; None where the folder holds none.

    Where options were ranked, a prediction is right if a right one is first; a generated answer, if it equals a reference,
    case, punctuation and space aside.

    Raises:
        FlanlabError: a file of predictions is damaged.
    """
    records: list[Mapping[str, Any]] = []
    for part in sorted(folder.glob("part-*.parquet")):
        try:
            records += read_shard(part, _COLUMNS).to_pylist()
        except (OSError, pa.ArrowException, KeyError) as error:
            raise FlanlabError(
                f"{part}: is damaged ({error}).",
                hint="Delete the file and run the command again: it makes only that shard again.",
            ) from error
    if not records:
        return None
    scores = "option_scores" if end_token else "option_scores_without_end"
    right = [record for record in records if _is_right(record, scores)]
    wrong = [record for record in records if not _is_right(record, scores)]
    chosen = spread(right, _EACH)
    taken = frozenset(record["row"] for record in chosen)
    return TaskExamples(
        [_shown(record, scores) for record in chosen],
        [_shown(record, scores) for record in spread(wrong, _EACH, taken)],
        len(records),
        len(right),
    )


def spread(records: Sequence[Mapping[str, Any]], wanted: int, taken: frozenset[int] = frozenset()) -> list[Mapping[str, Any]]:
    """Choose up to `wanted` records: evenly spaced templates, and of each the first row not in `taken` or shown."""
    by_template: dict[int, list[Mapping[str, Any]]] = {}
    for record in sorted(records, key=lambda record: (record["template"], record["row"])):
        by_template.setdefault(record["template"], []).append(record)
    templates = list(by_template)
    chosen: list[Mapping[str, Any]] = []
    rows = set(taken)
    for turn in range(min(wanted, len(records))):
        if len(templates) >= wanted:
            left = by_template[templates[round(turn * (len(templates) - 1) / max(1, wanted - 1))]]
        else:
            filled = [template for template in templates if by_template[template]]
            left = by_template[filled[turn % len(filled)]]
        record = next((record for record in left if record["row"] not in rows), left[0])
        left.remove(record)
        rows.add(record["row"])
        chosen.append(record)
    return chosen


def _is_right(record: Mapping[str, Any], scores: str) -> bool:
    if record[scores]:
        return record["options"][record[scores].index(max(record[scores]))] in record["references"]
    return _plain(record["generated"] or "") in {_plain(reference) for reference in record["references"]}


def _plain(text: str) -> str:
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


def _shown(record: Mapping[str, Any], scores: str) -> ShownPrediction:
    options = record["options"] or []
    ranked = []
    if record[scores]:
        highest = max(record[scores])
        weights = [math.exp(score - highest) for score in record[scores]]
        shares = [weight / sum(weights) for weight in weights]
        ranked = sorted(zip(options, shares, strict=True), key=lambda pair: pair[1], reverse=True)
    right = list(record["references"])
    return ShownPrediction(record["template"], record["row"], record["prompt"], right, ranked, record["generated"])
