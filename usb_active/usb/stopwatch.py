"""How long a training takes."""

from __future__ import annotations

import time


class Stopwatch:
    """Owns the seconds that one training has taken, over all processes that had a part in it."""

    def __init__(self) -> None:
        self._before = 0.0
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """Until now."""
        return self._before if self._started is None else self._before + time.perf_counter() - self._started

    def start(self) -> None:
        """This process begins or resumes a training."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """It has trained to the end."""
        self.set(self.seconds)

    def set(self, seconds: float) -> None:
        """Stand at so many, those of a checkpoint."""
        self._before, self._started = seconds, None
