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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from usb_active.commands.sweep_cells import last_words, log_path, run_arguments, what_is_awaited
from usb_active.commands.sweep_engines import Ended, Engine, Job, make_engine
from usb_active.commands.sweep_jobs import withdraw
from usb_active.commands.sweep_pretraining import shared_pretrainings
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
from usb_active.config.study import Cell, Study, is_cell_name, read_study
from usb_active.environment.signals import StopSignals
from usb_active.errors import UsageError, name_some, plain, reason_of
from usb_active.report.under_way import is_over
from usb_active.storage.durable import (
    REFUSED_LOCK,
    atomic_write,
    lock_holder,
    make_folder,
    no_os_error,
    read_bytes,
    release_lock,
    take_lock,
)
from usb_active.storage.run_dir import OtherConfigurationError, RunDir, check_reopening
from usb_active.storage.study_list import STUDY_FILE, read_study_list, study_list

# Exit codes of `usb-active run` that are no failure.
_OK, _WAITING = 0, 3
# Of one that ends with an error of its user's.
_WRONG_USE = 2
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
    """Run all cells of a study that are not done. Exit code 0 all done, 3 some wait for labels, 1 some failed.

    Raises:
        UsageError: something is wrong with the study, or another sweep has its folder; nothing was started.
    """
    study = read_study(options.study, options.overrides)
    for line in study.warnings:
        print(f"usb-active: warning: {plain(line)}", file=sys.stderr)
    _check_folder(study)
    troubles = _check_begun(study)
    engine = make_engine(options.engine, study, options.jobs)
    if options.dry_run:
        return _show_plan(study, _place_all(study, engine, troubles)[0], out)
    with _claimed(study):
        _remember(study, out)
        states, jobs = _place_all(study, engine, troubles)
        board = Board(states, engine.parallel)
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


def _check_begun(study: Study) -> dict[str, str]:
    """Cells whose directories cannot be used, by name, each with the reason: they have failed, and the others are to go on.

    Raises:
        UsageError: runs that have begun are of other configurations than the study now says: each with its differences.
    """
    problems, troubles = [], {}
    for cell in study.cells:
        try:
            _check_configuration(cell)
        except OtherConfigurationError as error:
            problems.append(str(error))
        except UsageError as error:
            troubles[cell.name] = reason_of(error)
    if problems:
        raise UsageError("\n".join(problems))
    return troubles


def _check_configuration(cell: Cell) -> None:
    """UsageError where a cell's directory is no run's, or of a run with another configuration."""
    config = cell.config
    check_reopening(cell.run_path, config.stored(), free_keys=config.free_keys, remedy="give the study another `name:`")


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
    text = study_list(study.source, {**{name: {**before[name], "dropped": True} for name in gone}, **now})
    if text != read_bytes(path):
        atomic_write(path, lambda file: file.write(text))


def is_finished(cell: Cell) -> bool:
    """Whether all trainings of a cell are over, or one of its stop rules has ended it before them."""
    if not (cell.run_path / "config.yaml").is_file():
        return False
    run = RunDir.read(cell.run_path)
    return is_over(run, cell.config.stored(), len(run.metrics()))


def _is_done(cell: Cell) -> bool:
    """Whether a cell is finished and has its report, with which a run ends; one that was killed before is started again and makes it."""
    return is_finished(cell) and _is_reported(cell.run_path)


def _is_reported(run_path: Path) -> bool:
    try:
        return os.stat(run_path / "report" / "report.md").st_mtime_ns >= os.stat(run_path / "metrics.jsonl").st_mtime_ns
    except OSError:
        # Where it cannot be looked at either, the run says so when it is started.
        return False


def _place_all(study: Study, engine: Engine, troubles: Mapping[str, str]) -> tuple[list[CellState], list[Job]]:
    """Where each cell is, and the jobs of an earlier call. `troubles`: cells that have failed already, with the reasons."""
    states, jobs = [CellState(cell) for cell in study.cells], []
    for state in states:
        try:
            if (trouble := troubles.get(state.cell.name)) is not None:
                state.state, state.note = FAILED, trouble
            elif (job := _place(state, engine)) is not None:
                jobs.append(job)
        except UsageError as error:
            state.state, state.note = FAILED, reason_of(error)
    return states, jobs


def _place(state: CellState, engine: Engine) -> Job | None:
    """Where a cell is before this sweep does anything; the job of an earlier call that has not ended."""
    cell = state.cell
    state.look()
    job = engine.adopt(cell)
    if job is not None:
        state.state, state.note = _at_work(job), job.note
    elif (holder := lock_holder(cell.run_path / "lock")) is not None:
        state.state, state.note = HELD, f"in use by pid {holder}"
    elif _is_done_or_damaged(cell):
        state.state = DONE
    return job


def _at_work(job: Job) -> str:
    return RUNNING if job.began() else SUBMITTED


def _is_done_or_damaged(cell: Cell) -> bool:
    """As `_is_done`; a damaged run is not, and says itself what is the matter when it is started."""
    try:
        return _is_done(cell)
    except UsageError:
        return False


