"""`usb-active sweep`: what becomes of cells that go wrong, one by one; and that none is done whose run is another or has not ended well.

Cells run a line of Python instead of `usb-active run`, so that nothing depends on how fast a machine is.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sweep_helpers import begin, write_report, write_study

from usb_active import cli
from usb_active.commands import sweep, sweep_pretraining, sweep_slots
from usb_active.commands.sweep_engines import Ended
from usb_active.commands.sweep_jobs import make_cell_job, new_claim
from usb_active.commands.sweep_screen import (
    AWAITING,
    DONE,
    FAILED,
    HELD,
    QUEUED,
    RUNNING,
    Board,
    CellState,
    Lines,
    Silent,
    Table,
    screen,
)
from usb_active.commands.sweep_slots import LocalEngine
from usb_active.config.study import Cell, Study, read_study
from usb_active.errors import UsageError
from usb_active.storage.run_dir import RunDir

REFUSED = "usb-active: error: another process (pid 7) uses {path}; wait for it or stop it"


@pytest.fixture
def stand_in(monkeypatch) -> Callable[[str], None]:
    """What cells run; in it, `rule` is the cell's and `path` its run directory."""

    def replace_by(code: str) -> None:
        def command(study: Study, cell: Cell) -> list[str]:
            names = f"import os, sys; rule, path = {cell.place['active.acquisition']!r}, {str(cell.run_path)!r}"
            return [sys.executable, "-S", "-c", f"{names}\n{code}"]

        monkeypatch.setattr(sweep_slots, "cell_command", command)

    return replace_by


def sweep_over(study: Study, jobs: int = 1) -> sweep._Sweep:
    """All cells in the queue, or where `_place` finds them."""
    engine = LocalEngine(study, jobs)
    states, found = sweep._place_all(study, engine, {})
    return sweep._Sweep(study, Board(states, jobs), engine, found)


def states_of(work: sweep._Sweep) -> list[tuple[str, str]]:
    return [(state.state, state.note) for state in work._board.states]


def one_cell(tmp_path: Path, **of_base) -> Study:
    return read_study(write_study(tmp_path, of_base, matrix={"active.acquisition": ["margin"]}))


# ------------------------------------------------------------------------------------------------- of another configuration


def begin_otherwise(study: Study, **keys) -> Path:
    """The run of a study's only cell, finished, from a base that is another; it lies beside the study."""
    (cell,) = study.cells
    other = replace(cell, run_path=study.folder.with_name("other"))
    with RunDir.open(other.run_path, {**cell.config.stored(), **keys}) as run:
        for cycle in range(2):
            run.append_metrics({"cycle": cycle, "num_labels": 20 + 10 * cycle, "evaluated_on": "test", "accuracy": 0.5})
    write_report(other)
    return other.run_path


@pytest.mark.parametrize("code", [0, 3])
def test_a_run_that_has_read_another_base_is_not_done(tmp_path, stand_in, code):
    study = one_cell(tmp_path)
    stand_in(f"os.rename({str(begin_otherwise(study, lr=0.01))!r}, path); sys.exit({code})")
    work = sweep_over(study)
    work.run(Silent())
    ((state, note),) = states_of(work)
    assert state == FAILED and "holds a run of another configuration" in note and "lr: 0.01 -> 0.05" in note


def test_a_run_that_another_has_made_from_another_base_is_not_done(tmp_path):
    study = one_cell(tmp_path)
    work = sweep_over(study)
    (state,) = work._board.states
    state.state = HELD
    study.folder.mkdir()
    os.rename(begin_otherwise(study, lr=0.01), state.cell.run_path)
    work._look_at_held()
    assert state.state == FAILED and "lr: 0.01 -> 0.05" in state.note


def test_a_run_of_fewer_trainings_is_not_done(tmp_path, stand_in):
    # How many there are may change when a run resumes.
    study = one_cell(tmp_path)
    begin(study.cells[0], trainings=1)
    stand_in("sys.exit(0)")
    work = sweep_over(study)
    work.run(Silent())
    ((state, note),) = states_of(work)
    assert state == FAILED and note.startswith("it has ended after 1 of 2 trainings")


def stop_after_one(cell: Cell) -> None:
    """What a run leaves that a rule has ended after the first training."""
    begin(cell, trainings=1)
    with RunDir.open(cell.run_path, cell.config.stored()) as run:
        run.write_state({"cycle": 0, "stage": "stopped", "labels": 20, "skipped": 0, "pending": 0, "why": ["below"]})


def end_below(threshold: float) -> dict:
    rule = {"name": "overall_uncertainty", "below": threshold, "then": "end"}
    return {"active.acquisition": ["margin"], "active.stop": [[rule]]}


def test_a_run_that_a_rule_has_ended_is_done(tmp_path, stand_in):
    study = read_study(write_study(tmp_path, matrix=end_below(100)))
    (cell,) = study.cells
    work = sweep_over(study)
    stop_after_one(cell)
    stand_in("sys.exit(0)")
    work.run(Silent())
    assert states_of(work) == [(DONE, "")]
    # Another sweep does not start it again.
    assert states_of(sweep_over(study)) == [(DONE, "")]
    # Under another rule it may go on, and under none.
    for matrix in (end_below(50), {"active.acquisition": ["margin"]}):
        (other,) = read_study(write_study(tmp_path, matrix=matrix)).cells
        assert not sweep.is_finished(replace(other, run_path=cell.run_path))


