"""Detect that training diverges while the loss is still a number."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from statistics import median

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
