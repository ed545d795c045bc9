"""Describe a mixture before training: counts by cluster and task, shortened and dropped examples; and export it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
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


@dataclass
class _Counts:
    examples: int = 0
    tokens: int = 0
    target_tokens: int = 0
    shortened: int = 0
    options_shown: int = 0
    exemplars: Counter[int] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)


def describe_mixture(
    mixture: Mixture, encoder: TextEncoder, planned: int, bar: Meter | None = None, *, most: int | None = None
) -> dict[str, Any]:
    """Count what training on the first `planned` examples reads. At most one cycle or `most` examples are measured.

    Returns:
        A dict for mixture.json: totals, and one entry per task and per cluster. `epochs` is how often training sees each
        row of the task. Tokens include the end token.
    """
    measured = min(planned, mixture.cycle_length, most or planned)
    counts = {task.name: _Counts() for task in mixture.tasks}
    for found in mixture.stream(range(measured), encoder):
        name = found.task if isinstance(found, Dropped) else found.example.task
        count = counts[name]
        if isinstance(found, Dropped):
            count.dropped[found.reason] += 1
        else:
            count.examples += 1
            count.tokens += found.length
            count.target_tokens += len(found.target)
            count.shortened += found.shortened
            count.options_shown += found.options_shown
            count.exemplars[len(found.exemplars.rows)] += 1
        if bar:
            bar.advance()
    rates = mixture.rates()
    tasks: dict[str, dict[str, Any]] = {}
    for task, rows in zip(mixture.tasks, mixture.row_counts, strict=True):
        count = counts[task.name]
        tasks[task.name] = {
            "cluster": task.clusters[0].value,
            "licence": task.licence,
            "rows": rows,
            "rate": rates[task.name],
            "epochs": rates[task.name] * planned / rows,
            "examples": count.examples,
            "tokens": count.tokens,
            "target_tokens": count.target_tokens,
            "shortened": count.shortened,
            "options_shown": count.options_shown,
            "exemplars": _by_number([count]),
            "dropped": dict(count.dropped),
        }
    clusters: dict[str, dict[str, float]] = {}
    for entry in tasks.values():
        totals = clusters.setdefault(
            entry["cluster"], {"tasks": 0, "rate": 0.0, "examples": 0, "tokens": 0, "target_tokens": 0}
        )
        totals["tasks"] += 1
        for name in ("rate", "examples", "tokens", "target_tokens"):
            totals[name] += entry[name]
    return {
        "planned_examples": planned,
        "measured_examples": measured,
        "cycle_length": mixture.cycle_length,
        "tokens": sum(count.tokens for count in counts.values()),
        "target_tokens": sum(count.target_tokens for count in counts.values()),
        "shortened": sum(count.shortened for count in counts.values()),
        "options_shown": sum(count.options_shown for count in counts.values()),
        "exemplars": _by_number(counts.values()),
        "dropped": sum(sum(count.dropped.values()) for count in counts.values()),
        "settings": mixture.settings.model_dump(),
        "seed": mixture.seed,
        "clusters": dict(sorted(clusters.items())),
        "tasks": tasks,
    }


def _by_number(counts: Iterable[_Counts]) -> dict[str, int]:
    """Number of examples by number of exemplars."""
    numbers: Counter[int] = sum((count.exemplars for count in counts), Counter())
    return {str(number): numbers[number] for number in sorted(numbers)}


def export_mixture(mixture: Mixture, encoder: TextEncoder, examples: int, path: Path, bar: Meter) -> None:
    """Write the first `examples` of the stream, in order, as .parquet or .jsonl for any other trainer."""
    with new_file(path) as temporary:
        if path.suffix == ".jsonl":
            with temporary.open("w", encoding="utf-8") as file:
                for record in _records(mixture, encoder, examples, bar):
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
            return
        with pq.ParquetWriter(temporary, EXPORT_SCHEMA) as writer:
            group: list[dict[str, Any]] = []
            for record in _records(mixture, encoder, examples, bar):
                group.append(record)
                if len(group) == _EXAMPLES_PER_GROUP:
                    writer.write_table(pa.Table.from_pylist(group, schema=EXPORT_SCHEMA))
                    group.clear()
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