def test_a_base_that_changes_after_it_was_read_starts_nothing(tmp_path, stand_in):
    stand_in("sys.exit(0)")
    study = one_cell(tmp_path)
    write_study(tmp_path, {"lr": 0.01})
    work = sweep_over(study)
    work.run(Silent())
    assert states_of(work) == [(FAILED, f"{study.base} has changed since this sweep began; give the command again")]
    # Nor does the job of a cluster, whenever it was submitted.
    job = make_cell_job(study, study.cells[0], new_claim(study, study.cells[0], "slurm", 0), None, 1)
    with pytest.raises(UsageError, match="has changed since this job was submitted"):
        job()


def test_a_base_that_changes_while_a_cell_is_at_work_starts_nothing_more(tmp_path, stand_in):
    study = read_study(write_study(tmp_path))
    stand_in(f"open({str(study.base)!r}, 'a').write('# another')")
    work = sweep_over(study)
    work.run(Silent())
    assert [state for state, _ in states_of(work)] == [DONE, FAILED]


# ------------------------------------------------------------------------------------------------- not ended well


@pytest.mark.parametrize("code", [1, 2])
def test_an_error_after_the_last_training_is_one_and_is_tried_again(tmp_path, capsys, stand_in, code):
    path = write_study(tmp_path, matrix={"active.acquisition": ["margin"]})
    (cell,) = read_study(path).cells
    begin(cell, trainings=2, reported=False)
    stand_in(f"print('usb-active: error: cannot write report.md'); sys.exit({code})")
    for _ in range(2):
        assert cli.main(["sweep", str(path)]) == 1
        assert f"failed: {cell.name}: cannot write report.md (" in capsys.readouterr().out
    # Then it can be written; and is not made again.
    stand_in("os.mkdir(path + '/report'); open(path + '/report/report.md', 'w').close()")
    assert cli.main(["sweep", str(path)]) == 0 and "running" in capsys.readouterr().out
    assert cli.main(["sweep", str(path)]) == 0 and "running" not in capsys.readouterr().out


def test_a_report_of_fewer_trainings_is_none(tmp_path):
    (cell,) = one_cell(tmp_path).cells
    begin(cell, trainings=2)
    assert sweep._is_done(cell)
    os.utime(cell.run_path / "report/report.md", (0, 0))
    assert not sweep._is_done(cell) and sweep.is_finished(cell)


@pytest.mark.parametrize(("reported", "expected"), [(True, DONE), (False, FAILED)])
def test_a_job_that_its_cluster_has_ended_is_done_where_nothing_is_missing(tmp_path, stand_in, reported, expected):
    stand_in("sys.exit(0)")
    study = one_cell(tmp_path)
    work = sweep_over(study)
    (state,) = work._board.states
    job = work._engine.start(state.cell)
    job.process.wait()
    begin(state.cell, trainings=2, reported=reported)
    work._judge(state, job, Ended(None, 1.0, "it is over"))
    assert state.state == expected


# ------------------------------------------------------------------------------------------------- that others have


def test_a_run_that_another_has_is_held_once_it_is_seen(tmp_path, stand_in):
    stand_in("sys.exit(2)")
    study = one_cell(tmp_path)
    work = sweep_over(study)
    (state,) = work._board.states
    with RunDir.open(state.cell.run_path, state.cell.config.stored()):
        work._start()
        work._running[0][1].process.wait()
        work._reap()
        assert (state.state, state.note) == (HELD, f"in use by pid {os.getpid()}")
        work._look_at_held()
        assert state.state == HELD
    # Given back before it was over: it goes on here.
    work._looked = -1e9
    work._look_at_held()
    assert state.state == QUEUED and list(work._queue) == [state]


def test_a_run_that_another_had_for_a_moment_is_done_or_goes_on(tmp_path, stand_in):
    study = read_study(write_study(tmp_path, seeds=1))
    done, unfinished = study.cells
    # What the first process of each says; the second one ends well.
    said = "p = path + '.begun'\nif not os.path.exists(p):\n    os.makedirs(os.path.dirname(p), exist_ok=True); open(p, 'w')\n"
    stand_in(f"{said}    print({REFUSED!r}.format(path=path)); sys.exit(2)\nprint('second')")
    work = sweep_over(study)
    begin(done, trainings=2)
    out = io.StringIO()
    work.run(Lines(out))
    assert [state for state, _ in states_of(work)] == [DONE, DONE]
    logs = [(study.folder / "logs" / f"{cell.name}.log").read_text() for cell in (done, unfinished)]
    assert ["second" in log for log in logs] == [False, True]


# ------------------------------------------------------------------------------------------------- trouble with one cell


