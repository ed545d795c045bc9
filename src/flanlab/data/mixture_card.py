"""Describe a mixture before training: counts by cluster and task, shortened and dropped examples; and export it."""

from __future__ import annotations

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
    rates = mixture.rates()
    tasks: dict[str, dict[str, Any]] = {
        task.name: {
            "cluster": task.clusters[0].value,
            "licence": task.licence,
            "rows": rows,
            "rate": rates[task.name],
            "epochs": rates[task.name] * planned / rows,
            **dict.fromkeys(_SUMMED, 0),
            "exemplars": Counter(),
            "dropped": Counter(),
        }
        for task, rows in zip(mixture.tasks, mixture.row_counts, strict=True)
    }
    for found in mixture.stream(range(measured), encoder):
        if isinstance(found, Dropped):
            tasks[found.task]["dropped"][found.reason] += 1
        else:
            entry = tasks[found.example.task]
            numbers = (1, found.length, len(found.target), found.shortened, found.options_shown)
            for name, number in zip(_SUMMED, numbers, strict=True):
                entry[name] += number
            entry["exemplars"][len(found.exemplars.rows)] += 1
        if bar:
            bar.advance()
    clusters: dict[str, Counter[str]] = {}
    for entry in tasks.values():
        clusters.setdefault(entry["cluster"], Counter()).update(
            {"tasks": 1, **{name: entry[name] for name in ("rate", "examples", "tokens", "target_tokens")}}
        )
    exemplars: Counter[int] = sum((entry["exemplars"] for entry in tasks.values()), Counter())
    return {
        "planned_examples": planned,
        "measured_examples": measured,
        "cycle_length": mixture.cycle_length,
        **{name: sum(entry[name] for entry in tasks.values()) for name in _SUMMED[1:]},
        "exemplars": _by_number(exemplars),
        "dropped": sum(entry["dropped"].total() for entry in tasks.values()),
        "settings": mixture.settings.model_dump(),
        "seed": mixture.seed,
        "clusters": {cluster: dict(counts) for cluster, counts in sorted(clusters.items())},
        "tasks": {
            name: {**entry, "exemplars": _by_number(entry["exemplars"]), "dropped": dict(entry["dropped"])}
            for name, entry in tasks.items()
        },
    }


def _by_number(counts: Mapping[int, int]) -> dict[str, int]:
    """Number of examples by number of exemplars, as JSON has it."""
    return {str(number): count for number, count in sorted(counts.items())}


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
