"""The training stream side by side: `datasets` (map, interleave_datasets, save_to_disk) and flanlab on the same rows, one run.

datasets renders and tokenizes everything first and then reads it; flanlab renders each step as it is asked for. Every turn is a
process of its own with its own cache. The turns alternate, so that other load affects both. Memory is that of all
processes of a turn together, shared memory counted once (Linux: proportional set size).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

STARTED = time.time()
"""Before the imports that follow, as a warm start has to wait for them."""

import numpy as np  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from flanlab.data.encoding import TextEncoder  # noqa: E402
from flanlab.data.mirror import MissingDataError, mirror_from_environment  # noqa: E402
from flanlab.data.mixture import Mixture, MixtureSettings  # noqa: E402
from flanlab.data.rendering import open_row, render  # noqa: E402
from flanlab.data.sources import Rows, load_rows  # noqa: E402
from flanlab.models.built_in import SMOLLM2  # noqa: E402
from flanlab.models.sources import base_source  # noqa: E402
from flanlab.progress import say  # noqa: E402
from flanlab.tasks.loading import load_collection  # noqa: E402
from flanlab.tasks.schema import Task  # noqa: E402
from flanlab.training.stream import steps_of_examples  # noqa: E402

SEED = 0
EXAMPLES_PER_STEP = 64
SIDES = ("flanlab", "datasets")
TURNS = ("flanlab_streamed", "datasets_made", "datasets_streamed", "waiting")
_SECONDS_BETWEEN_LOOKS = 0.25


def main() -> None:
    arguments = parse_arguments()
    if arguments.turn:
        print(json.dumps(run_turn(arguments)))
        return
    sides = SIDES if arguments.side is None else (arguments.side,)
    turns: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        for number in range(arguments.rounds):
            for side in sides:
                for what in (turn for turn in TURNS if turn.startswith(side)):
                    result = turn_in_own_process(what, arguments, Path(name) / f"{side}-{number}")
                    turns.setdefault(what, []).append(result)
                    facts = {name: round(value, 2) for name, value in result.items() if isinstance(value, float)}
                    say(f"round {number + 1}, {what}: {facts}")
        if arguments.steps:
            turns["waiting"] = [turn_in_own_process("waiting", arguments, Path(name) / "flanlab-0")]
    summary = summarize(turns, sides, arguments)
    if arguments.json:
        print(json.dumps(summary))
    else:
        print_table(summary)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path, help="folder with Hub data sets (else FLANLAB_MIRROR, else the sampler)")
    parser.add_argument("--model", default=SMOLLM2, help="folder or Hub id of the model whose tokenizer is used")
    parser.add_argument("--examples", type=int, default=1_500_000, help="examples rendered and tokenized")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes of each side")
    parser.add_argument("--rounds", type=int, default=1, help="how often the sides take turns")
    parser.add_argument("--side", choices=SIDES, help="one side alone")
    parser.add_argument("--steps", type=int, default=0, help="also train this many steps, and log how long they wait")
    parser.add_argument("--folder", type=Path, help="where the caches are written, for as long as it runs")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--turn", choices=TURNS, help=argparse.SUPPRESS)
    return parser.parse_args()


def turn_in_own_process(turn: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run a turn with its caches in `folder`, and watch the memory of all its processes."""
    command = [sys.executable, __file__, *sys.argv[1:], "--turn", turn]
    caches = {"FLANLAB_CACHE": str(folder / "flanlab"), "HF_DATASETS_CACHE": str(folder / "datasets")}
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    model = base_source(arguments.model)
    environment = {**os.environ, **caches, **quiet, "BENCHMARK_MODEL": model, "BENCHMARK_FOLDER": str(folder)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    peak = [0]
    watcher = threading.Thread(target=watch, args=(process, peak))
    watcher.start()
    output, _ = process.communicate()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{turn} failed.")
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return {**result, "peak_bytes": peak[0]}


def watch(process: subprocess.Popen[str], peak: list[int]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], sum(map(proportional_bytes, family(process.pid))))
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def family(ancestor: int) -> list[int]:
    """A process and all that descend from it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [ancestor]
    for process in found:
        found.extend(child for child, parent in parents.items() if parent == process)
    return found


def proportional_bytes(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def run_turn(arguments: argparse.Namespace) -> dict[str, Any]:
    model, folder = os.environ["BENCHMARK_MODEL"], Path(os.environ["BENCHMARK_FOLDER"])
    if arguments.turn == "datasets_streamed":
        return stream_with_datasets(folder / "saved")
    encoder = TextEncoder(AutoTokenizer.from_pretrained(model))
    mixture = make_mixture(arguments.mirror or mirror_from_environment())
    if arguments.turn == "waiting":
        return wait_for_examples(mixture, model, arguments, folder)
    if arguments.turn == "flanlab_streamed":
        return stream_with_flanlab(mixture, encoder, arguments)
    return make_with_datasets(mixture, encoder, arguments, folder)


def make_mixture(mirror: Path | None) -> Mixture:
    """The library's tasks whose training rows are within reach; without a mirror the sampler."""
    rows: dict[str, Rows] = {}
    tasks: list[Task] = []
    for task in load_collection("library" if mirror else "sampler"):
        if task.has_split("train"):
            try:
                rows[task.name] = load_rows(task, "train", mirror)
            except MissingDataError:
                continue
            tasks.append(task)
    return Mixture(tasks, rows, MixtureSettings(), SEED)


