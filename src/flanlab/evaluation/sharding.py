"""Several processes share an evaluation: which shard falls to which of them, and how they wait for each other.

All they have in common is the folder. Each writes the shards that fall to it, and waits for the others' files to appear; so
there is no collective that could time out while somebody works, and what is done stays done, whoever dies. Each process
shows that it is alive by a file that it rewrites every few seconds, and notices by theirs when others are gone.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import signal
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NoReturn

from flanlab.errors import FlanlabError
from flanlab.files import write_text
from flanlab.processes import numbered

_SECONDS_BETWEEN_BEATS = 2.0
_SILENCE_SECONDS = 90.0
"""A process from which nothing is heard for so long is gone; loading a model may keep one from its files for a while."""


class Team:
    """The processes that share the evaluation in a folder: this one is `rank` of 0 to `count` - 1."""

    def __init__(self, folder: Path, rank: int = 0, count: int = 1) -> None:
        self.rank = rank
        self.count = count
        self._folder = folder / ".processes"
        # A file may be left over from processes that were killed: alive is who changes it.
        self._last = {other: self._read(other) for other in range(count)}
        self._heard = dict.fromkeys(self._last, time.monotonic())
        self._met: set[int] = set()

    @property
    def speaks(self) -> bool:
        """Whether it is this process that speaks to people and computes results: the first."""
        return self.rank == 0

    def show_life(self) -> None:
        """Show the others, from now on until this process ends, that it is alive."""
        path = self._folder / str(self.rank)
        ends = threading.Event()

        def beat() -> None:
            for number in itertools.count():
                # One that fails (a full disk, the folder gone for a moment) is made good by the next.
                with contextlib.suppress(OSError):
                    write_text(path, f"{os.getpid()} {number}")
                if ends.wait(_SECONDS_BETWEEN_BEATS):
                    return

        def leave() -> None:
            ends.set()
            thread.join()
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._folder.rmdir()  # by whoever leaves last

        # A daemon, so that it ends with the process however that ends. After a kill the file stays, and falls silent.
        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        atexit.register(leave)

    def gone(self, others: Collection[int]) -> dict[int, str]:
        """Those of some processes that have ended or fallen silent, and which of the two."""
        found: dict[int, str] = {}
        now = time.monotonic()
        for other in others:
            content = self._read(other)
            if content is None and other in self._met:
                found[other] = "has ended"
            elif content != self._last[other]:
                self._last[other], self._heard[other] = content, now
                self._met.add(other)
            elif now - self._heard[other] > _SILENCE_SECONDS:
                found[other] = f"has given no sign of life for {_SILENCE_SECONDS:.0f} s"
        return found

    def end_without(self, gone: Mapping[int, str]) -> NoReturn:
        """End this process, since others are gone whose work is waited for.

        Raises:
            FlanlabError: says who is gone, and how to go on; in the first process that is still there.
            SystemExit: in the others, since people want to read it once.
        """
        if self.rank > min(set(range(self.count)) - gone.keys()):
            raise SystemExit(1)
        named = " and ".join(f"process {other} {what}" for other, what in sorted(gone.items()))
        raise FlanlabError(
            f"Of {self.count} processes (0 to {self.count - 1}), {named}, but its share is not done.",
            hint="See what it said last; all must see the same folder. What is done is kept: the same command goes on, with"
            " any number of processes.",
        )

    def stop(self, *_: object) -> NoReturn:
        """End this process on SIGTERM, by which a launcher ends the rest where one has died; the first says so."""
        if not self.speaks:
            raise SystemExit(1)
        raise FlanlabError(
            "Stopped by SIGTERM, which torchrun sends where another process has died.",
            hint="See what that one said last. What is done is kept: the same command goes on, with any number of processes.",
        )

    def _read(self, rank: int) -> str | None:
        try:
            return (self._folder / str(rank)).read_text(encoding="utf-8")
        except OSError:
            return None


@functools.cache
def team_in(folder: Path) -> Team:
    """The processes that torchrun has started (or whoever sets RANK and WORLD_SIZE as it does); else this one alone.

    Raises:
        FlanlabError: the variables make no sense.
    """
    rank, count = numbered()
    if count == 1:
        return Team(folder)
    team = Team(folder, rank, count)
    team.show_life()
    # A run that also trains has a way of its own to end.
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, team.stop)
    return team
