"""A module started as several processes by torchrun, as a child that ends with this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def launch(module: str, arguments: Sequence[str], processes: int, log: Path, *, threads: int = 1) -> int:
    """Run `python -m MODULE ARGUMENTS` as several processes on this machine, and wait for them; what they say goes to `log`.

    Ctrl-C or SIGTERM here ends them by SIGTERM, upon which they save.

    Args:
        module: to be run; it calls `end_with_launcher` first.
        arguments: of the module, in every process.
        processes: how many; on a machine with GPUs each takes one.
        log: a file; they write at its end.
        threads: of each process.

    Returns:
        The exit status: 0 where all processes have ended well.

    Raises:
        KeyboardInterrupt: on Ctrl-C or SIGTERM, once they have ended. A second one kills them.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as said, _sigterm_interrupts():
        child = subprocess.Popen(
            [*command, "-m", module, *arguments],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.STDOUT,
            # A terminal's Ctrl-C comes to this process alone, which passes it on in its own way.
            start_new_session=True,
        )
        try:
            return child.wait()
        except BaseException:
            child.terminate()
            try:
                child.wait()  # torchrun kills what has not ended after half a minute
            except KeyboardInterrupt:
                child.kill()
            raise
        finally:
            assert child.stdin is not None
            child.stdin.close()


def end_with_launcher() -> None:
    """In a process that `launch` has started: end it, as by SIGTERM, when the process that called `launch` is gone."""

    def watch() -> None:
        # Nobody writes: it ends when the other end is closed, which the system does for a process however that ends.
        os.read(sys.stdin.fileno(), 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Takes a SIGTERM as Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
