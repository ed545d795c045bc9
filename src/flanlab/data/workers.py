"""What every worker process does first."""

from __future__ import annotations

import os
import signal


def settle_worker(_: int = 0) -> None:
    """Leave Ctrl-C and the processor's other cores to others."""
    # Ctrl-C reaches every process of the terminal, but stopping is the business of the one that started them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A worker is ended by SIGTERM, and a forked one would do with it, and tell of it, as its parent has chosen for itself.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Threads of the tokenizers library do not outlive a fork; the workers are the parallelism.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
