"""How long commands take to their first output, to their end, and (`flan eval`) to their first saved answers.

    python benchmarks/startup.py --mirror DIR        # DIR: a mirror with glue/rte

Each command runs as a process of its own. Processor time (user) is printed beside the clock, because it depends less on what
else the machine does.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Times:
    """Seconds since the start of the process; NaN for what did not happen."""

    first_output: float = float("nan")
    first_answers: float = float("nan")
    end: float = float("nan")
    user: float = float("nan")


def measure(command: list[str], answers: Path | None = None) -> Times:
    """Run a command; `answers` is the folder in which its first predictions appear."""
    times = Times()
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None

    def watch() -> None:
        while answers is not None and times.end != times.end:
            if next(answers.rglob("shard-*.parquet"), None):
                times.first_answers = time.perf_counter() - start
                return
            time.sleep(0.02)

    watching = threading.Thread(target=watch)
    watching.start()
    output = process.stdout.read(1)
    times.first_output = time.perf_counter() - start
    output += process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    times.end, times.user = time.perf_counter() - start, usage.ru_utime
    watching.join()
    if status:
        sys.exit(f"{shlex.join(command)} failed:\n{output.decode(errors='replace')}")
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mirror", required=True, help="a mirror folder that has the rows of RTE")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="should be in the cache already")
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    flan = [sys.executable, "-m", "flanlab"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "eval"
        rows = ["--mirror", given.mirror]
        evaluation = ["eval", "rte", "--model", given.model, "--rows", "8", "--out", str(folder), *rows]
        commands = {
            "--help": ["--help"],
            "tasks list": ["tasks", "list"],
            "tasks show rte": ["tasks", "show", "rte", *rows],
            "tasks lint rte": ["tasks", "lint", "rte", *rows],
            "eval rte, 8 rows": evaluation,
            "report": ["report", str(folder)],
            "compare": ["compare", str(folder), str(folder)],
        }
        print("| command | first output, s | first answers, s | end, s | processor (user), s |\n|---|---|---|---|---|")
        for name, arguments in commands.items():
            for number in range(given.rounds):
                out = folder
                if arguments is evaluation and number:
                    out = folder.with_name(f"eval{number}")
                    arguments = [str(out) if part == str(folder) else part for part in evaluation]
                times = measure([*flan, *arguments], out / "predictions" if "eval" in name else None)
                answers = "" if times.first_answers != times.first_answers else f"{times.first_answers:.1f}"
                print(f"| {name} | {times.first_output:.1f} | {answers} | {times.end:.1f} | {times.user:.1f} |", flush=True)


if __name__ == "__main__":
    main()
