"""Rows to tokens side by side: seqio, promptsource and flanlab on the same rows and templates, one run, one machine.

Every turn is a process of its own on one core; the turns alternate, so that whatever else the machine does strikes all. The
other two run in interpreters of their own, since they need other libraries: see README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import AutoTokenizer

from flanlab.data.encoding import TextEncoder
from flanlab.data.mirror import mirror_from_environment
from flanlab.data.mixture import EncodedExample, Mixture, MixtureSettings
from flanlab.data.rendering import prepare_row, render
from flanlab.data.sources import Rows, load_rows
from flanlab.errors import FlanlabError
from flanlab.models.built_in import SMOLLM2
from flanlab.models.sources import base_source
from flanlab.progress import say
from flanlab.tasks.loading import load_collection, select_tasks
from flanlab.tasks.schema import Task, Template

SEED = 0
WARM_UP = 2_000
"""Examples before the clock starts: templates compiled, graphs traced, caches filled, on every side."""
ROWS_PER_TASK = 3_000
LIBRARY_TASKS = (
    "ag_news",
    "arc.easy",
    "boolq",
    "common_gen",
    "cosmos_qa",
    "hellaswag",
    "mrpc",
    "rte",
    "sst2",
    "trec",
    "winogrande",
    "wmt16_de_en",
)
"""One of each cluster."""
PLAIN_TEMPLATE = re.compile(r"(?:[^{}]|\{\{ *\w+ *\}\})*")
"""Text and names alone: what every side can write in its own way."""


def main() -> None:
    arguments = parse_arguments()
    if arguments.side == "flanlab_streamed":
        print(json.dumps(run_streamed(arguments.folder, arguments.examples)))
        return
    if arguments.side:
        print(json.dumps(run_side(arguments.side, arguments.folder, arguments.examples)))
        return
    mirror: Path | None = arguments.mirror or mirror_from_environment()
    sides: dict[str, list[str]] = {}
    own = [sys.executable, __file__, "--examples", str(arguments.examples)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, str(arguments.model), mirror)
        for side in ("flanlab", "flanlab_published_rows"):
            sides[side] = [*own, "--side", side, "--folder", name]
        for side, python in (("promptsource", arguments.promptsource_python), ("seqio", arguments.seqio_python)):
            if python is None:
                say(f"{side} is left out: name an interpreter that has it with --{side}-python.")
            else:
                script = Path(__file__).with_name(f"rendering_{side}.py")
                sides[side] = [str(python), str(script), name, str(arguments.examples), str(WARM_UP)]
        turns: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for number in range(arguments.rounds):
            for side, command in sides.items():
                turns[side].append(turn_on_one_core(command, arguments.core))
                say(f"round {number + 1}, {side}: {describe(turns[side][-1])}")
        streamed = None
        if arguments.streamed:
            command = [sys.executable, __file__, "--side", "flanlab_streamed", "--folder", name]
            streamed = turn_on_one_core([*command, "--examples", str(arguments.streamed)], arguments.core)
    summary = {**summarize(turns, arguments.core), "streamed": streamed}
    if arguments.json:
        print(json.dumps(summary))
    else:
        print_table(summary)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path, help="folder with Hub data sets (else FLANLAB_MIRROR, else the sampler)")
    parser.add_argument("--model", default=SMOLLM2, help="folder or Hub id of the model whose tokenizer is used")
    parser.add_argument("--seqio-python", type=Path, help="interpreter that has seqio")
    parser.add_argument("--promptsource-python", type=Path, help="interpreter that has promptsource and transformers")
    parser.add_argument("--examples", type=int, default=20_000, help="examples of each turn")
    parser.add_argument("--rounds", type=int, default=3, help="how often the sides take turns")
    parser.add_argument("--core", type=int, default=0, help="the one core that every side runs on")
    parser.add_argument("--streamed", type=int, default=0, help="also stream so many examples, and watch the memory")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def write_inputs(folder: Path, model: str, mirror: Path | None) -> None:
    """Rows with their fields worked out, and templates of nothing but text and names, for all sides alike."""
    AutoTokenizer.from_pretrained(base_source(model)).save_pretrained(folder / "tokenizer")
    (folder / "mirror.json").write_text(json.dumps(str(mirror) if mirror else None))
    tasks = [task for task in chosen_tasks(mirror) if plain_templates(task)]
    # A part of a task, such as arc.easy, is a task of its own here.
    inputs = {task.name.replace(".", "_"): plain_task(task, load_rows(task, "train", mirror)) for task in tasks}
    (folder / "tasks.json").write_text(json.dumps(inputs), encoding="utf-8")
    templates = sum(len(task["templates"]) for task in inputs.values())
    rows = sum(len(task["answers"]) for task in inputs.values())
    say(f"{len(inputs)} tasks, {rows} rows, {templates} templates")


def chosen_tasks(mirror: Path | None) -> Sequence[Task]:
    return select_tasks(load_collection("library"), LIBRARY_TASKS) if mirror else load_collection("sampler")


def plain_task(task: Task, rows: Rows) -> dict[str, Any]:
    """A task as every side can read it: columns of text, options for each row or none, answers, and plain templates."""
    columns: dict[str, list[str]] = {}
    options: list[list[str]] = []
    answers: list[str] = []
    forward = task.forward_templates()[0]
    for index in range(len(rows)):
        try:
            row = prepare_row(task, rows[index], index)
            example = render(task, forward, row)
        except FlanlabError:
            continue
        fields = {name: " ".join(value) if isinstance(value, list) else str(value) for name, value in row.fields.items()}
        # seqio's batches need the same number of options everywhere.
        if not all(fields.values()) or (options and len(example.options) != len(options[0])) or "|||" in str(fields):
            continue
        for name, value in fields.items():
            columns.setdefault(name, []).append(value)
        options.append(list(example.options))
        answers.append(example.target)
        if len(answers) == ROWS_PER_TASK:
            break
    return {
        "cluster": task.clusters[0].value,
        "columns": columns,
        "options": options if options[0] else None,
        "answers": answers,
        "templates": [template.model_dump(include={"prompt", "target", "direction"}) for template in plain_templates(task)],
    }


def plain_templates(task: Task) -> list[Template]:
    return [
        template
        for template in task.templates
        if PLAIN_TEMPLATE.fullmatch(template.prompt) and PLAIN_TEMPLATE.fullmatch(template.target) and not template.options
    ]


def turn_on_one_core(command: list[str], core: int) -> dict[str, Any]:
    quiet = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    output = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **quiet},
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    ).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def run_side(side: str, folder: Path, examples: int) -> dict[str, Any]:
    """flanlab's turn: examples and tokens made within the time measured."""
    encoder = TextEncoder(AutoTokenizer.from_pretrained(folder / "tokenizer"))
    mixture = plain_mixture(folder) if side == "flanlab" else published_mixture(folder)
    for _ in mixture.stream(range(WARM_UP), encoder):
        pass
    started, processor_started = time.perf_counter(), time.process_time()
    made = [0, 0, 0]
    for found in mixture.stream(range(WARM_UP, WARM_UP + examples), encoder):
        if isinstance(found, EncodedExample):
            for place, number in enumerate((1, found.length, len(found.example.prompt) + len(found.example.target))):
                made[place] += number
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - processor_started,
        "examples": made[0],
        "tokens": made[1],
        "characters": made[2],
    }


