"""Delay Ctrl-C, and the signals that end a cluster's job, until a step is finished."""

from __future__ import annotations

import signal
import threading
from typing import Any

from flanlab.processes import world_size
from flanlab.progress import say


class HeldInterrupts:
    """Delays the first Ctrl-C or SIGTERM until the step is finished: half an update must never be saved.

    A second one stops at once. But not with several processes, because their launcher sends them the first one again.
    """

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        # Only the main thread may set handlers, and only it receives Ctrl-C.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hold) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hold(self, *_: object) -> None:
        self.count += 1
        if world_size() > 1:
            if self.count == 1:
                say("Stopping after this step.")
            return
        if self.count > 1:
            raise KeyboardInterrupt
        say("Stopping after this step; press Ctrl-C again to stop at once, without saving it.")
