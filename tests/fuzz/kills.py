"""Kill work at random moments with SIGKILL, start it again until it ends, and compare what it leaves with undisturbed work.

    python -m tests.fuzz.kills --minutes 5 --seed 0 [--work sweep]

Of a tiny model: a run (training with a checkpoint after each step, evaluation before and after), the same run by one or two
processes, an evaluation, an evaluation of a server's model, `predict`, a sweep (`flan ablate`), and edits in the browser app. Each
is forked from a process that has imported everything, so a start costs nothing. Half of the kills come at a random time, and half
just before a random change of a file, since little time passes between the changes that belong together.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import multiprocessing
import os
import queue
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors.torch import load

from flanlab import api
from flanlab.experiments.predict_rows import predict
from flanlab.experiments.run import run_recipe
from flanlab.models.completions import Endpoint
from flanlab.models.loading import load_model
from flanlab.progress import console
from flanlab.ui.app import serve as serve_app
from flanlab.ui.workplace import open_workplace
from tests.command import flan
from tests.completions_server import serve
from tests.tiny import recipe_content, save_tiny, write_recipe
from tests.ui.test_app import fetch

_VARYING = ("seconds", "date", "created")
_SHOWN = {".safetensors": Path.read_bytes, ".yaml": Path.read_text, ".txt": Path.read_text, ".csv": Path.read_text}
_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree", "shutil.copyfile")
_ROUNDING = 1e-3
"""Largest difference where the number of processes changes: they add up in another order."""
_EDITS = 24
_MOST_KILLS = 40
"""Of one piece of work; then it is left to end."""
Work = Callable[[Path], object]


def works(home: Path, random: Random, address: str) -> dict[str, Work]:
    """What is killed, by name; each takes the folder that it writes into. `address` is a server's."""
    model = home / "model"
    recipe = write_recipe(home, recipe_content(model, steps=6, checkpoint_minutes=1e-9, keep_steps=[2]))
    tasks, settings = home / "tasks", {"rows": 12, "new_tokens": 4}
    endpoint = Endpoint(address, tokenizer=str(model), parallel=1)
    return {
        "run": lambda out: run_recipe(recipe, out),
        "processes": lambda out: _in_processes(random.choice((1, 2)), lambda: run_recipe(recipe, out)),
        "evaluate": lambda out: api.evaluate(str(model), tasks / "comments.yaml", out=out, **settings),
        "server": lambda out: api.evaluate("tiny", tasks / "comments.yaml", out=out, endpoint=endpoint, **settings),
        "predict": lambda out: predict(str(model), tasks / "comments.yaml", tasks / "comments.jsonl", out / "answers.jsonl"),
        "sweep": lambda out: _sweep(home / "recipe.yaml", out),
        "ui": lambda out: _edit(tasks, out),
    }


def _in_processes(count: int, work: Callable[[], object]) -> None:
    """Do some work by several processes, as torchrun starts them."""
    if count == 1:
        work()
        return
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    second = os.fork()
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if second else "1"
    work()
    if second and os.waitpid(second, 0)[1]:
        raise RuntimeError("the second process has failed")


def _sweep(recipe: Path, out: Path) -> None:
    ended = flan("ablate", "instructions", str(recipe), "--points", "name-full,full-full", "--out", str(out))
    if ended.returncode:
        raise RuntimeError(ended.stderr[-2000:])


def _edit(tasks: Path, out: Path) -> None:
    """Save versions of some tasks in the browser app, one after another, from the last one that is there."""
    workplace = open_workplace([], [], [str(tasks)], None, out / "my_tasks")
    said: queue.Queue[str] = queue.Queue()
    threading.Thread(target=serve_app, args=(workplace, 0, said.put), daemon=True).start()
    address = re.findall(r"http://\S+", said.get())[0]
    there = [int(task.templates[0].prompt.split()[1]) for name, task in workplace.tasks.items() if name.startswith("mine_")]
    last, told = max(there, default=-1), out / "saved.log"
    saved = told.read_text().count("\n") if told.exists() else 0
    if last + 1 not in (saved, saved + 1):
        raise RuntimeError(f"{saved} versions were saved, and the last one that is there is number {last}")
    for number in range(last + 1, _EDITS):
        name = f"mine_{number // 8}"
        form = {"name": name, "task": name if name in workplace.tasks else "comments", "template": "1"}
        form["prompt"] = f"Version {number} of {{{{ text }}}}" + " and so on" * 10_000
        status, text, _ = fetch(f"{address}/editor/save", form, Origin=address)
        if status != 200:
            raise RuntimeError(text)
        with told.open("a") as file:
            file.write("\n")