def stream_with_flanlab(mixture: Mixture, encoder: TextEncoder, arguments: argparse.Namespace) -> dict[str, Any]:
    loaded = time.time()
    last = arguments.examples // EXAMPLES_PER_STEP
    workers = arguments.workers if arguments.workers > 1 else 0
    steps = steps_of_examples(mixture, encoder, EXAMPLES_PER_STEP, 0, last, workers)
    next(steps)
    first_step = time.time()
    next(steps_of_examples(mixture, encoder, EXAMPLES_PER_STEP, last // 2, last, 0))
    reached = time.time() - first_step
    started, processor_started = time.perf_counter(), processor_seconds()
    tokens, seen = 0, 0
    for examples in steps:
        seen += len(examples)
        tokens += sum(one.length for one in examples)
    return {
        "seconds_to_first_step": first_step - STARTED,
        "seconds_of_them_for_the_stream": first_step - loaded,
        "seconds_to_any_step": reached,
        "examples_per_second": seen / (time.perf_counter() - started),
        "examples_per_processor_second": seen / (processor_seconds() - processor_started),
        "tokens_per_example": tokens / seen,
        "tasks": len(mixture.tasks),
        "rows": sum(mixture.row_counts),
        "row_bytes": sum(rows.table.nbytes for rows in mixture.rows.values()),
    }


def make_with_datasets(mixture: Mixture, encoder: TextEncoder, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Map over each task's rows, then interleave and save: as many examples of each task as flanlab makes, each through a
    template chosen at random. Templates are filled in by flanlab's own renderer, so that only the rest differs.
    """
    from datasets import Dataset, disable_progress_bars, interleave_datasets

    disable_progress_bars()
    counts = Counter(address.task for address in mixture.addresses(range(arguments.examples)))
    started, processor_started = time.perf_counter(), processor_seconds()
    generator = np.random.default_rng(SEED)
    parts = []
    for number, task in enumerate(mixture.tasks):
        if not counts[number]:
            continue
        rows = mixture.rows[task.name]
        table = rows.table.take(list(rows.kept))
        if rows.turns is not None:
            table = table.append_column("turn", [list(rows.turns)])
        order = np.concatenate([generator.permutation(len(rows)) for _ in range(-(-counts[number] // len(rows)))])
        source = Dataset(table).select(order[: counts[number]])
        parts.append(
            source.map(
                _RenderAndTokenize(task, encoder),
                batched=True,
                with_indices=True,
                remove_columns=source.column_names,
                # Each begins with an import of everything: for fewer rows they cost more than they bring.
                num_proc=arguments.workers if arguments.workers > 1 and len(source) > 20_000 else None,
            )
        )
    shares = np.array([len(part) for part in parts]) / sum(map(len, parts))
    mixed = interleave_datasets(
        parts, probabilities=shares.tolist(), seed=SEED, stopping_strategy="all_exhausted_without_replacement"
    )
    mixed.save_to_disk(folder / "saved", num_proc=arguments.workers if arguments.workers > 1 else None)
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "processor_seconds": processor_seconds() - processor_started,
        "examples": len(mixed),
        "bytes": sum(path.stat().st_size for path in folder.rglob("*.arrow")),
    }


class _RenderAndTokenize:
    def __init__(self, task: Task, encoder: TextEncoder) -> None:
        self.task, self.tokenizer, self.end = task, encoder.tokenizer, encoder.end

    def __call__(self, batch: Mapping[str, Sequence[Any]], indices: Sequence[int]) -> dict[str, Any]:
        generator = np.random.default_rng([SEED, *indices[:1]])
        examples = []
        for place, index in enumerate(indices):
            row = open_row(self.task, {name: values[place] for name, values in batch.items()}, index)
            order = generator.permutation(len(row.options)).tolist() if row.options else None
            examples.append(render(self.task, int(generator.integers(len(self.task.templates))) + 1, row, order))
        settings = MixtureSettings()
        prompts = self._tokens([example.prompt + "\n" for example in examples], settings.prompt_tokens)
        targets = self._tokens([example.target for example in examples], settings.target_tokens - 1)
        return {
            "prompt": prompts,
            "target": [[*target, self.end] for target in targets],
            "template": [example.template for example in examples],
        }

    def _tokens(self, texts: list[str], most: int) -> list[list[int]]:
        made = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, truncation=True, max_length=most)
        ids: list[list[int]] = made["input_ids"]
        return ids


def stream_with_datasets(saved: Path) -> dict[str, Any]:
    from datasets import load_from_disk

    loaded = time.time()
    mixed = load_from_disk(saved)
    mixed[:EXAMPLES_PER_STEP]
    first_step = time.time()
    middle = len(mixed) // 2
    mixed[middle : middle + EXAMPLES_PER_STEP]
    reached = time.time() - first_step
    started = time.perf_counter()
    tokens, seen = 0, 0
    for step in mixed.iter(EXAMPLES_PER_STEP):
        seen += len(step["prompt"])
        tokens += sum(map(len, step["prompt"])) + sum(map(len, step["target"]))
    return {
        "seconds_to_first_step": first_step - STARTED,
        "seconds_of_them_for_the_stream": first_step - loaded,
        "seconds_to_any_step": reached,
        "examples_per_second": seen / (time.perf_counter() - started),
        "tokens_per_example": tokens / seen,
    }


def wait_for_examples(mixture: Mixture, model: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train some steps on the CPU, and see in the trainer's log what share of the time went by before the examples came."""
    from flanlab.models.loading import load_model
    from flanlab.training.settings import TrainingSettings
    from flanlab.training.trainer import train

    loaded = load_model(model, device="cpu")
    settings = TrainingSettings(
        steps=arguments.steps,
        tokens_per_step=1024,
        micro_batch_tokens=1280,
        optimizer="adafactor",
        learning_rate=1e-5,
        compute_dtype="float32",
        workers=0,
    )
    target = folder / arguments.turn
    train(loaded, mixture, settings, folder=target, training_key="", stamp={})
    log = [json.loads(line) for line in (target / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    waited, seconds = (sum(record[name] for record in log) for name in ("waiting_seconds", "seconds"))
    return {"steps": len(log), "examples": sum(record["examples"] for record in log), "waited": waited, "seconds": seconds}


def processor_seconds() -> float:
    """Of this process and of those it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def summarize(turns: Mapping[str, list[dict[str, Any]]], sides: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    summary: dict[str, Any] = {"datasets_version": version("datasets"), "workers": arguments.workers}
    if "flanlab" in sides:
        facts = turns["flanlab_streamed"][0]
        summary |= {name: facts.pop(name) for name in ("tasks", "rows", "row_bytes", "tokens_per_example")}
    for side in sides:
        streamed = turns[f"{side}_streamed"]
        summary[side] = {
            "peak_megabytes": max(turn["peak_bytes"] for turn in streamed) / 1e6,
            **{name: min(turn[name] for turn in streamed) for name in streamed[0] if name.startswith("seconds")},
            "examples_per_second": max(turn["examples_per_second"] for turn in streamed),
        }
    if "flanlab" in sides:
        rates = [turn["examples_per_processor_second"] for turn in turns["flanlab_streamed"]]
        summary["flanlab"]["examples_rendered_per_processor_second"] = max(rates)
    if made := turns.get("datasets_made"):
        rendered = sum(turn["examples"] for turn in made)
        summary["datasets"] |= {
            "examples_rendered_per_processor_second": rendered / sum(turn["processor_seconds"] for turn in made),
            "seconds_to_render": min(turn["seconds"] for turn in made),
            "rendering_peak_megabytes": max(turn["peak_bytes"] for turn in made) / 1e6,
            "written_megabytes": made[0]["bytes"] / 1e6,
        }
    if "waiting" in turns:
        [turn] = turns["waiting"]
        summary["waiting"] = {**turn, "share": turn["waited"] / turn["seconds"]}
    return summary


def print_table(summary: dict[str, Any]) -> None:
    sides = [side for side in SIDES if side in summary]
    print(f"{'':40}" + "".join(f"{side:>14}" for side in sides))
    for name in dict.fromkeys(name for side in sides for name in summary[side]):
        cells = (_cell(summary[side][name]) if name in summary[side] else "" for side in sides)
        print(f"{name.replace('_', ' '):40}" + "".join(f"{cell:>14}" for cell in cells))
    if facts := summary.get("waiting"):
        print(f"waiting: {facts['waited']:.3f} s of {facts['seconds']:.1f} s in {facts['steps']} steps ({facts['share']:.2%})")


def _cell(value: float) -> str:
    return f"{value:,.4g}" if value < 100 else f"{value:,.0f}"


if __name__ == "__main__":
    main()
