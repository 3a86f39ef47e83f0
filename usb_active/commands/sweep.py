"""What `usb-active sweep` does: the cells of a study, as many at a time as its engine has room for, each in a process of its own.

A cell is an ordinary run and resumes by itself, so all that a sweep keeps is a list of its cells. What was killed is started again by the
same command; a run that is still at work for a sweep that is gone holds the lock of its directory, and is waited for.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from usb_active.commands.sweep_cells import last_words, log_path, run_arguments, what_is_awaited
from usb_active.commands.sweep_engines import Ended, Engine, Job, NotStarted, make_engine
from usb_active.commands.sweep_jobs import withdraw
from usb_active.commands.sweep_screen import (
    AWAITING,
    DONE,
    FAILED,
    HELD,
    QUEUED,
    RUNNING,
    SUBMITTED,
    Board,
    CellState,
    Silent,
    SweepScreen,
    screen,
)
from usb_active.config.shared_pretraining import pretraining_key
from usb_active.config.study import Cell, Study, is_cell_name, read_study
from usb_active.environment.signals import StopSignals
from usb_active.errors import UsageError, name_some, plain, reason_of
from usb_active.storage.durable import (
    atomic_write,
    lock_holder,
    make_folder,
    no_os_error,
    read_bytes,
    release_lock,
    take_lock,
)
from usb_active.storage.run_dir import RunDir, check_reopening
from usb_active.storage.study_list import STUDY_FILE, read_study_list, study_list

# Exit codes of `usb-active run` that are no failure.
_OK, _WAITING = 0, 3
# Seconds between two looks at the locks of runs that others have.
_POLL_LOCKS = 1.0
# What a study's folder holds beside its cells; whatever else lies there says that it is none.
_OWN = ("lock", STUDY_FILE, f".{STUDY_FILE}.", "logs", "jobs", "report")


@dataclass(frozen=True)
class SweepOptions:
    """As the command line has them."""

    study: str
    jobs: int | None = None
    dry_run: bool = False
    overrides: tuple[str, ...] = ()
    engine: str = "local"


def sweep(options: SweepOptions, out: TextIO) -> int:
    """Run all cells of a study that are not finished. Exit code 0 all done, 3 some wait for labels, 1 some failed.

    Raises:
        UsageError: something is wrong with the study, or another sweep has its folder; nothing was started.
    """
    study = read_study(options.study, options.overrides)
    for line in study.warnings:
        print(f"usb-active: warning: {plain(line)}", file=sys.stderr)
    _check_folder(study)
    _check_begun(study)
    engine = make_engine(options.engine, study, options.jobs)
    if options.dry_run:
        return _show_plan(study, engine, out)
    with _claimed(study):
        _remember(study, out)
        board = Board([CellState(cell) for cell in study.cells], engine.parallel)
        jobs = [job for state in board.states if (job := _place(state, engine)) is not None]
        print(f"{study.name}: {len(study.cells)} cells in {study.folder}, {board.count(DONE)} done; {engine.describe()}", file=out)
        out.flush()
        work = _Sweep(study, board, engine, jobs)
        try:
            with screen(out) as shown:
                work.run(shown)
        finally:
            left = engine.leave(work.jobs)
            # Whoever is to read it may have gone with the terminal.
            with suppress(OSError):
                print(left, end="\n" if left else "", file=out, flush=True)
        return _conclude(study, board, out)


# --- before anything starts ------------------------------------------------------------------------------------------------


def _check_folder(study: Study) -> None:
    """Never work in a folder of something else."""
    folder = study.folder
    with no_os_error("use", folder):
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file; the study needs a folder")
        names = os.listdir(folder) if folder.exists() else []
    foreign = [name for name in names if not name.startswith(_OWN) and not is_cell_name(name)]
    if foreign and STUDY_FILE not in names:
        shown = name_some(sorted(foreign), 3)
        raise UsageError(f"{folder} is not empty and no study's (no {STUDY_FILE}, but {shown}); give the study another `name:`")


def _check_begun(study: Study) -> None:
    """UsageError where runs that have begun are of other configurations than the study now says: each with its differences."""
    problems = []
    for cell in study.cells:
        try:
            config = cell.config
            remedy = "give the study another `name:`"
            check_reopening(cell.run_path, config.stored(), free_keys=config.free_keys, remedy=remedy)
        except UsageError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems))


@contextmanager
def _claimed(study: Study) -> Iterator[None]:
    """The study's folder, for this process alone."""
    make_folder(study.folder)
    lock = take_lock(study.folder / "lock")
    try:
        yield
    finally:
        release_lock(lock)


