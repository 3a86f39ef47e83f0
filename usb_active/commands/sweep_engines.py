"""What starts the cells of a sweep: an engine, by its name. Light: an engine's own imports come when it is chosen.

A sweep asks no more of an engine than this: start a cell, say whether it has ended, and what to do with those that have not when the sweep
itself ends. That a cell is never trained twice is not an engine's doing but that of the runs, which lock their directories and resume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from usb_active.config.study import Cell, Study


@dataclass(frozen=True)
class Ended:
    """How a job has ended.

    Attributes:
        code: the exit code of `usb-active run`, negative for a signal as in subprocess; None where nobody knows.
        seconds: how long the run was at work.
        why: in one line, where there is no code.
    """

    code: int | None
    seconds: float
    why: str = ""


class Job(Protocol):
    """One cell at work, or in a cluster's queue.

    Attributes:
        cell: which.
        finished: its trainings that were over before it was started.
        note: what is to be shown of it, such as its number in the cluster; "" for nothing.
        log: where its words are.
        offset: where they begin there.
    """

    cell: Cell
    finished: int
    note: str
    log: Path
    offset: int

    def began(self) -> bool:
        """Whether it is at work, and no longer in a queue."""

    def ended(self) -> Ended | None:
        """None until it is over."""


class Engine(Protocol):
    """Starts cells, as many at a time as it has room for.

    Attributes:
        capacity: how many.
        poll_seconds: between two looks at them.
        parallel: what an estimate of the time divides by; None where that is how many are at work at the moment.
    """

    capacity: int
    poll_seconds: float
    parallel: int | None

    def describe(self) -> str:
        """How many at a time, and where."""

    def adopt(self, cell: Cell) -> Job | None:
        """The job of an earlier call that is still in a queue or at work."""

    def start(self, cell: Cell, donor: Path | None, finished: int) -> Job:
        """Start a cell. `donor`: the run whose pretraining it may take over.

        Raises:
            UsageError: this one cannot be. It has failed, and the others are to go on.
        """

    def leave(self, jobs: Sequence[Job]) -> str:
        """The sweep ends, and these have not: end them, or say in a line that they go on without it."""


# Name → module and class.
ENGINES = {
    "local": "usb_active.commands.sweep_slots:LocalEngine",
    "slurm": "usb_active.commands.sweep_slurm:SlurmEngine",
}


def make_engine(name: str, study: Study, jobs: int | None) -> Engine:
    """The engine of this name. `jobs`: how many cells at a time; None for the engine's own choice.

    Raises:
        UsageError: what it needs is not installed, not here, or not in the study.
    """
    module, _, attribute = ENGINES[name].partition(":")
    make: Callable[[Study, int | None], Engine] = getattr(import_module(module), attribute)
    return make(study, jobs)
