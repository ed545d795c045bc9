"""What must hold for every input: it works, or a FlanlabError says which file is wrong and what to do. Nothing else happens."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flanlab.errors import FlanlabError
from flanlab.progress import console

SECONDS = 10
MEMORY = 2 << 30
"""Bytes that an input may add to the largest memory of the process."""
_ESCAPES = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.", "ctypes.", "pty.", "webbrowser.")


@dataclass(frozen=True)
class Case:
    """An input, and what is done with it."""

    action: Callable[[], object]
    names: tuple[str, ...] = ()
    """One of these must be in the error's message: the file, or what the user wrote."""
    inside: Path | None = None
    """The only folder in which the action may write; None: nowhere."""


class HangError(BaseException):
    """The action takes longer than SECONDS."""


_watch: dict[str, Any] = {"case": None, "found": [], "thread": 0, "sealed": False}


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    case: Case | None = _watch["case"]
    if case is None or threading.get_ident() != _watch["thread"]:
        return
    if event == "open":
        path, _, flags = arguments
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if _watch["sealed"]:
            _watch["found"].append(f"a template opened {path!r}")
        elif writes and isinstance(path, str | bytes | os.PathLike):
            place = Path(os.fsdecode(path)).absolute()
            if case.inside is None or not place.is_relative_to(case.inside):
                _watch["found"].append(f"wrote {place}")
    elif _watch["sealed"] and (event in ("import", "exec", "compile") or event.startswith(_ESCAPES)):
        _watch["found"].append(f"a template caused {event}")


def begin(*, memory_limit: int | None = 6 << 30) -> None:
    """Prepare this process: once, before the first case. The hook cannot be removed."""
    console.quiet = True
    sys.addaudithook(_audit)
    if memory_limit is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


@contextmanager
def sealed() -> Iterator[None]:
    """A block that may open no file at all, import nothing and run nothing: a template."""
    _watch["sealed"] = True
    try:
        yield
    finally:
        _watch["sealed"] = False


@contextmanager
def _in_time() -> Iterator[None]:
    def hang(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    # For code that never returns to Python.
    faulthandler.dump_traceback_later(3 * SECONDS, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fault_of(case: Case) -> str | None:
    """Carry a case out. Returns what is wrong, in words that are the same for faults of one kind; None if nothing is."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _watch.update(case=case, found=[], thread=threading.get_ident())
    fault = None
    try:
        with _in_time():
            case.action()
    except FlanlabError as error:
        if not error.hint:
            fault = f"an error without a hint: {_place(error)}"
        elif case.names and not any(name in error.message for name in case.names):
            fault = f"the error names no file: {_place(error)}"
    except HangError as error:
        fault = f"takes longer than {SECONDS} s: {_place(error)}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        fault = f"{type(error).__name__}: {_place(error)}"
    finally:
        _watch["case"] = None
    if fault is None and _watch["found"]:
        fault = _watch["found"][0]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024
    if fault is None and grown > MEMORY:
        fault = "takes more than 2 GB"
    return fault


def _place(error: BaseException) -> str:
    """The deepest line of flanlab that an error passed: faults of one kind share it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/flanlab/" in frame.filename]
    if not frames:
        return "outside flanlab"
    last = frames[-1]
    return f"{last.filename.rpartition('/flanlab/')[2]}, {last.name}"
