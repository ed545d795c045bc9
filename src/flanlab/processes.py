"""Several processes that work as one, as `torchrun` and `accelerate launch` start them; by itself a command is one process.

torch is imported where there are several, and not before: most commands have no use for it.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

from flanlab.errors import FlanlabError
from flanlab.progress import console

Value = TypeVar("Value")

_LONGEST_COLLECTIVE = timedelta(minutes=30)
"""What nobody should ever wait: a process that dies is noticed at once, by its closed connections or by the launcher."""
_SECONDS_TO_ANSWER = 5.0
"""How long the others of a broken job may take to say that they are still there."""
_SECONDS_TO_STOP = 22.0
"""After a SIGTERM, to save; with those to answer fewer than the 30 after which `torchrun` kills what is left."""

_store: Any = None
"""Where the processes leave each other notes; None while there is one process."""
_notes_read = 0
_blocks = 0
"""How many times `together` has been entered: each has words of its own."""


def rank() -> int:
    """Number of this process, from 0."""
    return numbered()[0]


def world_size() -> int:
    """How many processes there are."""
    return numbered()[1]


def numbered() -> tuple[int, int]:
    """Number of this process and how many there are, as torchrun (or whoever does as it does) says in RANK and WORLD_SIZE.

    Raises:
        FlanlabError: the variables make no sense.
    """
    number, count = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if count in (None, "1"):
        return 0, 1
    if not (number and count and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise FlanlabError(
            f"RANK={number} and WORLD_SIZE={count} in the environment do not number this process among several.",
            hint="Start several with `torchrun --nproc-per-node N -m flanlab ...`, or unset both.",
        )
    return int(number), int(count)


def own_gpu() -> int | None:
    """Number of this process's GPU, by torchrun's LOCAL_RANK, made the current one; None where there are none.

    Raises:
        FlanlabError: the machine has more processes than GPUs.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    number, count = os.environ.get("LOCAL_RANK", "0"), torch.cuda.device_count()
    if not number.isdecimal() or int(number) >= count:
        raise FlanlabError(
            f"Process {number} of this machine has no GPU of its own: there are {count}.",
            hint="Start as many processes as there are GPUs (torchrun --nproc-per-node).",
        )
    # Kernels that are compiled on the spot run on the current device, whatever their inputs'.
    torch.cuda.set_device(int(number))
    return int(number)


def owners(costs: Sequence[float], count: int) -> list[int]:
    """For each piece of work the process that it falls to: longest first, each to the process with least to do so far.

    A pure function, so all processes come to the same result by themselves. The longest share is at most 4/3 of the
    shortest possible (Graham 1969).
    """
    load = [0.0] * count
    owner = [0] * len(costs)
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        owner[place] = min(range(count), key=load.__getitem__)
        load[owner[place]] += costs[place]
    return owner


def is_first() -> bool:
    """Whether this is the process that writes files and talks to people."""
    return rank() == 0


@contextmanager
def together() -> Iterator[None]:
    """Join this process with the others for the length of the block; does nothing where there are no others.

    Raises:
        FlanlabError: another process has died; names it, and says how to go on.
        SystemExit: another process has failed, and says why itself.
    """
    if world_size() == 1:
        yield
        return
    import torch.distributed as dist

    global _blocks
    _blocks += 1
    _join()
    # People want to read what happens once.
    console.quiet = not is_first()
    try:
        yield
    except BaseException as error:
        # The launcher's SIGTERM comes at about the same time as the news that a process has died.
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
    """What each process gives, in their order; all must take part."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def all_do(work: Callable[[], Value]) -> list[Value]:
    """Do something in every process. Where it fails in one, it fails with that error in all, and none waits for the others."""
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
    """Do something (whose result can be JSON) in the first process alone, while the others wait: hours, if it takes them."""
    global _notes_read
    if world_size() == 1:
        return work()
    note = f"note/{_notes_read}"
    _notes_read += 1
    if is_first():
        result = work()
        _store.set(note, json.dumps(result))
        return result
    # No collective, which would give up after a while: what is waited for may be a download or an evaluation.
    while not _store.check([note]):
        if _store.check([_word_of(0)]):
            raise _FirstHasEndedError
        time.sleep(0.05)
    return json.loads(_store.get(note))  # type: ignore[no-any-return]


@contextmanager
def first_before_others() -> Iterator[None]:
    """Let the first process do the block before the others: what it fetches and converts is then there for them."""
    if not is_first():
        from_first(lambda: None)
    yield
    if is_first():
        from_first(lambda: None)


def may_tell() -> bool:
    """Whether this process is the first to tell of the job's failure: all fail together, but people want to read it once."""
    if _store is None:
        return True
    try:
        return bool(_store.add("told", 1) == 1)
    except RuntimeError:
        return True


class _FirstHasEndedError(RuntimeError):
    """The first process has ended without giving what it was waited for."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM: the launcher, or the cluster, wants the job to end."""


def _join() -> None:
    global _store
    if _store is not None:
        return
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    on_gpu = own_gpu() is not None
    _store, number, count = next(rendezvous("env://"))
    dist.init_process_group(
        # Notes of a few bytes go past the GPU.
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
    """End a process whose main thread waits in a kernel for one that has died, and so never hears the signal."""
    while number := os.read(signals, 1):
        if number[0] == signal.SIGTERM:
            time.sleep(_SECONDS_TO_STOP)
            _leave_word("left")
            reason = _why_it_broke()
            if isinstance(reason, FlanlabError) and may_tell():
                print(f"flan: {reason}", file=sys.stderr, flush=True)
            os._exit(1)


def _leave_word(word: str) -> None:
    # Whoever keeps the notes may have died.
    with suppress(RuntimeError):
        _store.set(_word_of(rank()), word)


def _word_of(number: int) -> str:
    return f"end/{_blocks}/{number}"


def _why_it_broke() -> BaseException | None:
    """The error to end with, once the processes that are still there have said so; None where all are."""
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
        " gone. The others have stopped too.",
        hint="Give the same command again: it goes on from the last checkpoint, with as many processes as you like.",
    )