def _remember(study: Study, out: TextIO) -> None:
    """Keep the list of cells; say which of an earlier call are none any more."""
    path = study.folder / STUDY_FILE
    before = read_study_list(study.folder)
    base = os.path.abspath(study.base)
    now = {
        cell.name: {"seed": cell.seed, "overrides": list(cell.overrides), "base": base, "varied": list(cell.place)} for cell in study.cells
    }
    gone = [name for name in before if name not in now]
    # Names from a file that may have come from someone else: those of cells alone.
    for name in [name for name in gone if is_cell_name(name) and os.path.basename(name) == name]:
        withdraw(study, name)
    if gone:
        print(f"no longer in the study, and left as they are: {name_some(gone, 3)}", file=out, flush=True)
    added = [name for name in now if name not in before]
    if before and added:
        print(f"new in the study: {name_some(added, 3)}", file=out, flush=True)
    text = study_list(study.source, {**{name: before[name] for name in gone}, **now})
    if text != read_bytes(path):
        atomic_write(path, lambda file: file.write(text))


def is_finished(cell: Cell) -> bool:
    """Whether all trainings of a cell are over."""
    if not (cell.run_path / "config.yaml").is_file():
        return False
    return len(RunDir.read(cell.run_path).metrics()) >= cell.trainings


def _place(state: CellState, engine: Engine) -> Job | None:
    """Where a cell is before this sweep does anything; the job of an earlier call that has not ended."""
    cell = state.cell
    state.look()
    job = engine.adopt(cell)
    holder = lock_holder(cell.run_path / "lock")
    if job is not None:
        state.state, state.note = _at_work(job), job.note
    elif holder is not None:
        state.state, state.note = HELD, f"in use by pid {holder}"
    elif _is_finished_or_damaged(cell):
        state.state = DONE
    return job


def _at_work(job: Job) -> str:
    return RUNNING if job.began() else SUBMITTED


def _is_finished_or_damaged(cell: Cell) -> bool:
    """As `is_finished`; a damaged run is not, and says itself what is the matter when it is started."""
    try:
        return is_finished(cell)
    except UsageError:
        return False


def _by_pretraining(states: Sequence[CellState]) -> dict[str, list[CellState]]:
    """Cell → all cells that have the same pretraining; none where there is no pretrainer."""
    groups: dict[str | None, list[CellState]] = {}
    keys = {state.cell.name: pretraining_key(state.cell.config) for state in states}
    for state in states:
        groups.setdefault(keys[state.cell.name], []).append(state)
    return {name: [] if key is None else groups[key] for name, key in keys.items()}


def _has_pretraining(state: CellState) -> bool:
    return (state.cell.run_path / "pretrain" / "pretrained.pth").exists()


def _show_plan(study: Study, engine: Engine, out: TextIO) -> int:
    """What would be done, with the commands; nothing is written."""
    states = [CellState(cell) for cell in study.cells]
    for state in states:
        _place(state, engine)
        print(f"{state.state:<7} {state.finished}/{state.cell.trainings}  {plain(state.cell.name)}", file=out)
        if state.state == QUEUED:
            print(f"        usb-active {shlex.join(run_arguments(study, state.cell))}", file=out)
    trainings = sum(state.cell.trainings - state.finished for state in states if state.state != DONE)
    print(f"{Board(states, 1).summary()}; {trainings} trainings to do, in {study.folder}", file=out)
    return _OK


# --- the work --------------------------------------------------------------------------------------------------------------


