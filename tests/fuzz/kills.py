"""Kill runs at random moments with SIGKILL, start them again, and compare what they leave with an undisturbed run.

    python -m tests.fuzz.kills --minutes 5 --seed 0

Of a tiny model: a run (training with a checkpoint after each step, evaluation before and after), an evaluation alone, and
`predict`. Each is forked from a process that has imported everything, so a start costs nothing. A run must end with bit-identical
weights and the same predictions and scores; `predict` with the same file.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import torch

from flanlab import api
from flanlab.experiments.predict_rows import predict
from flanlab.experiments.run import run_recipe
from flanlab.models.loading import load_model
from flanlab.progress import console
from tests.tiny import recipe_content, save_tiny, write_recipe

_VARYING = ("seconds", "date", "created")
Work = Callable[[Path], object]


def works(home: Path) -> dict[str, Work]:
    """What is killed, by name; each takes the folder that it writes into."""
    model = save_tiny(home / "model", "llama")
    recipe = write_recipe(home, recipe_content(model, steps=6, checkpoint_minutes=1e-9))
    tasks, settings = home / "tasks", {"rows": 12, "new_tokens": 4}
    return {
        "run": lambda out: run_recipe(recipe, out),
        "evaluate": lambda out: api.evaluate(str(model), tasks / "comments.yaml", out=out, **settings),
        "predict": lambda out: predict(str(model), tasks / "comments.yaml", tasks / "comments.jsonl", out / "answers.jsonl"),
    }


def left(folder: Path) -> dict[str, object]:
    """What a run leaves, file by file, without times."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".parquet":
            found[name] = pq.ParquetFile(path).read().to_pylist()
        elif path.name == "results.json":
            content = json.loads(path.read_text(encoding="utf-8"))
            found[name] = {key: value for key, value in content.items() if key not in _VARYING}
        elif path.suffix == ".safetensors" and "checkpoint" not in name:
            found[name] = path.read_bytes()
        elif path.name == "answers.jsonl":
            found[name] = path.read_text(encoding="utf-8")
        elif ".tmp" in path.name or ".partial" in path.name:
            found[name] = "left over"
    return found


def start(work: Work, out: Path) -> int:
    """Do some work in a child process; returns its id."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    console.quiet = True
    status = 1
    try:
        work(out)
        status = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def killed(work: Work, out: Path, random: Random, seconds: float) -> tuple[int, int]:
    """Start and kill until a start ends by itself. Returns the kills, and the status of the last start."""
    kills = 0
    while True:
        child = start(work, out)
        # Later and later, so that it ends some time; the first kills come early.
        deadline = time.monotonic() + random.uniform(0, seconds * (1 + kills / 8))
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return kills, status
            time.sleep(0.002)
        os.killpg(os.getpgid(child), signal.SIGKILL) if os.getpgid(child) == child else os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            return kills, status
        kills += 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.kills", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)  # a child of fork has no threads
    random = Random(given.seed)
    end = time.monotonic() + 60 * given.minutes
    kills = dict.fromkeys(("run", "evaluate", "predict"), 0)
    rounds = 0
    faults = []
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        whole: dict[str, tuple[dict[str, object], float]] = {}
        jobs = works(home)
        load_model(str(home / "model"))  # imports everything before the first fork
        while time.monotonic() < end:
            for name, work in jobs.items():
                if name not in whole:
                    began = time.monotonic()
                    (home / "whole" / name).mkdir(parents=True)
                    _, status = os.waitpid(start(work, home / "whole" / name), 0)
                    if status:
                        sys.exit(f"{name} fails undisturbed")
                    whole[name] = left(home / "whole" / name), time.monotonic() - began
                out = home / f"{name}-{rounds}"
                out.mkdir()
                count, status = killed(work, out, random, whole[name][1])
                kills[name] += count
                theirs, ours = whole[name][0], left(out)
                if status:
                    faults.append(f"{name}, round {rounds}: fails after {count} kills")
                elif differing := sorted(key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key)):
                    faults.append(f"{name}, round {rounds}: after {count} kills these differ: {', '.join(differing[:5])}")
            rounds += 1
    print(f"{rounds} rounds; kills: {', '.join(f'{name} {count}' for name, count in kills.items())}; {len(faults)} faults")
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
