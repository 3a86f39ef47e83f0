"""The engine of this machine: runs as processes of their own, one in each slot, with its cores and its GPU."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from usb_active.commands.sweep_cells import begin_log, cell_command, log_path, run_arguments
from usb_active.commands.sweep_engines import Ended
from usb_active.commands.sweep_jobs import withdraw
from usb_active.config.shared_pretraining import VARIABLE
from usb_active.config.study import Cell, Study
from usb_active.environment.signals import GRACE, StopSignals
from usb_active.storage.durable import make_folder, no_os_error


@dataclass(frozen=True)
class Slot:
    """Where one run at a time has its place.

    Attributes:
        cores: those that it may use; () where processes cannot be pinned.
        threads: for OMP_NUM_THREADS.
        gpu: for CUDA_VISIBLE_DEVICES; None where there are not several to choose from.
    """

    cores: tuple[int, ...]
    threads: int
    gpu: str | None = None

    def environment(self, has_gpu_key: bool = False) -> dict[str, str]:
        """Variables of a run in this slot; what the user has set stays. `has_gpu_key`: the run's own configuration says which GPU."""
        found = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(self.threads)}
        return found if self.gpu is None or has_gpu_key else {**found, "CUDA_VISIBLE_DEVICES": self.gpu}


def make_slots(jobs: int) -> list[Slot]:
    """So many slots that share the cores of this process, and the GPUs, evenly. More slots than cores: several on one core."""
    can_pin = hasattr(os, "sched_getaffinity")
    cores = sorted(os.sched_getaffinity(0)) if can_pin else list(range(os.cpu_count() or 1))
    gpus = visible_gpus()
    slots = []
    for number in range(jobs):
        first, end = number * len(cores) // jobs, (number + 1) * len(cores) // jobs
        own = tuple(cores[first:end]) or (cores[number % len(cores)],)
        slots.append(Slot(own if can_pin else (), len(own), gpus[number % len(gpus)] if len(gpus) > 1 else None))
    return slots


def visible_gpus() -> list[str]:
    """The GPUs that runs could use, as CUDA_VISIBLE_DEVICES names them. The driver's own program is asked, so that nothing is imported."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        query = [program, "--query-gpu=uuid", "--format=csv,noheader"]
        result = subprocess.run(query, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in result.stdout.splitlines() if line.startswith("GPU-")] if result.returncode == 0 else []


@dataclass
class Running:
    """A cell's process. `offset`: where its words begin in the log; `finished`: its trainings that were over before."""

    cell: Cell
    slot: Slot
    process: subprocess.Popen
    log: Path
    offset: int
    start: float
    finished: int = 0
    note: str = ""

    def began(self) -> bool:
        """Always: there is no queue."""
        return True

    def ended(self) -> Ended | None:
        """Once the process is over."""
        code = self.process.poll()
        return None if code is None else Ended(code, time.monotonic() - self.start)


class LocalEngine:
    """Processes on this machine, one in each slot."""

    poll_seconds = 0.1

    def __init__(self, study: Study, jobs: int | None = None):
        """`jobs`: how many slots; 1 unless given."""
        self._study = study
        self._slots = make_slots(jobs or 1)
        self._used: list[Running] = []
        self.capacity = self.parallel = len(self._slots)

    def describe(self) -> str:
        """`2 at a time, 1 core each`, with the GPUs where they are shared out."""
        least = min(slot.threads for slot in self._slots)
        text = f"{len(self._slots)} at a time, {least} core{'s' if least > 1 else ''} each"
        gpus = {slot.gpu for slot in self._slots} - {None}
        return f"{text}, on {len(gpus)} GPUs" if gpus else text

    def adopt(self, cell: Cell) -> None:
        """Runs of a sweep that is gone are known by their locks alone."""

    def start(self, cell: Cell, donor: Path | None = None, finished: int = 0) -> Running:
        """In the first slot that is free."""
        self._used = [item for item in self._used if item.ended() is None]
        taken = [item.slot for item in self._used]
        slot = next(slot for slot in self._slots if not any(slot is other for other in taken))
        # A job of an earlier call that still stands in a cluster's queue is to leave this cell alone.
        withdraw(self._study, cell.name)
        item = start_cell(self._study, cell, slot, donor, finished)
        self._used.append(item)
        return item

    def leave(self, jobs: Sequence[Running]) -> str:
        """However the sweep ends, no process of it goes on."""
        stop_cells(jobs)
        return ""


def start_cell(study: Study, cell: Cell, slot: Slot, donor: Path | None = None, finished: int = 0) -> Running:
    """Start a cell in a slot. `donor`: the run whose pretraining it may take over."""
    log = log_path(study, cell)
    make_folder(log.parent)
    environment = {**os.environ, **slot.environment(cell.config.usb["gpu"] is not None)}
    if donor is not None:
        environment[VARIABLE] = str(donor)
    with no_os_error("write", log), open(log, "ab") as file:
        offset = begin_log(file, shlex.join(["usb-active", *run_arguments(study, cell)]))
        words = cell_command(study, cell)
        with no_os_error("start", Path(words[0])):
            # A session of its own: Ctrl-C in the terminal is for the sweep, which tells its runs.
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True)
    if slot.cores:
        # While its interpreter starts, and has one thread. It may be over already, or the system may not allow it.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(process.pid, slot.cores)
    return Running(cell, slot, process, log, offset, time.monotonic(), finished)


def stop_cells(running: Sequence[Running]) -> None:
    """Interrupt the processes and wait for them: they end cleanly, and go on from there when they are started again."""
    StopSignals.put_off(GRACE + 15)
    # Who starts a sweep with Ctrl-C ignored (a script's background) has it ignored in the runs as well.
    number = signal.SIGTERM if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else signal.SIGINT
    for item in running:
        item.process.send_signal(number)
    until = time.monotonic() + GRACE + 10
    for item in running:
        try:
            item.process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(item.process.pid, signal.SIGKILL)
            item.process.wait()
