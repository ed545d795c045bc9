"""Describe a mixture before training: counts by cluster and task, shortened and dropped examples; and export it."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flanlab.data.encoding import TextEncoder, after_exemplars
from flanlab.data.mixture import Dropped, EncodedExample, Mixture
from flanlab.files import new_file
from flanlab.progress import Meter

EXPORT_SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("target", pa.string()),
        ("options", pa.list_(pa.string())),
        ("options_shown", pa.bool_()),
        ("task", pa.string()),
        ("cluster", pa.string()),
        ("template", pa.int32()),
        ("row", pa.int32()),
        ("exemplars", pa.list_(pa.int32())),
    ]
)
_EXAMPLES_PER_GROUP = 10_000


_SUMMED = ("examples", "tokens", "target_tokens", "shortened", "options_shown")


def describe_mixture(
    mixture: Mixture, encoder: TextEncoder, planned: int, bar: Meter | None = None, *, most: int | None = None
) -> dict[str, Any]:
    """Count what training on the first `planned` examples reads. At most one cycle or `most` examples are measured.

    Returns:
        A dict for mixture.json: totals, and one entry per task and per cluster. `epochs` is how often training sees each
        row of the task. Tokens include the end token.
    """
    measured = min(planned, mixture.cycle_length, most or planned)
    counts, exemplars, dropped = ({task.name: Counter[Any]() for task in mixture.tasks} for _ in range(3))
    for found in mixture.stream(range(measured), encoder):
        if isinstance(found, Dropped):
            dropped[found.task][found.reason] += 1
        else:
            numbers = (1, found.length, len(found.target), int(found.shortened), int(found.options_shown))
            counts[found.example.task].update(dict(zip(_SUMMED, numbers, strict=True)))
            exemplars[found.example.task][len(found.exemplars.rows)] += 1
        if bar:
            bar.advance()
    tasks: dict[str, dict[str, Any]] = {
        task.name: {
            "cluster": task.clusters[0].value,
            "licence": task.licence,
            "rows": rows,
            "rate": count / mixture.cycle_length,
            "epochs": count / mixture.cycle_length * planned / rows,
            **{name: counts[task.name][name] for name in _SUMMED},
            "exemplars": _by_number(exemplars[task.name]),
            "dropped": dict(dropped[task.name]),
        }
        for task, rows, count in zip(mixture.tasks, mixture.row_counts, mixture.cycle_counts, strict=True)
    }
    clusters: dict[str, Counter[str]] = {}
    for entry in tasks.values():
        clusters.setdefault(entry["cluster"], Counter()).update(
            {"tasks": 1, **{name: entry[name] for name in ("rate", "examples", "tokens", "target_tokens")}}
        )
    return {
        "planned_examples": planned,
        "measured_examples": measured,
        "cycle_length": mixture.cycle_length,
        **{name: sum(entry[name] for entry in tasks.values()) for name in _SUMMED[1:]},
        "exemplars": _by_number(sum(exemplars.values(), Counter())),
        "dropped": sum(own.total() for own in dropped.values()),
        "settings": mixture.settings.model_dump(),
        "seed": mixture.seed,
        "clusters": {cluster: dict(own) for cluster, own in sorted(clusters.items())},
        "tasks": tasks,
    }


def _by_number(counts: Mapping[int, int]) -> dict[str, int]:
    """Number of examples by number of exemplars, as JSON has it."""
    return {str(number): count for number, count in sorted(counts.items())}


def export_mixture(mixture: Mixture, encoder: TextEncoder, examples: int, path: Path, bar: Meter) -> None:
    """Write the first `examples` of the stream, in order, as .parquet or .jsonl for any other trainer."""
    records = _records(mixture, encoder, examples, bar)
    with new_file(path) as temporary:
        if path.suffix == ".jsonl":
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        else:
            with pq.ParquetWriter(temporary, EXPORT_SCHEMA) as writer:
                while group := list(itertools.islice(records, _EXAMPLES_PER_GROUP)):
                    writer.write_table(pa.Table.from_pylist(group, schema=EXPORT_SCHEMA))


def _records(mixture: Mixture, encoder: TextEncoder, examples: int, bar: Meter) -> Iterator[dict[str, Any]]:
    for found in mixture.stream(range(examples), encoder):
        bar.advance()
        if isinstance(found, EncodedExample):
            example = found.example
            yield {
                "prompt": after_exemplars(example.prompt, found.exemplars.texts),
                "target": example.target,
                "options": list(example.options),
                "options_shown": found.options_shown,
                "task": example.task,
                "cluster": example.cluster,
                "template": example.template,
                "row": example.row,
                "exemplars": list(found.exemplars.rows),
            }
