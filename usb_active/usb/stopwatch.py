"""How long a training takes, and how much of the processor."""

from __future__ import annotations

import time

from usb_active.environment.cpu_clock import cpu_seconds


class Stopwatch:
    """Owns the seconds and the CPU seconds that one training has taken, over all processes that had a part in it.

    What a process trained between its last checkpoint and its death is in neither: it is trained again.
    """

    def __init__(self) -> None:
        self._before = 0.0
        self._cpu_before: float | None = 0.0
        # Both clocks when this process began.
        self._started: tuple[float, float] | None = None

    @property
    def seconds(self) -> float:
        """Until now."""
        return self._before if self._started is None else self._before + time.perf_counter() - self._started[0]

    @property
    def cpu_seconds(self) -> float | None:
        """Until now; None where an earlier process, of a version before, has not said its own."""
        if self._cpu_before is None or self._started is None:
            return self._cpu_before
        return self._cpu_before + cpu_seconds() - self._started[1]

    def start(self) -> None:
        """This process begins or resumes a training."""
        self._started = time.perf_counter(), cpu_seconds()

    def stop(self) -> None:
        """It has trained to the end."""
        self.set(self.seconds, self.cpu_seconds)

    def set(self, seconds: float, cpu_seconds: float | None) -> None:
        """Stand at so many, those of a checkpoint."""
        self._before, self._cpu_before, self._started = seconds, cpu_seconds, None
