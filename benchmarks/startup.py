"""How long commands take to their first output, to their end, and (`flan eval`, `flan run`) to their first saved answers.

    python benchmarks/startup.py --mirror DIR        # DIR: a mirror with glue/rte

Each command runs as a process of its own. Processor time is printed beside the clock, because it depends less on what else the
machine does.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

COLUMNS = ("first output", "first answers", "end")


def measure(command: list[str], folder: Path, *, only_first: bool) -> dict[str, tuple[float, float]]:
    """Seconds on the clock and of processor time to each event.

    `folder` is where predictions appear. `only_first` ends the command with the first of them.
    """
    times: dict[str, tuple[float, float]] = {}
    start = time.perf_counter()
    process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def note(event: str) -> None:
        used = process.cpu_times()
        times[event] = time.perf_counter() - start, used.user + used.system

    def watch() -> None:
        # A process that has ended but is not waited for still has its times.
        while process.status() != psutil.STATUS_ZOMBIE:
            if "first answers" not in times and next(folder.rglob("shard-*.parquet"), None):
                note("first answers")
                if only_first:
                    process.terminate()
                    return
            time.sleep(0.01)
        note("end")

    watching = threading.Thread(target=watch)
    watching.start()
    output = process.stdout.read(1)
    note("first output")
    output += process.stdout.read()
    watching.join()
    if process.wait() and not only_first:
        sys.exit(f"{shlex.join(command)} failed:\n{output.decode(errors='replace')}")
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mirror", required=True, help="a mirror folder that has the rows of RTE")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="should be in the cache already")
    parser.add_argument("--rows", default="8", help="rows to evaluate")
    parser.add_argument("--only", help="only the command of this name")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "eval"
        rows = ["--mirror", given.mirror]
        commands = {
            "--help": ["--help"],
            "tasks list": ["tasks", "list"],
            "tasks show rte": ["tasks", "show", "rte", *rows],
            "tasks lint rte": ["tasks", "lint", "rte", *rows],
            "eval rte": ["eval", "rte", "--model", given.model, "--rows", given.rows, "--out", str(folder), *rows],
            "report": ["report", str(folder)],
            "compare": ["compare", str(folder), str(folder)],
            "run": ["run", "quickstart", "--model", given.model, "--out", str(folder.with_name("run"))],
        }
        print(f"| command | {', s | '.join(f'{one}, clock, s | processor' for one in COLUMNS)}, s |")
        print("|---" * (1 + 2 * len(COLUMNS)) + "|")
        for name, arguments in commands.items():
            if given.only in (None, name) or (name == "eval rte" and given.only in ("report", "compare")):
                started = [sys.executable, "-m", "flanlab", *arguments]
                times = measure(started, Path(place) / name.partition(" ")[0], only_first=name == "run")
                cells = [f"{times[one][0]:.1f} | {times[one][1]:.1f}" if one in times else " | " for one in COLUMNS]
                print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
