"""A SLURM of one node for tests: sbatch, srun, squeue and scontrol as submitit and the sweep call them. Jobs are processes of this machine.

While the file `hold` is there, jobs stay in the queue; `release` begins with them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

ROOT = "FAKE_SLURM"
PROGRAMS = ("sbatch", "srun", "squeue", "scontrol")


class FakeSlurm:
    """The cluster as a test sees it."""

    def __init__(self, root: Path):
        self.root = root
        (root / "bin").mkdir(parents=True)
        for name in PROGRAMS:
            program = root / "bin" / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{__file__}" {name} "$@"\n')
            program.chmod(0o755)

    @classmethod
    def install(cls, root: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
        """In front of whatever the machine has."""
        found = cls(root)
        monkeypatch.setenv(ROOT, str(root))
        monkeypatch.setenv("PATH", f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}")
        return found

    def hold(self) -> None:
        """Jobs stay in the queue from now on."""
        (self.root / "hold").touch()

    def release(self) -> None:
        """Those in the queue begin."""
        (self.root / "hold").unlink()
        for number in [number for number, state in _states(self.root).items() if state == "PENDING"]:
            _launch(self.root, number)

    def refuse(self, line: str) -> None:
        """What sbatch says instead of taking a job."""
        (self.root / "refuse").write_text(line)

    def go_silent(self) -> None:
        """squeue fails from now on."""
        (self.root / "silent").touch()

    def end(self, number: str, state: str) -> None:
        """A job that has not begun is over, as by scancel."""
        (self.root / f"{number}.state").write_text(state)

    @property
    def numbers(self) -> list[str]:
        """Of all jobs that were ever submitted."""
        return list(_states(self.root))

    def script(self, number: str) -> str:
        """What was submitted."""
        return (self.root / f"{number}.sh").read_text()

    def state(self, number: str) -> str:
        """As squeue says it."""
        return _states(self.root)[number]

    def notify(self, number: str) -> None:
        """What SLURM sends before the time of a job is up: to all processes of its step."""
        task = int((self.root / f"{number}.pid").read_text())
        for child in Path(f"/proc/{task}/task/{task}/children").read_text().split():
            os.kill(int(child), signal.SIGUSR2)
        os.kill(task, signal.SIGUSR2)


def wait_until(what: Callable[[], Any], seconds: float = 300) -> Any:
    """Until it is so; what it gives then."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "not seen"
        time.sleep(0.05)
    return found


# --- the programs ----------------------------------------------------------------------------------------------------------


def _states(root: Path) -> dict[str, str]:
    paths = sorted(root.glob("*.state"), key=lambda path: int(path.stem))
    return {path.stem: path.read_text() for path in paths}


def _set(root: Path, number: str, state: str) -> None:
    """At once: others read it all the time."""
    path = root / f"{number}.state"
    path.with_suffix(".tmp").write_text(state)
    path.with_suffix(".tmp").replace(path)


def _launch(root: Path, number: str) -> None:
    words = [sys.executable, "-S", __file__, "node", str(root), number]
    nowhere = subprocess.DEVNULL
    subprocess.Popen(words, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)


def _node(root: Path, number: str) -> None:
    """Until a job is over; again where it is to be queued again."""
    again, state = root / f"{number}.again", "PENDING"
    own = {"SLURM_JOB_ID": number, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}
    environment = {**os.environ, **own, **dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), "0")}
    while state == "PENDING":
        _set(root, number, "RUNNING")
        code = subprocess.run(["bash", str(root / f"{number}.sh")], env=environment).returncode
        state = "PENDING" if again.exists() else "FAILED" if code else "COMPLETED"
        again.unlink(missing_ok=True)
    _set(root, number, state)


def _sbatch(root: Path, script: str) -> None:
    if (root / "refuse").exists():
        sys.exit((root / "refuse").read_text())
    number = str(100 + len(_states(root)))
    (root / f"{number}.sh").write_text(Path(script).read_text())
    _set(root, number, "PENDING")
    if not (root / "hold").exists():
        _launch(root, number)
    print(f"Submitted batch job {number}")


def _srun(root: Path, *words: str) -> None:
    number, rest = os.environ["SLURM_JOB_ID"], list(words)
    while rest[0].startswith("--"):
        option = rest.pop(0)
        if option in ("--output", "--error"):
            path = rest.pop(0).replace("%j", number).replace("%t", "0")
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1 if option == "--output" else 2)
    (root / f"{number}.pid").write_text(str(os.getpid()))
    os.execvp(rest[0], rest)


def _squeue(root: Path, *words: str) -> None:
    assert "--format=%i %T" in words and f"--user={os.getuid()}" in words and "--states=all" in words
    if (root / "silent").exists():
        sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    for number, state in _states(root).items():
        if not (root / f"{number}.purged").exists():
            print(number, state)


def _scontrol(root: Path, what: str, number: str) -> None:
    assert what == "requeue"
    (root / f"{number}.again").touch()


if __name__ == "__main__":
    name, *rest = sys.argv[1:]
    if name == "node":
        _node(Path(rest[0]), rest[1])
    else:
        {"sbatch": _sbatch, "srun": _srun, "squeue": _squeue, "scontrol": _scontrol}[name](Path(os.environ[ROOT]), *rest)