def spoil(cell: Cell, what: str) -> None:
    """Something in the way of one cell."""
    if what == "log":
        (cell.run_path.parent / "logs" / f"{cell.name}.log").mkdir(parents=True)
    elif what == "foreign":
        cell.run_path.mkdir(parents=True)
        (cell.run_path / "photo.png").touch()
    elif what == "config.yaml":
        (begin(cell) / what).write_text("{")
    else:
        path = begin(cell) / what
        path.unlink(missing_ok=True)
        path.mkdir()


@pytest.mark.parametrize("what", ["log", "foreign", "config.yaml", "metrics.jsonl", "lock"])
def test_the_others_go_on(tmp_path, capsys, stand_in, what):
    stand_in("sys.exit(0)")
    path = write_study(tmp_path, matrix={"active.acquisition": ["random", "margin", "entropy"]})
    study = read_study(path)
    spoil(study.cells[1], what)
    (study.folder / "study.json").write_text('{"cells": {}}')
    assert cli.main(["sweep", str(path)]) == 1
    said = capsys.readouterr()
    assert said.err == "" and "3 cells: 2 done, 1 failed\n" in said.out and f"failed: {study.cells[1].name}: " in said.out
    # The plan is whole, and says it too, unless it only shows when the cell is started.
    assert cli.main(["sweep", str(path), "--dry-run"]) == (0 if what == "log" else 1)
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert len(lines) == 4 and (lines[1].startswith("failed ") is (what != "log"))


@pytest.mark.parametrize("what", ["metrics.jsonl", "lock"])
def test_what_a_run_leaves_unreadable_is_its_own_trouble(tmp_path, stand_in, what):
    stand_in(f"os.makedirs(path + '/{what}') if rule == 'random' else None")
    work = sweep_over(read_study(write_study(tmp_path)), jobs=2)
    work.run(Silent())
    (first, note), second = states_of(work)
    assert first == FAILED and what in note and second == (DONE, "")


def test_a_command_that_the_system_does_not_take(tmp_path, monkeypatch, stand_in):
    stand_in("sys.exit(0)")
    command = sweep_slots.cell_command

    def too_long(study: Study, cell: Cell) -> list[str]:
        words = command(study, cell)
        return [*words, "x" * 3_000_000] if cell is study.cells[0] else words

    monkeypatch.setattr(sweep_slots, "cell_command", too_long)
    work = sweep_over(read_study(write_study(tmp_path)))
    work.run(Silent())
    (first, note), second = states_of(work)
    assert first == FAILED and note.startswith("cannot start ") and second == (DONE, "")


def test_held_by_what_cannot_be_looked_at(tmp_path):
    study = one_cell(tmp_path)
    work = sweep_over(study)
    (state,) = work._board.states
    state.state = HELD
    spoil(state.cell, "lock")
    work._look_at_held()
    assert state.state == FAILED and str(state.cell.run_path / "lock") in state.note


def test_another_configuration_of_one_refuses_all_whatever_else_is_wrong(tmp_path, capsys, stand_in):
    stand_in("sys.exit(0)")
    path = write_study(tmp_path)
    first, second = read_study(path).cells
    begin(first)
    spoil(second, "foreign")
    write_study(tmp_path, {"lr": 0.01})
    assert cli.main(["sweep", str(path)]) == 2
    assert capsys.readouterr().err.endswith("  lr: 0.05 -> 0.01\n") and not (tmp_path / "study/logs").exists()


# ------------------------------------------------------------------------------------------------- looking and showing


def test_cells_that_wait_for_a_pretraining_are_not_looked_at(tmp_path, monkeypatch):
    matrix = {"active.pretrain": [{"name": "file", "path": "a.pth"}], "active.budget": list(range(1, 31))}
    study = read_study(write_study(tmp_path, matrix=matrix))
    work = sweep._Sweep(study, Board([CellState(cell) for cell in study.cells], 4), LocalEngine(study, 4))
    work._next().state = RUNNING
    looked: list[Path] = []
    exists = os.path.exists
    monkeypatch.setattr(sweep_pretraining.os.path, "exists", lambda path: (looked.append(path), exists(path))[1])
    assert work._next() is None and len(looked) == 1


class Terminal(io.StringIO):
    """Takes what a terminal would."""

    def isatty(self) -> bool:
        return True


def test_the_table_on_a_terminal(tmp_path, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("LINES", "24")
    states = [CellState(cell) for cell in read_study(write_study(tmp_path)).cells]
    board, out = Board(states, 1), Terminal()
    with screen(out) as shown:
        assert isinstance(shown, Table)
        states[0].state, states[1].state, states[1].note = RUNNING, AWAITING, "fill it in"
        shown.changed(board, states[1])
        before = out.getvalue()
        assert "fill it in" in before and "0/2" in before
        # Trainings end within a cell.
        begin(states[0].cell, trainings=1)
        shown._drawn = -1e9
        shown.tick(board)
        assert "1/2" in out.getvalue()[len(before) :]
        # What cannot be read is no end of the sweep.
        spoil(states[0].cell, "metrics.jsonl")
        shown._drawn = -1e9
        shown.tick(board)
    assert states[0].finished == 1
