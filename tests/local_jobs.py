"""The engine of SLURM with submitit's local executor: jobs are processes of this machine, and there is no queue.

    python tests/local_jobs.py sweep STUDY --engine slurm
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from usb_active.commands import sweep_engines
from usb_active.commands.sweep_slurm import SlurmEngine


class Processes:
    """Jobs by the number of their process."""

    def has(self, number: str) -> bool:
        """Whether it is at work. One that nobody has waited for is not."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        return False

    def state(self, number: str) -> str:
        """There is nothing that would know it."""
        return ""

    def add(self, number: str) -> None:
        """A process is known to the system."""


class LocalJobs(SlurmEngine):
    """Everything but SLURM itself."""

    cluster = "local"
    poll_seconds = 0.1
    grace = 0.0

    def _make_queue(self) -> Processes:
        return Processes()


if __name__ == "__main__":
    from usb_active.cli import main

    sweep_engines.ENGINES["slurm"] = "local_jobs:LocalJobs"
    sys.exit(main(sys.argv[1:]))