def run_streamed(folder: Path, examples: int) -> dict[str, Any]:
    """Stream many examples of the tasks as they are, and look at the resident memory after each tenth."""
    encoder = TextEncoder(AutoTokenizer.from_pretrained(folder / "tokenizer"))
    mixture = published_mixture(folder)
    started = time.perf_counter()
    resident = [resident_megabytes()]
    for number, _ in enumerate(mixture.stream(range(examples), encoder), start=1):
        if number % (examples // 10) == 0:
            resident.append(resident_megabytes())
    return {"examples": examples, "seconds": time.perf_counter() - started, "resident_megabytes": resident}


def resident_megabytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000


def plain_mixture(folder: Path) -> Mixture:
    inputs = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    tasks, rows = [], {}
    for name, content in inputs.items():
        options = content["options"]
        fixed = options and all(row == options[0] for row in options)
        tasks.append(
            Task.model_validate(
                {
                    "name": name,
                    "cluster": content["cluster"],
                    "source": {"files": {"train": "none.jsonl"}},
                    "licence": "",
                    "options": options[0] if fixed else "{{ all_options }}" if options else None,
                    "answer": "{{ right_answer }}",
                    "metrics": ["accuracy" if options else "exact_match"],
                    "templates": content["templates"],
                }
            )
        )
        columns = {**content["columns"], "right_answer": content["answers"]}
        if options and not fixed:
            columns["all_options"] = options
        rows[name] = Rows(pa.table(columns), range(len(content["answers"])), "")
    return Mixture(tasks, rows, MixtureSettings(), SEED)


def published_mixture(folder: Path) -> Mixture:
    """The tasks as they are: rows as published, and every template."""
    name = json.loads((folder / "mirror.json").read_text())
    mirror = Path(name) if name else None
    tasks = chosen_tasks(mirror)
    return Mixture(tasks, {task.name: load_rows(task, "train", mirror) for task in tasks}, MixtureSettings(), SEED)


def describe(turn: dict[str, Any]) -> str:
    rate = turn["examples"] / turn["seconds"]
    return f"{turn['examples']} examples, {turn['seconds']:.1f} s (processor {turn['processor_seconds']:.1f} s), {rate:.0f}/s"


def summarize(turns: dict[str, list[dict[str, Any]]], core: int) -> dict[str, Any]:
    def total(side: str, what: str) -> float:
        return float(sum(turn[what] for turn in turns[side]))

    def rate(side: str, seconds: str = "seconds") -> float:
        return total(side, "examples") / total(side, seconds)

    return {
        "core": core,
        "versions": {side: turn[0].get("version") for side, turn in turns.items()},
        "seconds": {side: [round(turn["seconds"], 2) for turn in made] for side, made in turns.items()},
        "examples_per_second": {side: rate(side) for side in turns},
        "examples_per_processor_second": {side: rate(side, "processor_seconds") for side in turns},
        "characters_per_example": {side: total(side, "characters") / total(side, "examples") for side in turns},
        "tokens_per_example": {side: total(side, "tokens") / total(side, "examples") for side in turns},
        "flanlab_vs": {side: rate("flanlab") / rate(side) for side in turns},
        "flanlab_vs_processor": {
            side: rate("flanlab", "processor_seconds") / rate(side, "processor_seconds") for side in turns
        },
    }


def print_table(summary: dict[str, Any]) -> None:
    print(f"{'':24}{'examples/s':>12}{'flanlab is':>12}{'cpu':>9}{'characters':>12}{'tokens':>9}")
    for side, rate in summary["examples_per_second"].items():
        print(
            f"{side:24}{rate:>12.0f}{summary['flanlab_vs'][side]:>11.2f}x{summary['flanlab_vs_processor'][side]:>8.2f}x"
            f"{summary['characters_per_example'][side]:>12.0f}{summary['tokens_per_example'][side]:>9.0f}"
        )
    if streamed := summary["streamed"]:
        memory = ", ".join(map(str, streamed["resident_megabytes"]))
        print(f"{streamed['examples']} examples streamed in {streamed['seconds']:.0f} s; resident MB by tenths: {memory}")


if __name__ == "__main__":
    main()
