"""The engine of a SLURM cluster, by submitit: each cell a job, which goes on whatever becomes of the sweep."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from usb_active.commands.sweep_cells import log_path
from usb_active.commands.sweep_engines import Job
from usb_active.commands.sweep_jobs import JOBS, Claim, ClusterJob, make_cell_job, new_claim, read_claim, withdraw
from usb_active.config.study import Cell, Study
from usb_active.errors import UsageError, plain
from usb_active.storage.durable import make_folder, no_os_error

logger = logging.getLogger("usb_active")

# Those of submitit's parameters that are the same for all clusters; others have the cluster's name before them.
_SHARED = ("timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node")
# How SLURM calls a job that will not be at work again; all others are in the queue, at work, or between the two.
_OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT",
}  # fmt: skip


class SlurmEngine:
    """Jobs of SLURM."""

    name = "slurm"
    cluster = "slurm"
    poll_seconds = 2.0
    parallel = None
    # Files that a node has written may be seen so late.
    grace = 90.0

    def __init__(self, study: Study, jobs: int | None = None):
        """`jobs`: how many in the queue or at work at a time; all unless given.

        Raises:
            UsageError: submitit is not installed, this is no machine that can submit, or the study has no `slurm:`.
        """
        try:
            import submitit
        except ImportError as error:
            raise UsageError(f"--engine slurm needs submitit ({plain(str(error))}): pip install 'usb-active[slurm]'") from error
        if study.slurm is None:
            raise UsageError(f"{study.source}: slurm: missing; what a cell gets there, at least `slurm: {{timeout_min: 240}}`")
        if "%" in os.path.abspath(study.folder):
            raise UsageError(f"{study.folder}: SLURM takes a % in a path for one of its own patterns; give another `save_dir:` or `name:`")
        self._submitit, self._study = submitit, study
        self._options: Mapping[str, Any] = study.slurm
        self.capacity = jobs or len(study.cells)
        self._queue = self._make_queue()
        self._executor: Any = None

    def _make_queue(self) -> SlurmQueue:
        missing = [name for name in ("sbatch", "srun", "squeue") if shutil.which(name) is None]
        if missing:
            raise UsageError(f"--engine slurm: no {missing[0]} here; give the command where SLURM takes jobs, as on a login node")
        return SlurmQueue()

    def describe(self) -> str:
        """How many jobs at a time."""
        many = self.capacity >= len(self._study.cells)
        return "all as jobs of SLURM" if many else f"{self.capacity} jobs of SLURM at a time"

    def adopt(self, cell: Cell) -> ClusterJob | None:
        """The job of an earlier call that SLURM still has."""
        claim = read_claim(self._study, cell)
        if claim is None or claim.engine != self.name or not claim.id:
            return None
        job = self._job(cell, claim)
        return job if job.ended() is None and self._queue.has(claim.id) else None

    def start(self, cell: Cell, donor: Path | None, finished: int) -> ClusterJob:
        """Submit it."""
        claim = new_claim(self._study, cell, self.name, finished)
        work = make_cell_job(self._study, cell, claim, donor, self._options.get("cpus_per_task", 1))
        executor = self._make_executor(cell)
        try:
            # What a job of its own has in its environment, where the sweep is one, is not for these; submitit prints what it also raises.
            with self._submitit.helpers.clean_env(), contextlib.redirect_stderr(io.StringIO()):
                number = executor.submit(work).job_id
        except (self._submitit.core.utils.FailedJobError, self._submitit.core.utils.FailedSubmissionError, OSError) as error:
            withdraw(self._study, cell.name)
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise UsageError(f"not submitted: {lines[-1] if lines else type(error).__name__}") from error
        claim = Claim(claim.path, claim.engine, number, finished)
        claim.write()
        self._queue.add(number)
        return self._job(cell, claim)

    def leave(self, jobs: Sequence[Job]) -> str:
        """They go on: a session on a login node may end at any time."""
        if not jobs:
            return ""
        numbers = " ".join(job.note.split()[-1] for job in jobs)
        return f"{len(jobs)} jobs go on in SLURM, and the same command finds them again; to end them: scancel {numbers}"

    def _job(self, cell: Cell, claim: Claim) -> ClusterJob:
        def why() -> str:
            return f"job {claim.id} is over, and not by its own end ({self._queue.state(claim.id) or 'SLURM knows it no more'})"

        log = log_path(self._study, cell)
        return ClusterJob(cell, log, claim, lambda: self._queue.has(claim.id), why, f"job {plain(claim.id)}", self.grace)

    def _make_executor(self, cell: Cell) -> Any:
        """submitit's, named after a cell. Its folder is made here and open to nobody else: what lies in it is unpickled on the nodes."""
        if self._executor is None:
            folder = self._study.folder / JOBS
            make_folder(folder)
            with no_os_error("make a folder in", folder):
                own = tempfile.mkdtemp(prefix="submitit-", dir=os.path.abspath(folder))
            times = {f"{self.cluster}_max_num_timeout": self._options.get("max_num_timeout", 3)}
            self._executor = self._submitit.AutoExecutor(folder=own, cluster=self.cluster, **times)
            given = {key: value for key, value in self._options.items() if key != "max_num_timeout"}
            self._executor.update_parameters(**{key if key in _SHARED else f"slurm_{key}": value for key, value in given.items()})
        self._executor.update_parameters(name=f"{self._study.name},{cell.name}")
        return self._executor


class SlurmQueue:
    """What SLURM says of this user's jobs; asked seldom, and of all at once."""

    ask_seconds = 15.0

    def __init__(self) -> None:
        # None until SLURM has answered once. A job that has been over for some minutes is in no answer.
        self._states: dict[str, str] | None = None
        self._asked: float | None = None
        self._is_said = False

    def has(self, number: str) -> bool:
        """Whether a job is in the queue or at work; also where SLURM does not answer, and nobody knows."""
        self._ask()
        return self._states is None or (number in self._states and self._states[number] not in _OVER)

    def state(self, number: str) -> str:
        """As SLURM says it; "" where it does not."""
        return (self._states or {}).get(number, "")

    def add(self, number: str) -> None:
        """A job that has just been submitted."""
        if self._states is not None:
            self._states[number] = "PENDING"

    def _ask(self) -> None:
        if self._asked is not None and time.monotonic() - self._asked < self.ask_seconds:
            return
        command = ["squeue", "--noheader", "--all", "--states=all", f"--user={os.getuid()}", "--format=%i %T"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
            problem = answer.stderr.strip() or f"exit code {answer.returncode}" if answer.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
        self._asked = time.monotonic()
        if not problem:
            self._states, self._is_said = dict(line.split(None, 1) for line in answer.stdout.splitlines() if " " in line.strip()), False
        elif not self._is_said:
            # Controllers restart; the jobs are what they were.
            self._is_said = True
            logger.warning("squeue does not answer, and is asked again: %s", plain(problem.splitlines()[-1]))

