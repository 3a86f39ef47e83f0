"""A cell of a sweep as a process: its command, and what its log says of it."""

from __future__ import annotations

import os
import signal
import sys
import sysconfig
from pathlib import Path
from typing import BinaryIO, Protocol

from usb_active.config.study import Cell, Study
from usb_active.errors import plain
from usb_active.storage.durable import no_os_error
from usb_active.storage.journal import utc_now

# How much of the end of a log is read for its last words.
_TAIL = 64_000


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


def begin_log(file: BinaryIO, command: str) -> int:
    """Say in an open log what begins; where its words begin."""
    file.write(f"--- {utc_now()} {command}\n".encode())
    file.flush()
    return file.tell()


class Logged(Protocol):
    """A cell's process and its part of the log."""

    cell: Cell
    log: Path
    offset: int


def last_words(item: Logged, code: int) -> str:
    """Why a process has failed, in one line: its last error, else the last that it printed, else its exit code."""
    if code < 0:
        return f"killed by {_signal_name(-code)}{' (out of memory?)' if code == -signal.SIGKILL else ''}"
    lines = _lines(item)
    errors = [line for line in lines if line.startswith("usb-active: error: ")]
    return plain(errors[-1].removeprefix("usb-active: error: ")) if errors else plain(lines[-1]) if lines else f"exit code {code}"


def _signal_name(number: int) -> str:
    """Those between SIGRTMIN and SIGRTMAX have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def what_is_awaited(item: Logged) -> str:
    """The line that says which file people are to fill in."""
    lines = _lines(item)
    return plain(next((line for line in reversed(lines) if str(item.cell.run_path) in line), lines[-1] if lines else ""))


def _lines(item: Logged) -> list[str]:
    with no_os_error("read", item.log), open(item.log, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(item.offset, size - _TAIL))
        text = file.read().decode("utf-8", "replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()]
