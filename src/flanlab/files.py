"""Write files and folders completely or not at all."""

from __future__ import annotations

import errno
import glob
import json
import os
import platform
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from flanlab.errors import FlanlabError, one_line

_LOCK_FILE = ".lock"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def cache_folder() -> Path:
    """Where converted models and generated rows are kept: FLANLAB_CACHE, else flanlab in the user's cache folder."""
    if override := os.environ.get("FLANLAB_CACHE"):
        return Path(override)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flanlab"


def write_text(path: Path, text: str) -> None:
    """Write a file completely or not at all."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON, completely or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        FlanlabError: missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FlanlabError(
            f"{path}: there is no such file.", hint="Name the folder of a run that has written this file."
        ) from error
    except ValueError as error:
        raise FlanlabError(f"{path}: is damaged ({error}).", hint="Delete the file and run the command again.") from error


def decoded(path: Path, content: bytes, line: int = 1, *, first: bool = True) -> str:
    """The text of a file, or of a part that begins in a line; `first` if it is the beginning, where a byte order mark may be.

    Raises:
        FlanlabError: names the line that is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        raise FlanlabError(
            f"{path}, line {line}: is not UTF-8.",
            hint="Save the file as UTF-8. From Windows, for example: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW.",
        ) from error


@contextmanager
def reading(path: Path, hint: str) -> Iterator[None]:
    """Turn what reading a damaged file of rows, packed or not, may raise into an error that names it."""
    import pyarrow as pa

    try:
        yield
    # A damaged file may claim to be larger than the memory.
    except (pa.ArrowException, OSError, EOFError, ValueError, MemoryError, zlib.error) as error:
        raise FlanlabError(f"{path}: cannot be read: {one_line(error)}", hint=hint) from error


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to, or cannot be created. Nothing is left behind.

    Raises:
        FlanlabError: names the folder that refuses.
    """
    there = existing_part(folder)
    try:
        # Permissions alone do not tell: a file system may be read-only.
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise FlanlabError(
            f"{there} cannot be written to: {error.strerror}.", hint="Name another folder with --out."
        ) from error


def existing_part(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def is_full(error: BaseException) -> bool:
    """Whether something failed because the disk is full, or a quota or file size limit is reached."""
    # safetensors reports the system's errors as text.
    return getattr(error, "errno", None) in _FULL or any(f"os error {number})" in str(error) for number in _FULL)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Let one process at a time work in a folder; the others wait. The folder is created if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    # The lock ends with the process that holds it, however it ends.
    with FileLock(folder / _LOCK_FILE):
        yield


def made_once(folder: Path, make: Callable[[], None]) -> None:
    """Make a folder of the cache if it is missing. Other processes that want it wait, and find it there."""
    if not folder.is_dir():
        with alone_in(cache_folder()):
            if not folder.is_dir():
                make()


def in_use(folder: Path) -> bool:
    """Whether a process is in `alone_in(folder)` now."""
    if not (folder / _LOCK_FILE).exists():
        return False
    try:
        with FileLock(folder / _LOCK_FILE, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # someone else's folder
        return False


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path next to `path`. It replaces `path` when the block ends without an error."""
    temporary = _temporary(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder next to `path`. It replaces `path` when the block ends without an error."""
    # By `mkdir`, so that it has the usual permissions: `mkdtemp` makes private folders.
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path: Path) -> Path:
    """A path next to `path` for this process. What killed processes of this machine have left there is deleted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = f"{zlib.crc32(platform.node().encode()):08x}"
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{machine}.*.tmp"):
        if not _is_running(leftover.name.split(".")[-2]):
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{machine}.{os.getpid()}.tmp")


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):  # another user's, or no process's number
        return True
    return True
