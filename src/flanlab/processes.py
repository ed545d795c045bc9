"""Several processes that work as one, as started by `torchrun` or `accelerate launch`. Without them a command is one process.

torch is imported only if there are several processes, because most commands do not need it.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

from flanlab.errors import FlanlabError
from flanlab.progress import console

Value = TypeVar("Value")

_LONGEST_COLLECTIVE = timedelta(minutes=30)
"""Upper limit of any wait. A process that dies is noticed at once, by its closed connections or by the launcher."""
_SECONDS_TO_ANSWER = 5.0
"""How long the other processes of a failed job have to report that they are alive."""
_SECONDS_TO_STOP = 22.0
"""Time to save after a SIGTERM. With `_SECONDS_TO_ANSWER` it is less than the 30 after which `torchrun` kills the rest."""

_store: Any = None
"""A store where the processes leave each other messages; None if there is one process."""
_notes_read = 0
_blocks = 0
"""How often `together` was entered: each time has its own messages."""


def rank() -> int:
    """Number of this process, from 0."""
    return numbered()[0]


def world_size() -> int:
    """How many processes there are."""
    return numbered()[1]


def numbered() -> tuple[int, int]:
    """Number of this process and of all processes, from RANK and WORLD_SIZE, which torchrun and others set.

    Raises:
        FlanlabError: the variables are invalid.
    """
    number, count = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if count in (None, "1"):
        return 0, 1
    if not (number and count and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise FlanlabError(
            f"RANK={number} and WORLD_SIZE={count} in the environment are not valid process numbers.",
            hint="Start several with `torchrun --nproc-per-node N -m flanlab ...`, or unset both.",
        )
    return int(number), int(count)


def own_gpu() -> int | None:
    """Number of this process's GPU (torchrun's LOCAL_RANK), which becomes the current one; None without GPUs.

    Raises:
        FlanlabError: the machine has more processes than GPUs.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    number, count = os.environ.get("LOCAL_RANK", "0"), torch.cuda.device_count()
    if not number.isdecimal() or int(number) >= count:
        raise FlanlabError(
            f"Process {number} of this machine has no GPU: there are {count}.",
            hint="Start as many processes as there are GPUs (torchrun --nproc-per-node).",
        )
    # Kernels that are compiled at run time use the current device, not their inputs' device.
    torch.cuda.set_device(int(number))
    return int(number)


def is_first() -> bool:
    """Whether this is the process that writes files and prints messages."""
    return rank() == 0


@contextmanager
def together() -> Iterator[None]:
    """Connect this process with the others for the duration of the block. Does nothing if there is only one.

    Raises:
        FlanlabError: another process has died. The message names it; the hint says how to resume.
        SystemExit: another process has failed and prints the error itself.
    """
    if world_size() == 1:
        yield
        return
    import torch.distributed as dist

    global _blocks
    _blocks += 1
    _join()
    # Each message is printed once.
    console.quiet = not is_first()
    try:
        yield
    except BaseException as error:
        # The launcher's SIGTERM arrives at about the same time as the error that a process has died.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        atexit.unregister(dist.destroy_process_group)
        broken = isinstance(error, _Terminated | _FirstHasEndedError | dist.DistError) or "gloo" in str(error)
        _leave_word("left" if broken else "failed")
        reason = _why_it_broke() if broken else None
        if reason is None:
            raise
        raise reason from error
    _leave_word("done")


