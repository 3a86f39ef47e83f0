"""Training between two batches: `usb-active run` in a process of its own, with its output in a file, and what the page shows of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from usb_active.errors import plain
from usb_active.storage.run_dir import RunDir
from usb_active.storage.schemas import METRICS_REMEDY, check_values, run_metrics

LOG = "labeling.log"
# Lines of the output that the page shows, from bytes at its end.
_LINES, _TAIL = 12, 8000


class RunProcess:
    """One start of `usb-active run`. Its output goes to the end of `labeling.log` in the run's directory."""

    def __init__(self, arguments: Sequence[str], run_path: Path):
        """`arguments`: those of `usb-active`, without the program."""
        self._path = run_path / LOG
        self.started = time.monotonic()
        with open(self._path, "ab") as log:
            self._begin = log.tell()
            command = [sys.executable, "-m", "usb_active", *arguments]
            # What it prints goes to a file: otherwise it would come late, in blocks.
            environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment)

    @property
    def code(self) -> int | None:
        """Its exit code; None while it works."""
        return self._process.poll()

    def lines(self) -> list[str]:
        """The last lines that it printed, or why they cannot be read."""
        try:
            with open(self._path, "rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._begin, end - _TAIL))
                text = log.read().decode("utf-8", "replace")
        except OSError as error:
            return [plain(f"{self._path}: {error.strerror}")]
        return [plain(line) for line in re.split(r"[\r\n]+", text) if line.strip()][-_LINES:]

    def stop(self, patience: float = 20.0) -> None:
        """End it as Ctrl-C does, if it works: the same command resumes."""
        if self.code is None:
            self._process.terminate()
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def curve_so_far(path: Path) -> dict[str, Any]:
    """What the finished trainings of a run came to: the name of the metric, and of each cycle (labels, value or None, seconds)."""
    run = RunDir.read(path)
    lines = run.metrics()
    metric = run_metrics(run, lines)[0]
    points = []
    for line in lines:
        check_values(f"{path / 'metrics.jsonl'}: cycle {line['cycle']}", line, [metric], METRICS_REMEDY)
    for line in lines:
        value = line.get(metric.key)
        points.append([line.get("num_labels"), None if value is None else value * metric.factor, line.get("train_seconds")])
    return {"metric": metric.name, "unit": metric.unit, "points": points}