def _show_plan(study: Study, states: Sequence[CellState], out: TextIO) -> int:
    """What would be done, with the commands; nothing is written."""
    for state in states:
        note = f": {state.note}" if state.state == FAILED else ""
        print(f"{state.state:<7} {state.finished}/{state.cell.trainings}  {plain(state.cell.name)}{note}", file=out)
        if state.state == QUEUED:
            print(f"        usb-active {shlex.join(run_arguments(study, state.cell))}", file=out)
    trainings = sum(state.cell.trainings - state.finished for state in states if state.state != DONE)
    print(f"{Board(states, 1).summary()}; {trainings} trainings to do, in {study.folder}", file=out)
    return 1 if any(state.state == FAILED for state in states) else _OK


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
        self._pretrainings = shared_pretrainings(board.states)
        self._screen: SweepScreen = Silent()

    @property
    def jobs(self) -> list[Job]:
        """Those that have not ended."""
        return [job for _, job in self._running]

    def run(self, shown: SweepScreen) -> None:
        """All of it."""
        self._screen = shown
        for state in self._board.states:
            if state.state in (HELD, SUBMITTED, RUNNING, FAILED):
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
            try:
                if read_bytes(self._study.base) != self._study.base_data:
                    # Cells of one study would be of two configurations.
                    raise UsageError(f"{self._study.base} has changed since this sweep began; give the command again")
                # Between the start of a process and the list that it is stopped by, nothing may come.
                with StopSignals.held():
                    job = self._engine.start(state.cell, self._donor(state), state.finished)
                    self._running.append((state, job))
            except UsageError as error:
                self._fail(state, error)
                continue
            self._change(state, _at_work(job), job.note)

    def _next(self) -> CellState | None:
        """The first in the queue whose turn it may be: one cell pretrains, and those with the same pretraining wait for it."""
        # Each is asked once, however many cells wait for it.
        waiting = set()
        for state in self._queue:
            shared = self._pretrainings.get(state.cell.name)
            if shared in waiting:
                continue
            if shared is None or shared.lets_start():
                self._queue.remove(state)
                return state
            waiting.add(shared)
        return None

    def _donor(self, state: CellState) -> Path | None:
        """The run of another cell whose pretraining is over and the same."""
        shared = self._pretrainings.get(state.cell.name)
        donor = None if shared is None else shared.donor()
        return None if donor == state.cell.run_path else donor

    def _reap(self) -> None:
        for entry in list(self._running):
            state, job = entry
            try:
                ended = job.ended()
                if ended is None:
                    if state.state != _at_work(job):
                        self._change(state, _at_work(job), job.note)
                    continue
                self._running.remove(entry)
                state.look()
                self._judge(state, job, ended)
            except UsageError as error:
                # Of this cell alone: something that it has written cannot be read, or is another run's.
                self._running = [other for other in self._running if other is not entry]
                self._fail(state, error)

    def _judge(self, state: CellState, job: Job, ended: Ended) -> None:
        """Where a cell is whose job has ended. UsageError: it has failed."""
        holder = lock_holder(state.cell.run_path / "lock")
        if ended.code in (_OK, _WAITING):
            # The run has read the base by itself, and that may have changed since the cell was checked.
            _check_configuration(state.cell)
        if ended.code == _OK:
            _check_trainings(state)
            if state.finished > job.finished:
                self._board.measured.append((ended.seconds, state.finished - job.finished))
            self._change(state, DONE, seconds=ended.seconds)
        elif ended.code == _WAITING:
            self._change(state, AWAITING, what_is_awaited(job), ended.seconds)
        elif holder is not None:
            # It was begun by a sweep that is gone, and had not taken the lock yet when it was looked for.
            self._change(state, HELD, f"in use by pid {holder}")
        elif ended.code == _WRONG_USE and REFUSED_LOCK in (words := last_words(job, ended.code)):
            # The other one has ended since; how, is looked at as with all that others have.
            self._change(state, HELD, words)
        elif ended.code is None and _is_done_or_damaged(state.cell):
            # Ended by its cluster after all its work.
            _check_configuration(state.cell)
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
            try:
                if lock_holder(state.cell.run_path / "lock") is not None:
                    continue
                self._place_released(state)
            except UsageError as error:
                self._fail(state, error)

    def _place_released(self, state: CellState) -> None:
        """Where a cell is that another process had. UsageError: it has failed."""
        state.look()
        # Before the cell is in the queue, where it is not looked at for a pretraining.
        self._donor(state)
        _check_configuration(state.cell)
        if _is_done_or_damaged(state.cell):
            self._change(state, DONE)
        else:
            self._change(state, QUEUED)
            self._queue.appendleft(state)

    def _fail(self, state: CellState, error: UsageError) -> None:
        self._change(state, FAILED, reason_of(error))

    def _change(self, state: CellState, name: str, note: str = "", seconds: float | None = None) -> None:
        state.state, state.note = name, note
        self._screen.changed(self._board, state, seconds)


def _check_trainings(state: CellState) -> None:
    """UsageError where a run has ended well with fewer trainings than its cell has: how many there are is a key that it may change."""
    cell = state.cell
    if (cell.run_path / "config.yaml").is_file() and not is_finished(cell):
        raise UsageError(f"it has ended after {state.finished} of {cell.trainings} trainings: has its base changed? Give the command again")


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
