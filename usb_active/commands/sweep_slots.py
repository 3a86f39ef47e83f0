"""Runs as processes of their own, one in each slot: its cores, its GPU, its log; and what came of it."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from usb_active.config.shared_pretraining import VARIABLE
from usb_active.config.study import Cell, Study
from usb_active.environment.signals import GRACE, StopSignals
from usb_active.errors import plain
from usb_active.storage.durable import make_folder, no_os_error
from usb_active.storage.journal import utc_now

# How much of the end of a log is read for its last words.
_TAIL = 64_000


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


def cell_command(study: Study, cell: Cell) -> list[str]:
    """`usb-active run` on a cell, by this very installation."""
    # Not -m where it can be helped: it would take a folder named usb_active in the working directory for the package.
    script = Path(sysconfig.get_path("scripts")) / "usb-active"
    program = [str(script)] if script.is_file() else ["-m", "usb_active"]
    return [sys.executable, *program, *run_arguments(study, cell)]


def run_arguments(study: Study, cell: Cell) -> list[str]:
    """What stands after `usb-active`."""
    return ["run", str(study.base), *(word for text in cell.overrides for word in ("--set", text))]


def log_path(study: Study, cell: Cell) -> Path:
    """What a cell's processes print, one after the other."""
    return study.folder / "logs" / f"{cell.name}.log"


@dataclass
class Running:
    """A cell's process. `offset`: where its words begin in the log."""

    cell: Cell
    slot: Slot
    process: subprocess.Popen
    log: Path
    offset: int
    began: float

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self.began


def start_cell(study: Study, cell: Cell, slot: Slot, donor: Path | None = None) -> Running:
    """Start a cell in a slot. `donor`: the run whose pretraining it may take over."""
    log = log_path(study, cell)
    make_folder(log.parent)
    environment = {**os.environ, **slot.environment(cell.config.usb["gpu"] is not None)}
    if donor is not None:
        environment[VARIABLE] = str(donor)
    with no_os_error("write", log), open(log, "ab") as file:
        file.write(f"--- {utc_now()} usb-active {shlex.join(run_arguments(study, cell))}\n".encode())
        file.flush()
        offset = file.tell()
        words = cell_command(study, cell)
        with no_os_error("start", Path(words[0])):
            # A session of its own: Ctrl-C in the terminal is for the sweep, which tells its runs.
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True)
    if slot.cores:
        # While its interpreter starts, and has one thread. It may be over already, or the system may not allow it.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(process.pid, slot.cores)
    return Running(cell, slot, process, log, offset, time.monotonic())


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


def last_words(item: Running, code: int) -> str:
    """Why a process has failed, in one line: its last error, else the last that it printed, else its exit code."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}{' (out of memory?)' if code == -signal.SIGKILL else ''}"
    lines = _lines(item)
    errors = [line for line in lines if line.startswith("usb-active: error: ")]
    return plain(errors[-1].removeprefix("usb-active: error: ")) if errors else plain(lines[-1]) if lines else f"exit code {code}"


def what_is_awaited(item: Running) -> str:
    """The line that says which file people are to fill in."""
    lines = _lines(item)
    return plain(next((line for line in reversed(lines) if str(item.cell.run_path) in line), lines[-1] if lines else ""))


def _lines(item: Running) -> list[str]:
    with no_os_error("read", item.log), open(item.log, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(item.offset, size - _TAIL))
        text = file.read().decode("utf-8", "replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def describe_slots(slots: Sequence[Slot]) -> str:
    """`2 at a time, 1 core each`, with the GPUs where they are shared out."""
    least = min(slot.threads for slot in slots)
    text = f"{len(slots)} at a time, {least} core{'s' if least > 1 else ''} each"
    gpus = {slot.gpu for slot in slots} - {None}
    return f"{text}, on {len(gpus)} GPUs" if gpus else text
