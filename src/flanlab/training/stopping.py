"""Why training stops before its last step: a signal, which waits until the step is finished, or a loss that explodes."""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Iterable
from statistics import median
from typing import Any

from flanlab.processes import world_size
from flanlab.progress import say

WINDOW = 20
"""Number of steps of the median loss."""
_TIMES, _PLUS = 3.0, 1.0


class LossWatch:
    """Watches the median loss of the last `WINDOW` steps.

    Training diverges if the median is more than 3 x its lowest value so far + 1 nat. The stream is shuffled, so
    medians of twenty steps are close to each other. A single bad step, or high losses at the start, have no effect.
    """

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self._last: deque[float] = deque(maxlen=WINDOW)
        self.lowest = float("inf")
        self.median = float("inf")
        for loss in losses:
            self.has_exploded(loss)

    def has_exploded(self, loss: float) -> bool:
        """Add the next step's loss. Returns whether training diverges."""
        self._last.append(loss)
        if len(self._last) < WINDOW:
            return False
        self.median = median(self._last)
        self.lowest = min(self.lowest, self.median)
        return self.median > _TIMES * self.lowest + _PLUS


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