def left(folder: Path) -> dict[str, object]:
    """What some work leaves, file by file, without times."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name.startswith(".") and path.name.endswith((".tmp", ".partial", ".unfinished")):
            found[name] = "left over"
        elif path.suffix == ".parquet":
            found[name] = pq.ParquetFile(path).read().to_pylist()
        elif path.name in ("results.json", "sweep.json"):
            content = json.loads(path.read_text(encoding="utf-8"))
            found[name] = {key: value for key, value in content.items() if key not in _VARYING}
        elif path.name == "answers.jsonl":
            found[name] = path.read_text(encoding="utf-8")
        elif path.suffix in _SHOWN:
            found[name] = _SHOWN[path.suffix](path)
    return found


def same(one: Any, other: Any, within: float) -> bool:
    """Whether two things that were left are the same, or nearly so."""
    if one == other or not within or type(one) is not type(other):
        return bool(one == other)
    match one:
        case float():
            return math.isclose(one, other, rel_tol=within, abs_tol=within)
        case bytes():
            ours, theirs = load(one), load(other)
            return ours.keys() == theirs.keys() and all(
                torch.allclose(ours[name], theirs[name], rtol=within, atol=within) for name in ours
            )
        case dict():
            # Of a model: the hash of its weights.
            return one.keys() == other.keys() and all(same(one[key], other[key], within) for key in one if key != "identity")
        case list():
            return len(one) == len(other) and all(same(*pair, within) for pair in zip(one, other, strict=True))
    return False


def start(work: Work, out: Path, last: float) -> int:
    """Do some work in a child process, which kills itself before its `last` change of a file. Returns its id."""
    child = os.fork()
    with suppress(OSError):
        os.setpgid(child, child)  # by both, as nobody knows who comes first
    if child:
        return child
    console.quiet = True
    status, changes = 1, [0]

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        opens = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if opens or event in _CHANGES:
            changes[0] += 1
            if changes[0] == last:
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(count)
    try:
        work(out)
        if last == math.inf:
            out.with_suffix(".changes").write_text(str(changes[0]))
        status = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def killed(work: Work, out: Path, random: Random, seconds: float, changes: int) -> tuple[int, str]:
    """Start and kill until a start ends by itself. Returns the kills, and what is wrong with the last start."""
    for kills in range(_MOST_KILLS + 1):
        # Later and later, so that it ends some time; the first kills come early.
        share, by_time = random.uniform(0, 1 + kills / 8), random.random() < 0.5
        last = math.inf if by_time or kills == _MOST_KILLS else math.ceil(share * changes)
        child = start(work, out, last)
        deadline = time.monotonic() + (share * seconds if by_time and kills < _MOST_KILLS else 60 + 20 * seconds)
        ended = 0
        while not ended and time.monotonic() < deadline:
            time.sleep(0.002)
            ended, status = os.waitpid(child, os.WNOHANG)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if not ended:
            _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            return kills, "fails" if status else ""
        if not ended and not by_time:
            break
    return kills, "does not end"


def _serve(model: Path, answered: Path, address: Connection[Any, Any]) -> None:
    class Told(list[str]):
        def append(self, request: str) -> None:
            with answered.open("a") as file:
                file.write(request + "\n")

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # connections break when clients are killed
    with serve(model, answered=Told()) as served:
        address.send(served.url)
        signal.pause()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.kills", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, help="how often each piece of work is done, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", action="append", help="one of them; may be repeated")
    given = parser.parse_args()
    torch.set_num_threads(1)  # a child of fork has no threads
    random = Random(given.seed)
    end = time.monotonic() + 60 * given.minutes
    kills: collections.Counter[str] = collections.Counter()
    rounds = 0
    faults = []
    with tempfile.TemporaryDirectory() as place:
        home, answered = Path(place), Path(place) / "answered"
        save_tiny(home / "model", "llama")
        fork = multiprocessing.get_context("fork")
        ours, theirs = fork.Pipe()
        server = fork.Process(target=_serve, args=(home / "model", answered, theirs), daemon=True)
        server.start()
        jobs = works(home, random, ours.recv())
        if given.work:
            if not set(given.work) <= jobs.keys():
                parser.error(f"there is no such work; there are: {', '.join(jobs)}")
            jobs = {name: jobs[name] for name in given.work}
        load_model(str(home / "model"))  # imports everything before the first fork
        whole: dict[str, tuple[dict[str, object], float, int]] = {}
        while time.monotonic() < end and rounds != given.rounds:
            for name, work in jobs.items():
                if name not in whole:
                    began, out = time.monotonic(), home / "whole" / name
                    out.mkdir(parents=True)
                    if os.waitpid(start(work, out, math.inf), 0)[1]:
                        sys.exit(f"{name} fails undisturbed")
                    seconds, changes = time.monotonic() - began, int(out.with_suffix(".changes").read_text())
                    print(f"{name}: {seconds:.1f} s, {changes} changes of files", file=sys.stderr, flush=True)
                    whole[name] = left(out), seconds, changes
                out = home / f"{name}-{rounds}"
                out.mkdir()
                answered.write_text("")
                count, fault = killed(work, out, random, *whole[name][1:])
                kills[name] += count
                before, after = whole[name][0], left(out)
                within = _ROUNDING if name == "processes" else 0.0
                differing = sorted(key for key in {*before, *after} if not same(before.get(key), after.get(key), within))
                # A kill may come between an answer and its keeping.
                twice = collections.Counter(answered.read_text().splitlines())
                if twice.total() - len(twice) > count:
                    fault = fault or f"asks {twice.total() - len(twice)} times what the server has answered"
                if not fault and differing:
                    fault = f"leaves otherwise: {', '.join(differing[:5])}"
                if fault:
                    faults.append(f"{name}, round {rounds}: after {count} kills {fault}")
                    print(faults[-1], file=sys.stderr, flush=True)
            rounds += 1
            print(f"{rounds} rounds, {kills.total()} kills, {len(faults)} faults", file=sys.stderr, flush=True)
        server.terminate()
    print(f"{rounds} rounds; {kills.total()} kills: {', '.join(f'{name} {count}' for name, count in kills.items())}")
    print("\n".join([f"{len(faults)} faults", *faults]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
