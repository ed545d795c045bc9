"""What each worker process does first."""

from __future__ import annotations

import os
import signal


def settle_worker(_: int = 0) -> None:
    """Ignore Ctrl-C, and use one core."""
    # Ctrl-C reaches all processes of the terminal, but only the parent process stops the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # SIGTERM must end a worker. A forked one would inherit its parent's handler.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Threads of the tokenizers library do not survive a fork, and the workers already run in parallel.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
