"""The one error a person is meant to read: what went wrong, and and how to fix it."""

from __future__ import annotations


class FlanlabError(Exception):
    """Bad input or an impossible wish. `hint` says what to do about it; the command line prints both and no traceback."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  Hint: {self.hint}" if self.hint else self.message


def one_line(error: Exception, width: int = 300) -> str:
    """An error's message on one line, shortened to `width` characters; its kind where it has none."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= width else text[: width - 1] + "…"
