"""Jobs of a cluster: what a sweep keeps of each in the study's folder, and what runs on a node.

A job has a *claim*, `jobs/<cell>/<token>.json`, written before it is submitted. A job whose claim has been withdrawn does nothing when its
turn comes: so a cell has one job at most, even where a sweep was killed before it knew the number of what it had submitted. What becomes of
the job is in `<token>.state.json`, which the job alone writes. Both are JSON: a sweep unpickles nothing that lies in a study's folder.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from usb_active.commands.sweep_cells import begin_log, cell_command, log_path, run_arguments
from usb_active.commands.sweep_engines import Ended
from usb_active.config.shared_pretraining import VARIABLE
from usb_active.config.study import Cell, Study
from usb_active.environment.signals import GRACE
from usb_active.errors import UsageError, reason_of
from usb_active.storage.durable import atomic_write, dump_json, make_folder, no_os_error, parse_json, read_bytes, sync_folder
from usb_active.storage.journal import utc_now

JOBS = "jobs"
_STATE = ".state.json"
_REMEDY = "delete it: the runs are not touched"
# What a cluster sends to all processes of a job before it is stopped: for the process that can have it queued again, not for the run.
_NOTICES = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))


# --- what a sweep keeps ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """A job as it was submitted.

    Attributes:
        path: of the claim.
        engine: by which engine.
        id: its number in the cluster; "" where the sweep was killed before it had one.
        finished: trainings of its cell that were over then.
    """

    path: Path
    engine: str
    id: str = ""
    finished: int = 0

    @property
    def state_path(self) -> Path:
        """What becomes of the job."""
        return self.path.with_name(f"{self.path.stem}{_STATE}")

    def write(self) -> None:
        """Durably: it is found again after any end of the sweep."""
        data = dump_json({"format": 1, "engine": self.engine, "id": self.id, "finished": self.finished})
        atomic_write(self.path, lambda file: file.write(data))


def new_claim(study: Study, cell: Cell, engine: str, finished: int) -> Claim:
    """Withdraw what there is, and claim the cell for a job that is to be submitted."""
    withdraw(study, cell.name)
    folder = _folder(study, cell.name)
    make_folder(folder)
    claim = Claim(folder / f"{secrets.token_hex(8)}.json", engine, finished=finished)
    claim.write()
    return claim


def withdraw(study: Study, name: str) -> None:
    """No job of an earlier call is to begin with the cell of this name any more."""
    folder = _folder(study, name)
    if folder.is_dir():
        with no_os_error("clean up", folder):
            for path in folder.glob("*.json"):
                path.unlink(missing_ok=True)
            sync_folder(folder)


def read_claim(study: Study, cell: Cell) -> Claim | None:
    """The job that the cell was last submitted as.

    Raises:
        UsageError: the claim is damaged.
    """
    folder = _folder(study, cell.name)
    paths = [path for path in folder.glob("*.json") if not path.name.endswith(_STATE)] if folder.is_dir() else []
    for path in paths:
        record = _read(path)
        engine, number, finished = (record.get(name) for name in ("engine", "id", "finished"))
        if not isinstance(engine, str) or not isinstance(number, str) or type(finished) is not int:
            raise UsageError(f"{path} is damaged; {_REMEDY}")
        return Claim(path, engine, number, finished)
    return None


def _folder(study: Study, name: str) -> Path:
    return study.folder / JOBS / name


def _read(path: Path) -> dict[str, Any]:
    """{} where there is none."""
    data = read_bytes(path)
    record = {} if data is None else parse_json(path, data, _REMEDY)
    if not isinstance(record, dict):
        raise UsageError(f"{path} is damaged; {_REMEDY}")
    return record


@dataclass
class ClusterJob:
    """A cell that was submitted, as the sweep sees it.

    Attributes:
        claim: its claim.
        is_alive: asks the cluster whether the job is still in the queue or at work.
        why: what the cluster knows of its end.
        grace: seconds for which the job's own last word is waited for once the cluster says that it is over: files of other machines
            are seen late.
    """

    cell: Cell
    log: Path
    claim: Claim
    is_alive: Callable[[], bool]
    why: Callable[[], str]
    note: str = ""
    grace: float = 0.0
    _state: dict[str, Any] = field(default_factory=dict)
    _gone: float | None = None

    @property
    def finished(self) -> int:
        """Trainings that were over when it was submitted."""
        return self.claim.finished

    @property
    def offset(self) -> int:
        """Where its words begin in the log."""
        return self._state.get("offset", 0)

    def began(self) -> bool:
        """Whether a node works on it, when it was last asked whether it has ended."""
        return self._state.get("began") is not None

    def ended(self) -> Ended | None:
        """By its own last word; else by what the cluster says."""
        # In this order: who is over has said all that it had to say.
        alive = self.is_alive()
        self._state = _read(self.claim.state_path)
        code, seconds = self._state.get("code"), self._state.get("seconds") or 0.0
        if code is not None or self._state.get("why"):
            return Ended(code, seconds, self._state.get("why", ""))
        if alive:
            self._gone = None
            return None
        self._gone = self._gone or time.monotonic()
        if time.monotonic() - self._gone < self.grace:
            return None
        return Ended(None, seconds, self.why())


# --- what runs on a node ---------------------------------------------------------------------------------------------------


def make_cell_job(study: Study, cell: Cell, claim: Claim, donor: Path | None, threads: int) -> CellJob:
    """What a node is to do. `threads`: for OMP_NUM_THREADS, unless the user has set it."""
    log = log_path(study, cell)
    make_folder(log.parent)
    environment = {} if donor is None else {VARIABLE: os.path.abspath(donor)}
    return CellJob(
        words=tuple(cell_command(study, cell)),
        shown=shlex.join(["usb-active", *run_arguments(study, cell)]),
        cwd=os.getcwd(),
        environment=environment,
        threads=threads,
        log=os.path.abspath(log),
        claim=os.path.abspath(claim.path),
        state=os.path.abspath(claim.state_path),
        base=os.path.abspath(study.base),
        digest=_digest(study.base_data),
    )


@dataclass
class CellJob:
    """`usb-active run` in a job of a cluster. Plain values, so that any node can unpickle it.

    Attributes:
        words: the command.
        shown: the command as the log shows it.
        cwd: where it is given.
        environment: variables that the sweep gives it.
        threads: for OMP_NUM_THREADS where that is not set.
        log: what it prints.
        claim: the file without which it does nothing.
        state: what becomes of it.
        base: the YAML of the run, which must not have changed since the cell was checked.
        digest: of that file.
    """

    words: tuple[str, ...]
    shown: str
    cwd: str
    environment: dict[str, str]
    threads: int
    log: str
    claim: str
    state: str
    base: str
    digest: str

    def __call__(self) -> int | None:
        """Run it to its end; its exit code, which is also in `state`."""
        self._process: subprocess.Popen | None = None
        self._start, self._earlier = time.monotonic(), _read(Path(self.state)).get("seconds") or 0.0
        if not os.path.exists(self.claim):
            print(f"nothing is done: a later call of the sweep has taken this cell ({self.claim})")
            return None
        with open(self.log, "ab") as file:
            begun = {"began": utc_now(), "host": socket.gethostname(), "offset": begin_log(file, self.shown)}
            self._say(**begun)
            try:
                if _digest(read_bytes(Path(self.base))) != self.digest:
                    raise UsageError(f"{self.base} has changed since this job was submitted; give the command again")
                code = self._run(file)
            except SystemExit:
                # It is to be queued again, and goes on from there.
                raise
            except BaseException as error:
                self._stop()
                self._say(**begun, why=reason_of(error) if isinstance(error, Exception) else "interrupted")
                raise
        self._say(**begun, code=code)
        return code

    def checkpoint(self) -> Any:
        """submitit calls this where the job is to be queued again: it is preempted, or its time is up. The same command resumes the run."""
        from submitit.helpers import DelayedSubmission

        self._stop()
        self._say()
        return DelayedSubmission(replace(self))

    def _run(self, file: BinaryIO) -> int:
        threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(self.threads)}
        environment = {**os.environ, **threads, **self.environment}
        # Blocked, not ignored: none that comes meanwhile is lost on this process; the run inherits it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOTICES)
        try:
            self._process = subprocess.Popen(
                self.words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=self.cwd, env=environment
            )  # fmt: skip
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._process.wait()

    def _stop(self) -> None:
        """As Ctrl-C does. May be called by a handler of a signal that comes while the process is waited for, and so uses no lock of it."""
        until, number = time.monotonic() + GRACE + 5, signal.SIGINT
        while self._process is not None and self._process.returncode is None and _is_at_work(self._process.pid):
            if number is not None:
                os.kill(self._process.pid, number)
            number = signal.SIGKILL if time.monotonic() > until else None
            time.sleep(0.05)

    def _say(self, **what: Any) -> None:
        data = dump_json({"format": 1, "seconds": self._earlier + time.monotonic() - self._start, **what})
        atomic_write(Path(self.state), lambda file: file.write(data))


def _is_at_work(pid: int) -> bool:
    """Of a child; it stays to be waited for."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None
    except ChildProcessError:
        return False


def _digest(data: bytes | None) -> str:
    return hashlib.sha256(data or b"").hexdigest()
