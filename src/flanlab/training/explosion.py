"""Seeing that training has come apart while the loss is still a number."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from statistics import median

WINDOW = 20
"""Steps over which losses are compared."""
_TIMES, _PLUS = 3.0, 1.0


class LossWatch:
    """Watches the median loss of the last `WINDOW` steps.

    Training has come apart where it is more than three times its lowest so far, and one nat on top. The stream is shuffled, so
    medians of twenty steps lie close together however steps differ; a single bad step, or high losses at the start, do nothing.
    """

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self._last: deque[float] = deque(maxlen=WINDOW)
        self.lowest = float("inf")
        self.median = float("inf")
        for loss in losses:
            self.has_exploded(loss)

    def has_exploded(self, loss: float) -> bool:
        """Take the next step's loss; whether training has come apart."""
        self._last.append(loss)
        if len(self._last) < WINDOW:
            return False
        self.median = median(self._last)
        self.lowest = min(self.lowest, self.median)
        return self.median > _TIMES * self.lowest + _PLUS
