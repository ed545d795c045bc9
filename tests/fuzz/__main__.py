"""Run targets in turn, seeded, until the time is up; print each kind of fault once, with a file that shows it."""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.oracle import Case, begin, fault_of

Target = Callable[[Random, Path], Case]
_CASES = 20_000
"""So many are carried out by one child."""


def run(targets: dict[str, Target], *, seed: int, count: int | None, seconds: float, keep: Path) -> tuple[dict, dict]:
    """Inputs by target, and faults by kind with the seeds that show them. A case depends on target, seed and number alone."""
    inputs: collections.Counter[str] = collections.Counter()
    faults: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as place:
        for name, number, fault in _outcomes(targets, seed, count, time.monotonic() + seconds, Path(place)):
            inputs[name] += 1
            if fault is not None:
                seen = faults.setdefault(f"{name}: {fault}", [])
                seen.append(f"{seed}/{number}")
                if len(seen) == 1:
                    print(f"{name} {seed}/{number}: {fault}", file=sys.stderr, flush=True)
                    shutil.copytree(Path(place) / name, keep / f"{name}-{seed}-{number}", dirs_exist_ok=True)
    return inputs, faults


def _outcomes(
    targets: dict[str, Target], seed: int, count: int | None, end: float, place: Path
) -> Iterator[tuple[str, int, str | None]]:
    """Target, number and fault of each case. A case may end its process (a fault in a library), so a child carries them out."""
    names = list(targets)
    most = sys.maxsize if count is None else count * len(names)
    fork = multiprocessing.get_context("fork")
    done = -1
    while done + 1 < most and time.monotonic() < end:
        ours, theirs = fork.Pipe()
        # A new child now and then: the address space of one grows, and it is limited.
        cases = range(done + 1, min(most, done + 1 + _CASES))
        child = fork.Process(target=_carry_out, args=(targets, seed, cases, end, place, theirs))
        child.start()
        theirs.close()
        try:
            while True:
                done, fault = ours.recv()
                yield names[done % len(names)], done // len(names), fault
                if fault is not None:
                    ours.send("kept")
        except EOFError:
            child.join()
        if child.exitcode:
            done += 1
            yield names[done % len(names)], done // len(names), f"ends the process with status {child.exitcode}"


def _carry_out(
    targets: dict[str, Target], seed: int, cases: range, end: float, place: Path, outcomes: Connection[Any, Any]
) -> None:
    for case in cases:
        if time.monotonic() > end:
            return
        number, name = case // len(targets), list(targets)[case % len(targets)]
        folder = place / name
        folder.mkdir(exist_ok=True)
        random = Random(zlib.crc32(f"{name} {seed} {number}".encode()))
        fault = fault_of(targets[name](random, folder))
        outcomes.send((case, fault))
        if fault is not None:
            outcomes.recv()  # the next case writes into the same folder


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--count", type=int, help="inputs of each target, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", help="a target, or the beginning of some names; may be repeated")
    parser.add_argument("--torch", action="store_true", help="also checkpoints, models and servers, which need torch")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-faults"), help="folder for inputs that show a fault")
    given = parser.parse_args()
    from tests.fuzz.files import TARGETS

    targets: dict[str, Target] = dict(TARGETS)
    with_torch = given.torch or (given.target and not any(name.startswith(t) for name in targets for t in given.target))
    if with_torch:
        from tests.fuzz import models, servers

        targets |= models.TARGETS | servers.TARGETS
    if given.target:
        targets = {name: target for name, target in targets.items() if name.startswith(tuple(given.target))}
    if not targets:
        parser.error(f"no such target; there are: {', '.join(TARGETS)}, and with --torch checkpoints, models and servers")
    begin(memory_limit=None if with_torch else 6 << 30)
    inputs, faults = run(targets, seed=given.seed, count=given.count, seconds=60 * given.minutes, keep=given.keep)
    for name, times in inputs.items():
        print(f"{times:8,} {name}")
    print(f"{sum(inputs.values()):8,} inputs, {len(faults)} kinds of faults")
    for kind, cases in faults.items():
        print(f"  {len(cases)} times {kind} (first: {cases[0]})")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