class _Sweep:
    """Starts cells as the engine has room for them, until each has had its turn."""

    def __init__(self, study: Study, board: Board, engine: Engine, jobs: Sequence[Job] = ()):
        """`jobs`: of an earlier call, that have not ended."""
        self._study, self._board, self._engine = study, board, engine
        self._queue = deque(state for state in board.states if state.state == QUEUED)
        states = {state.cell.name: state for state in board.states}
        self._running = [(states[job.cell.name], job) for job in jobs]
        self._looked = 0.0
        self._groups = _by_pretraining(board.states)
        # What the cells were checked with.
        self._base = read_bytes(study.base)
        self._screen: SweepScreen = Silent()

    @property
    def jobs(self) -> list[Job]:
        """Those that have not ended."""
        return [job for _, job in self._running]

    def run(self, shown: SweepScreen) -> None:
        """All of it."""
        self._screen = shown
        for state in self._board.states:
            if state.state in (HELD, SUBMITTED, RUNNING):
                self._screen.changed(self._board, state)
        while self._queue or self._running or self._board.count(HELD):
            self._reap()
            self._look_at_held()
            self._start()
            self._screen.tick(self._board)
            if self._running or self._board.count(HELD):
                time.sleep(self._engine.poll_seconds)

    def _start(self) -> None:
        # Runs that others have need cores as well; but whoever holds a lock for ever must not keep all others from their turn.
        limit = max(1, self._engine.capacity - self._board.count(HELD))
        while len(self._running) < limit and (state := self._next()) is not None:
            if read_bytes(self._study.base) != self._base:
                # Cells of one study would be of two configurations.
                self._change(state, FAILED, f"{self._study.base} has changed since this sweep began; give the command again")
                continue
            try:
                # Between the start of a process and the list that it is stopped by, nothing may come.
                with StopSignals.held():
                    job = self._engine.start(state.cell, self._donor(state), state.finished)
                    self._running.append((state, job))
            except NotStarted as error:
                self._change(state, FAILED, reason_of(error))
                continue
            self._change(state, _at_work(job), job.note)

    def _next(self) -> CellState | None:
        """The first in the queue whose turn it may be: one cell pretrains, and those with the same pretraining wait for it."""
        for state in self._queue:
            others = self._same_pretraining(state)
            if _has_pretraining(state) or self._donor(state) or not any(other.state in (SUBMITTED, RUNNING, HELD) for other in others):
                self._queue.remove(state)
                return state
        return None

    def _same_pretraining(self, state: CellState) -> list[CellState]:
        return [other for other in self._groups[state.cell.name] if other is not state]

    def _donor(self, state: CellState) -> Path | None:
        """The run of a cell whose pretraining is over and the same."""
        return next((other.cell.run_path for other in self._same_pretraining(state) if _has_pretraining(other)), None)

    def _reap(self) -> None:
        for entry in list(self._running):
            state, job = entry
            ended = job.ended()
            if ended is not None:
                self._running.remove(entry)
                state.look()
                self._judge(state, job, ended)
            elif state.state != _at_work(job):
                self._change(state, _at_work(job), job.note)

    def _judge(self, state: CellState, job: Job, ended: Ended) -> None:
        holder = lock_holder(state.cell.run_path / "lock")
        if ended.code == _OK:
            if state.finished > job.finished:
                self._board.measured.append((ended.seconds, state.finished - job.finished))
            self._change(state, DONE, seconds=ended.seconds)
        elif ended.code == _WAITING:
            self._change(state, AWAITING, what_is_awaited(job), ended.seconds)
        elif holder is not None:
            # It was begun by a sweep that is gone, and had not taken the lock yet when it was looked for.
            self._change(state, HELD, f"in use by pid {holder}")
        elif _is_finished_or_damaged(state.cell) and ended.code in (2, None):
            # The other one has finished it meanwhile.
            self._change(state, DONE)
        else:
            why = ended.why if ended.code is None else last_words(job, ended.code)
            # A job that a cluster has ended in its queue has written none.
            log = log_path(self._study, state.cell)
            self._change(state, FAILED, f"{why} ({log})" if log.exists() else why, ended.seconds)

    def _look_at_held(self) -> None:
        if time.monotonic() - self._looked < _POLL_LOCKS:
            return
        self._looked = time.monotonic()
        for state in [state for state in self._board.states if state.state == HELD]:
            if lock_holder(state.cell.run_path / "lock") is not None:
                continue
            state.look()
            if _is_finished_or_damaged(state.cell):
                self._change(state, DONE)
            else:
                self._change(state, QUEUED)
                self._queue.appendleft(state)

    def _change(self, state: CellState, name: str, note: str = "", seconds: float | None = None) -> None:
        state.state, state.note = name, note
        self._screen.changed(self._board, state, seconds)


def _conclude(study: Study, board: Board, out: TextIO) -> int:
    """What is left to do, and how to go on."""
    for state in board.states:
        if state.state in (FAILED, AWAITING):
            print(f"{state.state}: {plain(state.cell.name)}: {state.note}", file=out)
    print(board.summary(), file=out)
    if board.count(DONE):
        print(f"report: usb-active report {shlex.quote(str(study.folder))}", file=out)
    if board.count(FAILED):
        print("the same command tries again what has failed", file=out)
        return 1
    return _WAITING if board.count(AWAITING) else _OK
