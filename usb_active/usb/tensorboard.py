"""A run's TensorBoard log, over all of its cycles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semilearn.core.utils import TBLog


class CycleLog:
    """USB's TensorBoard log, with steps that continue through the cycles instead of starting over one another."""

    def __init__(self, log: TBLog, offset: int):
        self._log, self._offset = log, offset

    def update(self, log_dict: dict[str, float], it: int, suffix: str | None = None, mode: str = "train") -> None:
        """As USB's."""
        self._log.update(log_dict, it + self._offset, suffix, mode)


class RunLog:
    """Owns USB's log, where the run has one.

    Args:
        log: the one that USB's train.py made.
        folder: where one is made if there is none; None for no log.
    """

    def __init__(self, log: TBLog | None, folder: Path | None):
        if log is None and folder is not None:
            log = TBLog(str(folder), "tensorboard", use_tensorboard=True)
        self._log = log

    def of_cycle(self, steps_before: int) -> CycleLog | None:
        """What USB's hooks log to in a cycle."""
        return None if self._log is None else CycleLog(self._log, steps_before)

    def add(self, record: Mapping[str, Any]) -> None:
        """A finished training's scores, over the number of labels."""
        if self._log is not None:
            numbers = {f"cycle/{name}": value for name, value in record.items() if isinstance(value, float)}
            numbers |= {f"cycle/log/{name}": value for name, value in record["log"].items()}
            numbers |= {f"cycle/class_count/{label}": count for label, count in enumerate(record.get("class_counts", ()))}
            self._log.update(numbers, record["num_labels"])
