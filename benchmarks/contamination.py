"""Looking for evaluation rows in a corpus: flanlab's search against plain Python sets of tuples, on the same text.

Both read the same file, take the same words, and look for the same n-grams of the same rows; what they find must be the same.
They take turns, so that whatever else the machine does strikes both.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import pyarrow as pa

from flanlab.data.corpus import read_corpus
from flanlab.data.mirror import mirror_from_environment
from flanlab.data.ngrams import words
from flanlab.data.sources import load_rows
from flanlab.errors import FlanlabError
from flanlab.evaluation.contamination import SHORTEST, EvaluatedRow, evaluated_rows, find_overlaps
from flanlab.evaluation.planning import EvaluationSettings, plan_task
from flanlab.progress import say
from flanlab.tasks.loading import load_collection
from flanlab.tasks.schema import Split, Task

SIZES = (13, 8)
Verdicts = set[tuple[str, int, int]]
"""Task, row and n of those that overlap."""


def main() -> None:
    arguments = parse_arguments()
    mirror: Path | None = arguments.mirror or mirror_from_environment()
    tasks = reachable(load_collection("library" if mirror else "sampler"), mirror)
    rows = [row for task in tasks for row in chosen_rows(task, mirror, arguments.rows)]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.txt"
        write_corpus(corpus, tasks, mirror, int(arguments.megabytes * 1e6))
        megabytes = corpus.stat().st_size / 1e6
        say(f"{len(rows)} rows of {len(tasks)} tasks, a corpus of {megabytes:.1f} MB, one core")
        os.sched_setaffinity(0, {arguments.core})
        sides: dict[str, Callable[[], Verdicts]] = {
            "flanlab": lambda: with_flanlab(rows, corpus),
            "sets_of_tuples": lambda: with_sets_of_tuples(rows, corpus),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        processor: dict[str, list[float]] = {name: [] for name in sides}
        found: dict[str, Verdicts] = {}
        for number in range(arguments.rounds):
            for name, work in sides.items():
                started, processor_started = time.perf_counter(), time.process_time()
                found[name] = work()
                processor[name].append(time.process_time() - processor_started)
                seconds[name].append(time.perf_counter() - started)
                say(f"round {number + 1}, {name}: {seconds[name][-1]:.1f} s (processor {processor[name][-1]:.1f} s)")
    if found["flanlab"] != found["sets_of_tuples"]:
        raise SystemExit("The two do not find the same rows.")
    summary: dict[str, Any] = {
        "megabytes": round(megabytes, 1),
        "rows": len(rows),
        "overlapping": len(found["flanlab"]),
        "seconds": {name: [round(value, 2) for value in values] for name, values in seconds.items()},
        "processor_seconds": {name: [round(value, 2) for value in values] for name, values in processor.items()},
        "megabytes_per_second": {name: megabytes / mean(values) for name, values in seconds.items()},
        "megabytes_per_processor_second": {name: megabytes / mean(values) for name, values in processor.items()},
        "ratio": mean(seconds["sets_of_tuples"]) / mean(seconds["flanlab"]),
        "processor_ratio": mean(processor["sets_of_tuples"]) / mean(processor["flanlab"]),
    }
    if arguments.json:
        print(json.dumps(summary))
    else:
        print_table(summary)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path, help="folder with Hub data sets (else FLANLAB_MIRROR, else the sampler)")
    parser.add_argument("--megabytes", type=float, default=20.0, help="size of the corpus")
    parser.add_argument("--rows", type=int, default=100, help="evaluation rows of each task")
    parser.add_argument("--rounds", type=int, default=2, help="how often the sides take turns")
    parser.add_argument("--core", type=int, default=0, help="the one core that both run on")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    return parser.parse_args()


def reachable(tasks: Sequence[Task], mirror: Path | None) -> list[Task]:
    def is_there(task: Task, split: Split) -> bool:
        try:
            return len(load_rows(task, split, mirror)) > 0
        except FlanlabError:
            return False

    return [task for task in tasks if is_there(task, "train") and is_there(task, "test")]


def chosen_rows(task: Task, mirror: Path | None, count: int) -> list[EvaluatedRow]:
    rows = load_rows(task, "test", mirror)
    pairs = plan_task(task, rows, EvaluationSettings(rows=count), seed=0).pairs
    return evaluated_rows(task, rows, dict.fromkeys(row for row, _ in pairs))


def write_corpus(path: Path, tasks: Sequence[Task], mirror: Path | None, size: int) -> None:
    """The tasks' training rows, one text a line, until the size is reached; from the start again where they do not suffice."""
    lines = [text for task in tasks for text in training_texts(task, mirror)]
    written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            for line in lines:
                written += len(line.encode()) + 1
                file.write(line + "\n")
                if written >= size:
                    return


def training_texts(task: Task, mirror: Path | None) -> list[str]:
    table = load_rows(task, "train", mirror).table
    columns = [column.to_pylist() for column in table.columns if pa.types.is_string(column.type)]
    return [" ".join((text or "").split()) for row in zip(*columns, strict=True) for text in row]


def with_flanlab(rows: Sequence[EvaluatedRow], corpus: Path) -> Verdicts:
    table, _ = find_overlaps(rows, read_corpus([corpus]), SIZES, frequent_in="nowhere")
    return {
        (record["task"], record["row"], record["n"])
        for record in table.select(["task", "row", "n", "compared", "verdict"]).to_pylist()
        if record["verdict"] == "overlapping" and record["compared"] == "input"
    }


def with_sets_of_tuples(rows: Sequence[EvaluatedRow], corpus: Path) -> Verdicts:
    """As one would write it first: a set of tuples, and every tuple of the corpus looked up in it."""
    wanted: dict[tuple[str, ...], list[tuple[str, int, int]]] = {}
    for row in rows:
        text = words(row.text("input"))
        for size in SIZES:
            length = min(size, len(text)) if len(text) >= SHORTEST else 0
            for at in range(len(text) - length + 1 if length else 0):
                wanted.setdefault(tuple(text[at : at + length]), []).append((row.task, row.row, size))
    lengths = sorted({len(gram) for gram in wanted})
    sought, held = set(wanted), set()
    with corpus.open(encoding="utf-8") as file:
        before: list[str] = []
        for line in file:
            text = before + words(line)
            for length in lengths:
                for at in range(len(text) - length + 1):
                    gram = tuple(text[at : at + length])
                    if gram in sought:
                        held.add(gram)
            before = text[-max(lengths) + 1 :]
    return {one for gram in held for one in wanted[gram]}


def print_table(summary: dict[str, Any]) -> None:
    print(f"{summary['megabytes']} MB, {summary['rows']} rows, {summary['overlapping']} overlap at one n")
    print(f"{'':18}{'MB/s':>8}{'MB/s of processor':>20}")
    for name in ("flanlab", "sets_of_tuples"):
        clock, processor = summary["megabytes_per_second"][name], summary["megabytes_per_processor_second"][name]
        print(f"{name:18}{clock:>8.2f}{processor:>20.2f}")
    print(f"ratio {summary['ratio']:.2f}, of the processor {summary['processor_ratio']:.2f}")


if __name__ == "__main__":
    main()
