"""How long commands take to their first output, to their end, and (`eval`, `quickstart`) to their first saved answers.

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


def measure(command: list[str], folder: Path, *, until: str) -> dict[str, tuple[float, float]]:
    """Seconds on the clock and of processor time to each event.

    `folder` is where predictions appear. `until`, one of `COLUMNS`, is the event that the command is stopped at.
    """
    times: dict[str, tuple[float, float]] = {}
    start = time.perf_counter()
    process = psutil.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def note(event: str) -> None:
        used = process.cpu_times()
        times[event] = time.perf_counter() - start, used.user + used.system

    def watch() -> None:
        # A process that has ended but is not waited for still has its times.
        while process.status() != psutil.STATUS_ZOMBIE:
            if "first answers" not in times and next(folder.rglob("shard-*.parquet"), None):
                note("first answers")
                if until == "first answers":
                    process.terminate()
                    return
            time.sleep(0.01)
        note("end")

    watching = threading.Thread(target=watch)
    watching.start()
    output = process.stdout.read(1)
    note("first output")
    if until == "first output":
        process.terminate()
    output += process.stdout.read()
    watching.join()
    if process.wait() and until not in times:
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
        folder = Path(place)
        scored, table, made = folder / "scored", folder / "table.csv", folder / "made.yaml"
        table.write_text("text,label\n" + "".join(f"Visit {n} was {('bad', 'good')[n % 2]}.,{n % 2}\n" for n in range(16)))
        rows = ["--mirror", given.mirror]
        corpus = ["contamination", "everyday_goals", "--tasks", "sampler", "--corpus", str(table)]
        commands = [
            ("end", ["--help"]),
            ("end", ["models"]),
            ("end", ["tasks", "list"]),
            ("end", ["tasks", "show", "rte", *rows]),
            ("end", ["tasks", "lint", "rte", *rows]),
            ("end", ["tasks", "schema"]),
            (
                "end",
                ["tasks", "new", str(table), "--cluster", "sentiment", "--name", "ours", "--out", str(folder)],
            ),
            ("end", ["recipe", "schema"]),
            (
                "end",
                ["recipe", "new", "trec", "--hold-out", "NLI", "--model", given.model, "--minutes", "5", "--out", str(made)],
            ),
            ("end", ["recipe", "check", "quickstart"]),
            ("end", ["mix", "quickstart"]),
            ("end", ["power", "quickstart"]),
            ("end", ["train", "quickstart", "--plan"]),
            ("end", ["ablate", "instructions", "quickstart", "--plan"]),
            ("end", ["eval", "rte", "--model", given.model, "--rows", given.rows, "--out", str(scored), *rows]),
            ("end", ["report", str(scored)]),
            ("end", ["compare", str(scored), str(scored)]),
            ("end", ["export", "lm-eval", "rte", "--out", str(folder / "lm_eval"), *rows]),
            ("end", [*corpus, "--out", str(folder / "contamination")]),
            ("first output", ["ask", given.model, "Hello"]),
            (
                "first output",
                [
                    "predict",
                    given.model,
                    str(folder / "ours.yaml"),
                    "--input",
                    str(table),
                    "--out",
                    str(folder / "answers.csv"),
                ],
            ),
            ("first output", ["claims", "--plan", "quickstart"]),
            ("first output", ["ui", str(scored)]),
            ("first answers", ["quickstart", "--model", given.model, "--out", str(folder / "run")]),
        ]
        print(f"| command | {', s | '.join(f'{one}, clock, s | processor' for one in COLUMNS)}, s |")
        print("|---" * (1 + 2 * len(COLUMNS)) + "|")
        for until, arguments in commands:
            name = " ".join(arguments[: 2 if arguments[0] in ("tasks", "recipe", "export") else 1])
            if given.only in (None, name) or (name == "eval" and given.only in ("report", "compare")):
                answers = folder / "run" if name == "quickstart" else scored
                times = measure(
                    [sys.executable, "-m", "flanlab", *arguments],
                    answers if name in ("eval", "quickstart") else folder / "none",
                    until=until,
                )
                cells = [f"{times[one][0]:.1f} | {times[one][1]:.1f}" if one in times else " | " for one in COLUMNS]
                print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
