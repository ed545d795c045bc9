"""Train, and be killed: `python -m tests.training.killed MODEL TASKS FOLDER SEED KILLS`.

Everything is loaded once, then each sitting is a process of its own, forked off and sent SIGKILL at a random moment; the last
is left to end. Prints the number of sittings killed and the most steps that one of them began anew.
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

STEPS = 150


def sitting(loaded: LoadedModel, mixture: Mixture, folder: Path) -> int:
    """Fork off a process that trains, to the end if it may; this one's model stays as it is."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        train_tiny(loaded, mixture, make_settings(steps=STEPS), folder)
        code = 0
    finally:
        os._exit(code)


def main() -> None:
    folder, seed, kills = Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
    # One thread: a fork does not take others with it.
    torch.set_num_threads(1)
    loaded, mixture = load_model(sys.argv[1], device="cpu"), read_mixture(Path(sys.argv[2]))
    draw = random.Random(seed)
    started = time.monotonic()
    _, status = os.waitpid(sitting(loaded, mixture, folder.with_name("whole")), 0)
    assert status == 0
    whole = time.monotonic() - started
    for number in range(kills):
        child = sitting(loaded, mixture, folder)
        delay = draw.uniform(0, 1.8 * whole / kills)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        saved = max((path.name for path in folder.glob("step-*")), default="nothing")
        print(f"sitting {number + 1}: after {delay:.3f} s, status {status}, saved {saved}", flush=True)
        assert status == signal.SIGKILL, "it had ended before: there was nothing left to kill"
    _, status = os.waitpid(sitting(loaded, mixture, folder), 0)
    assert status == 0


if __name__ == "__main__":
    main()