def everyone(value: Value) -> list[Value]:
    """The values of all processes, in order of rank. All processes must call it."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def all_do(work: Callable[[], Value]) -> list[Value]:
    """Do something in each process. If it fails in one, it fails with that error in all, and none waits for the others."""
    failure: Exception | None = None
    result: Any = None
    try:
        result = work()
    except Exception as error:
        failure = error
    outcomes = everyone((result, failure))
    if failures := [failed for _, failed in outcomes if failed is not None]:
        raise failure or failures[0]
    return [found for found, _ in outcomes]


def from_first(work: Callable[[], Value]) -> Value:
    """Do something in the first process only, while the others wait, for hours if needed. The result must be JSON."""
    global _notes_read
    if world_size() == 1:
        return work()
    note = f"note/{_notes_read}"
    _notes_read += 1
    if is_first():
        result = work()
        _store.set(note, json.dumps(result))
        return result
    # Not a collective, which would time out: the others may wait for a download or an evaluation.
    while not _store.check([note]):
        if _store.check([_word_of(0)]):
            raise _FirstHasEndedError
        time.sleep(0.05)
    return json.loads(_store.get(note))  # type: ignore[no-any-return]


@contextmanager
def first_before_others() -> Iterator[None]:
    """Let the first process run the block before the others, so they find what it downloads and converts."""
    if not is_first():
        from_first(lambda: None)
    yield
    if is_first():
        from_first(lambda: None)


def may_tell() -> bool:
    """Whether this process is the first to report the job's failure. All fail together, but one message is enough."""
    if _store is None:
        return True
    try:
        return bool(_store.add("reported", 1) == 1)
    except RuntimeError:
        return True


def end_with_others() -> None:
    """Let SIGTERM, by which torchrun ends the rest where one process has died, end an evaluation with one message."""

    def stop(*_: object) -> None:
        if not is_first():
            raise SystemExit(1)
        raise FlanlabError(
            "Stopped by SIGTERM, which torchrun sends where another process has died.",
            hint="See what that one said last. What is done is kept: the same command resumes, with any number of processes.",
        )

    # `together` has a way of its own to end.
    is_free = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if world_size() > 1 and is_free:
        signal.signal(signal.SIGTERM, stop)


class _FirstHasEndedError(RuntimeError):
    """The first process has ended without the result that the others wait for."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM: the launcher or the cluster ends the job."""


def _join() -> None:
    global _store
    if _store is not None:
        return
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    on_gpu = own_gpu() is not None
    _store, number, count = next(rendezvous("env://"))
    dist.init_process_group(
        # Small messages do not use the GPU.
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=dist.PrefixStore("groups", _store),  # type: ignore[attr-defined]
        rank=number,
        world_size=count,
        timeout=_LONGEST_COLLECTIVE,
    )
    atexit.register(dist.destroy_process_group)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=_see_that_it_ends, args=(reading,), daemon=True).start()


def _terminate(*_: object) -> None:
    raise _Terminated


def _see_that_it_ends(signals: int) -> None:
    """End a process whose main thread waits in a kernel for a dead process and so never handles the signal."""
    while number := os.read(signals, 1):
        if number[0] == signal.SIGTERM:
            time.sleep(_SECONDS_TO_STOP)
            _leave_word("left")
            reason = _why_it_broke()
            if isinstance(reason, FlanlabError) and may_tell():
                print(f"flan: {reason}", file=sys.stderr, flush=True)
            os._exit(1)


def _leave_word(word: str) -> None:
    # The process with the store may have died.
    with suppress(RuntimeError):
        _store.set(_word_of(rank()), word)


def _word_of(number: int) -> str:
    return f"end/{_blocks}/{number}"


def _why_it_broke() -> BaseException | None:
    """The error to end with, after the living processes have reported; None if all are alive."""
    others = [number for number in range(world_size()) if number != rank()]
    ends: dict[int, str] = {}
    give_up = time.monotonic() + _SECONDS_TO_ANSWER
    try:
        while len(ends) < len(others) and time.monotonic() < give_up:
            ends |= {number: _store.get(_word_of(number)).decode() for number in others if _store.check([_word_of(number)])}
            time.sleep(0.05)
    except RuntimeError:
        ends = {}
    if "failed" in ends.values():
        return SystemExit(1)
    dead = [number for number in others if number not in ends]
    if not dead:
        return None
    named = " and ".join(f"process {number}" for number in dead[:8])
    return FlanlabError(
        f"Of the {world_size()} processes (0 to {world_size() - 1}), {named} died: killed, out of memory, or its machine is"
        " lost. The others have stopped too.",
        hint="Run the same command again: it resumes from the last checkpoint, with any number of processes.",
    )
