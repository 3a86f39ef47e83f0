"""How a sweep shows where it is: a table that is redrawn, where there is a terminal and rich is installed; else a line per change."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO

from usb_active.config.study import Cell
from usb_active.errors import UsageError, plain
from usb_active.storage.durable import read_bytes

# Submitted: in the queue of a cluster.
QUEUED, SUBMITTED, RUNNING, HELD = "queued", "submitted", "running", "in use"
DONE, AWAITING, FAILED = "done", "waiting", "failed"
# What a long table shows first.
_ORDER = (RUNNING, HELD, FAILED, AWAITING, SUBMITTED, QUEUED, DONE)
_COLORS = {
    RUNNING: "cyan", SUBMITTED: "blue", HELD: "magenta", FAILED: "red", AWAITING: "yellow", DONE: "green", QUEUED: "dim",
}  # fmt: skip


@dataclass
class CellState:
    """Where a cell is. `note`: its one line, when it waits or has failed; `finished`: its trainings that are over."""

    cell: Cell
    state: str = QUEUED
    note: str = ""
    finished: int = 0

    def look(self) -> None:
        """Count the trainings that are over."""
        self.finished = min(self.cell.trainings, (read_bytes(self.cell.run_path / "metrics.jsonl") or b"").count(b"\n"))


@dataclass
class Board:
    """All cells, and how long trainings take. `jobs`: how many at a time; None where that is how many are at work at the moment."""

    states: Sequence[CellState]
    jobs: int | None
    # Of cells that were finished by this command: seconds, and trainings.
    measured: list[tuple[float, int]] = field(default_factory=list)

    def count(self, *names: str) -> int:
        """How many cells are in these states."""
        return sum(state.state in names for state in self.states)

    def seconds_left(self) -> float | None:
        """An estimate from the cells that are finished; None before there is one."""
        trainings = sum(number for _, number in self.measured)
        going = [state for state in self.states if state.state in (QUEUED, SUBMITTED, RUNNING, HELD)]
        if not trainings or not going:
            return None
        parallel = self.jobs or max(1, self.count(RUNNING, HELD))
        each = sum(seconds for seconds, _ in self.measured) / trainings
        return each * sum(state.cell.trainings - state.finished for state in going) / min(parallel, len(going))

    def summary(self) -> str:
        """`12 cells: 3 done, 2 running, 7 queued; about 4 min left`."""
        names = (DONE, RUNNING, HELD, SUBMITTED, AWAITING, FAILED, QUEUED)
        counts = [f"{self.count(name)} {_SPOKEN.get(name, name)}" for name in names if self.count(name)]
        left = self.seconds_left()
        return f"{len(self.states)} cells: {', '.join(counts)}{f'; about {duration(left)} left' if left is not None else ''}"


_SPOKEN = {AWAITING: "waiting for labels"}


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class SweepScreen(Protocol):
    """What shows a sweep."""

    def changed(self, board: Board, state: CellState, seconds: float | None = None) -> None:
        """A cell has come into another state; `seconds`: how long its process took."""

    def tick(self, board: Board) -> None:
        """Called all the time."""


class Silent:
    """Shows nothing."""

    def changed(self, board: Board, state: CellState, seconds: float | None = None) -> None:
        """Nothing to do."""

    def tick(self, board: Board) -> None:
        """Nothing to do."""


class Lines:
    """A line per change."""

    def __init__(self, out: TextIO):
        self._out = out

    def changed(self, board: Board, state: CellState, seconds: float | None = None) -> None:
        """Say it."""
        done, took = board.count(DONE), "" if seconds is None else f" ({duration(seconds)})"
        left = board.seconds_left() if state.state == DONE else None
        rest = f"; about {duration(left)} left" if left is not None else ""
        note = f": {state.note}" if state.note else ""
        print(f"[{done}/{len(board.states)}] {state.state:<7} {plain(state.cell.name)}{took}{note}{rest}", file=self._out, flush=True)

    def tick(self, board: Board) -> None:
        """Nothing to do."""


class Table:
    """A live table, by rich."""

    def __init__(self, live: Any):
        self._live = live
        self._drawn = 0.0

    def changed(self, board: Board, state: CellState, seconds: float | None = None) -> None:
        """Draw it."""
        self._live.update(draw_table(board, self._live.console.size.height), refresh=True)
        self._drawn = time.monotonic()

    def tick(self, board: Board) -> None:
        """Draw it again, once a second: trainings end within a cell."""
        if time.monotonic() - self._drawn > 1:
            for state in board.states:
                if state.state in (RUNNING, HELD):
                    # What cannot be read is said when the cell has ended.
                    with contextlib.suppress(UsageError):
                        state.look()
            self.changed(board, board.states[0])


def draw_table(board: Board, height: int) -> Any:
    """The table as rich draws it, of at most `height` lines."""
    from rich.table import Table as RichTable
    from rich.text import Text

    room = max(3, height - 6)
    shown = list(board.states)
    if len(shown) > room:
        shown = sorted(shown, key=lambda state: _ORDER.index(state.state))[:room]
    table = RichTable(caption=Text(board.summary()), box=None, padding=(0, 2, 0, 0))
    for head in ("cell", "state", "trainings", ""):
        table.add_column(head, justify="right" if head == "trainings" else "left", no_wrap=True, overflow="ellipsis")
    for state in shown:
        progress = f"{state.finished}/{state.cell.trainings}"
        texts = plain(state.cell.name), Text(state.state, style=_COLORS[state.state]), progress, state.note
        table.add_row(*(text if isinstance(text, Text) else Text(text) for text in texts))
    if len(shown) < len(board.states):
        table.add_row(Text(f"… and {len(board.states) - len(shown)} more", style="dim"))
    return table


@contextlib.contextmanager
def screen(out: TextIO) -> Iterator[SweepScreen]:
    """The table where it can be drawn, else lines."""
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        yield Lines(out)
        return
    console = Console(file=out)
    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines(out)
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        yield Table(live)
