"""Train, and be killed: `python -m tests.training.killed MODEL TASKS FOLDER SEED KILLS`.

Everything is loaded once, then each sitting is a process of its own, forked off and sent SIGKILL at a random moment after it
has written its share of the log; the last is left to end. Prints a line for each sitting killed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from flanlab.data.mixture import Mixture
from flanlab.models.loading import LoadedModel, load_model
from tests.training.stream import make_settings, read_mixture, train_tiny

STEPS = 80


def sitting(loaded: LoadedModel, mixture: Mixture, folder: Path, waits: bool) -> int:
    """Fork off a process that trains, to the end if it may; this one's model stays as it is.

    One that `waits` does so at its end until it is killed: there is something left to kill on a machine of any speed.
    """
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        train_tiny(loaded, mixture, make_settings(steps=STEPS), folder)
        if waits:
            signal.pause()
        code = 0
    finally:
        os._exit(code)


def steps_logged(folder: Path) -> int:
    log = folder / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def has_ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main() -> None:
    folder, seed, kills = Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
    # One thread: a fork does not take others with it.
    torch.set_num_threads(1)
    loaded, mixture = load_model(sys.argv[1], device="cpu"), read_mixture(Path(sys.argv[2]))
    draw = random.Random(seed)
    started = time.monotonic()
    _, status = os.waitpid(sitting(loaded, mixture, folder.with_name("whole"), waits=False), 0)
    assert status == 0
    step_seconds = (time.monotonic() - started) / STEPS
    # By steps, not by the clock: how long a step takes changes from one sitting to the next.
    for number, step in enumerate(sorted(draw.choices(range(STEPS * 9 // 10), k=kills)), start=1):
        child = sitting(loaded, mixture, folder, waits=True)
        while steps_logged(folder) < step and not has_ended(child):
            time.sleep(step_seconds / 4)
        time.sleep(draw.uniform(0, 3 * step_seconds))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert status == signal.SIGKILL, f"sitting {number} failed by itself"
        saved = max((path.name for path in folder.glob("step-*")), default="nothing")
        print(f"sitting {number}: killed from step {step} on, saved {saved}", flush=True)
    _, status = os.waitpid(sitting(loaded, mixture, folder, waits=False), 0)
    assert status == 0


if __name__ == "__main__":
    main()
