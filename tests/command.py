"""`flan` in this process, judged as a process of its own is: exit code, output, errors."""

from __future__ import annotations

import io
import os
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from flanlab.cli.main import main


class Ended(NamedTuple):
    """What a command leaves."""

    returncode: int
    stdout: str
    stderr: str


def flan(*arguments: str, folder: Path | None = None) -> Ended:
    """Run a command in a folder. An error that would end as a traceback passes through."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["python -m flanlab", *arguments]),
        chdir(folder or os.curdir),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Ended(code, out.getvalue(), err.getvalue())
