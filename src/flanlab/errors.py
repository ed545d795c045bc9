"""The error that users see: what went wrong, and how to fix it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

_OWN = str(Path(__file__).parent)


class FlanlabError(Exception):
    """Bad input or an impossible request. `hint` says how to fix it. Both are printed, without flanlab's own traceback."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  Hint: {self.hint}" if self.hint else self.message

    def _render_traceback_(self) -> list[str]:
        """What IPython prints: the line that called flanlab, and the message."""
        callers = list(takewhile(lambda frame: not frame.filename.startswith(_OWN), traceback.extract_tb(self.__traceback__)))
        return [*traceback.format_list(callers[-1:]), f"FlanlabError: {self}"]


def one_line(error: Exception, width: int = 300) -> str:
    """An error's message on one line, shortened to `width` characters, or the name of its class if it has no message."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= width else text[: width - 1] + "…"


@contextmanager
def explained(message: str, hint: str) -> Iterator[None]:
    """Turn any error of another library into one that users see, with its own message after `message`."""
    try:
        yield
    except FlanlabError:
        raise
    except Exception as error:  # a damaged file may raise any error
        raise FlanlabError(f"{message}: {one_line(error, 400)}", hint=hint) from error
