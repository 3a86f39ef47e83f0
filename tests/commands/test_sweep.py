"""`usb-active sweep`: what it starts and what not, what it says, and that whatever ends it costs nothing."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from run_comparison import compare
from sweep_helpers import begin, write_study

from usb_active import cli
from usb_active.commands import sweep, sweep_cells
from usb_active.commands.sweep import is_finished
from usb_active.commands.sweep_cells import last_words
from usb_active.commands.sweep_screen import DONE, FAILED, RUNNING, Board, CellState, Lines, draw_table, duration
from usb_active.commands.sweep_slots import LocalEngine, Running, Slot, make_slots, visible_gpus
from usb_active.config import shared_pretraining
from usb_active.config.settings import ActiveConfig, load_yaml_config
from usb_active.config.shared_pretraining import pretraining_key
from usb_active.config.study import Cell, read_study
from usb_active.storage.durable import lock_holder, release_lock, take_lock
from usb_active.storage.run_dir import RunDir

# ------------------------------------------------------------------------------------------------- what is started


def test_a_dry_run_shows_the_commands_and_writes_nothing(tmp_path, capsys):
    path = write_study(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert cli.main(["sweep", str(path), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == before
    assert out.count("        usb-active run ") == 2 and "--set active.acquisition=margin --set seed=3" in out
    assert out.splitlines()[-1] == f"2 cells: 2 queued; 4 trainings to do, in {tmp_path / 'study'}"


def test_finished_cells_are_only_counted(tmp_path, capsys):
    path = write_study(tmp_path)
    for cell in read_study(path).cells:
        begin(cell, trainings=2)
        assert is_finished(cell)
    assert cli.main(["sweep", str(path)]) == 0
    out = capsys.readouterr().out
    assert "running" not in out and out.endswith(f"2 cells: 2 done\nreport: usb-active report {tmp_path / 'study'}\n")
    # More cycles are more to do.
    assert cli.main(["sweep", str(path), "--dry-run", "--set", "active.cycles=3"]) == 0
    assert "2 cells: 2 queued; 4 trainings to do" in capsys.readouterr().out


def test_a_changed_cell_that_has_begun_is_refused_with_the_difference(tmp_path, capsys):
    path = write_study(tmp_path)
    run = begin(read_study(path).cells[0])
    write_study(tmp_path, {"lr": 0.01})
    assert cli.main(["sweep", str(path)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"usb-active: error: {run} holds a run of another configuration; give the study another `name:`, or undo these changes:",
        "usb-active: error:   lr: 0.05 -> 0.01",
    ]
    assert not (tmp_path / "study/study.json").exists() and not (tmp_path / "study/logs").exists()


def test_a_study_that_changes_gains_cells_and_keeps_what_it_loses(tmp_path, capsys):
    path = write_study(tmp_path)
    first = read_study(path)
    for cell in first.cells:
        begin(cell, trainings=2)
    assert cli.main(["sweep", str(path)]) == 0
    write_study(tmp_path, matrix={"active.acquisition": ["margin"]}, seeds=[3, 4])
    for cell in read_study(path).cells:
        begin(cell, trainings=2)
    capsys.readouterr()
    assert cli.main(["sweep", str(path)]) == 0
    out = capsys.readouterr().out
    assert "no longer in the study, and left as they are: acquisition=random,seed=3\n" in out
    assert "new in the study: acquisition=margin,seed=4\n" in out and "2 cells: 2 done\n" in out
    kept = json.loads((tmp_path / "study/study.json").read_text())["cells"]
    assert list(kept) == ["acquisition=random,seed=3", "acquisition=margin,seed=3", "acquisition=margin,seed=4"]
    assert {tuple(cell["varied"]) for cell in kept.values()} == {("active.acquisition",)}
    assert [name for name, cell in kept.items() if cell.get("dropped")] == ["acquisition=random,seed=3"]
    assert first.cells[0].run_path.is_dir()


def test_a_second_sweep_is_refused_and_names_the_first(tmp_path, capsys):
    path = write_study(tmp_path)
    (tmp_path / "study").mkdir()
    lock = tmp_path / "study/lock"
    code = "import sys; from pathlib import Path; from usb_active.storage.durable import take_lock"
    code += "; take_lock(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        assert lock_holder(lock) == str(other.pid)
        assert cli.main(["sweep", str(path)]) == 2
        other.stdin.close()
    said = capsys.readouterr().err
    assert said == f"usb-active: error: another process (pid {other.pid}) uses {tmp_path / 'study'}; wait for it or stop it\n"
    assert lock_holder(lock) is None


@pytest.mark.parametrize("name", ["photo.png", "config.yaml"])
def test_a_folder_of_something_else_is_refused(tmp_path, capsys, name):
    path = write_study(tmp_path)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / name).write_text("x")
    assert cli.main(["sweep", str(path)]) == 2
    assert f"is not empty and no study's (no study.json, but {name})" in capsys.readouterr().err
    assert [item.name for item in (tmp_path / "study").iterdir()] == [name]


@pytest.mark.parametrize("text", ["[1]", "{", '{"cells": 3}'])
def test_a_damaged_list_of_cells_is_one_line(tmp_path, capsys, text):
    path = write_study(tmp_path)
    (tmp_path / "study").mkdir()
    (tmp_path / "study/study.json").write_text(text)
    assert cli.main(["sweep", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "study.json is damaged" in line and line.endswith("delete it: the runs are not touched")
    for cell in read_study(path).cells:
        begin(cell, trainings=2)
    (tmp_path / "study/logs").mkdir()
    (tmp_path / "study/study.json").unlink()
    assert cli.main(["sweep", str(path)]) == 0


def test_an_engine_that_there_is_not(capsys):
    with pytest.raises(SystemExit):
        cli.main(["sweep", "digits", "--engine", "pbs"])
    said = capsys.readouterr().err
    assert all(name in said for name in ("local", "slurm"))


def test_a_base_that_changes_meanwhile_starts_nothing_more(tmp_path):
    study = read_study(write_study(tmp_path))
    board = Board([CellState(cell) for cell in study.cells], jobs=1)
    out = io.StringIO()
    work = sweep._Sweep(study, board, LocalEngine(study, 1))
    write_study(tmp_path, {"lr": 0.01})
    work.run(Lines(out))
    assert [state.state for state in board.states] == [FAILED, FAILED] and not study.folder.exists()
    assert out.getvalue().count(f"{study.base} has changed since this sweep began; give the command again") == 2


# ------------------------------------------------------------------------------------------------- pretraining


def pretraining(name: str = "a") -> dict[str, Any]:
    return {"active.pretrain": [{"name": "file", "path": f"{name}.pth"}]}


def test_what_comes_after_a_pretraining_has_no_part_in_it(tmp_path):
    base = {"seeds": [3], "matrix": pretraining()}
    (cell,) = read_study(write_study(tmp_path, **base)).cells
    key = pretraining_key(cell.config)
    later = {"active.acquisition": ["random"], "active.budget": [3], "active.initial.size": [30], "algorithm": ["fixmatch"], "lr": [0.1]}
    later |= {"active.fast": ["fast"], "active.weak_no_grad": [True], "use_cat": [False], "active.cache_images": [True]}
    later |= {"active.charge_volunteered": [True], "active.audit": [3], "active.views": ["vectorized"]}
    for name, values in later.items():
        (other,) = read_study(write_study(tmp_path, **{**base, "matrix": {**pretraining(), name: values}})).cells
        assert pretraining_key(other.config) == key, name
    own = {"net.width": [8], "active.threads": [2], "img_size": [16], "crop_ratio": [0.5], "active.features": ["pretrain"]}
    for name, values in own.items():
        (other,) = read_study(write_study(tmp_path, **{**base, "matrix": {**pretraining(), name: values}})).cells
        assert pretraining_key(other.config) != key, name
    for keys in ({"seeds": [4]}, {"matrix": pretraining("b")}):
        (other,) = read_study(write_study(tmp_path, **{**base, **keys})).cells
        assert pretraining_key(other.config) != key
    (without,) = read_study(write_study(tmp_path, matrix={"active.budget": [5]})).cells
    assert pretraining_key(without.config) is None


def test_of_every_key_it_is_said_whether_it_has_a_part_in_a_pretraining():
    """A key that is new belongs into one of both: where it is forgotten, cells that differ in it alone pretrain apart."""
    part = {"train_on", "deterministic", "threads", "fast_hooks", "features", "pretrain"}
    later = set(shared_pretraining._LATER_IN_BLOCK)
    assert not part & later and part | later == set(ActiveConfig.model_fields)


def test_one_cell_pretrains_and_the_others_with_the_same_pretraining_wait_for_it(tmp_path):
    matrix = {**pretraining(), "active.acquisition": ["random", "margin"]}
    states = [CellState(cell) for cell in read_study(write_study(tmp_path, matrix=matrix, seeds=2)).cells]
    study = read_study(tmp_path / "study.yaml")
    work = sweep._Sweep(study, Board(states, 4), LocalEngine(study, 4))

    def take() -> CellState | None:
        state = work._next()
        if state is not None:
            state.state = RUNNING
        return state

    assert [take(), take(), take()] == [states[0], states[1], None]
    made = begin(states[1].cell) / "pretrain/pretrained.pth"
    made.parent.mkdir()
    made.touch()
    assert work._donor(states[2]) is None and work._donor(states[3]) == states[1].cell.run_path
    assert [take(), take()] == [states[3], None]
    # Where the one that pretrained has failed, another does.
    states[0].state = FAILED
    assert [take(), take()] == [states[2], None]


# ------------------------------------------------------------------------------------------------- slots


def test_slots_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 3, 5, 6}, raising=False)
    assert [slot.cores for slot in make_slots(2)] == [(0, 2), (3, 5, 6)]
    assert [slot.threads for slot in make_slots(2)] == [2, 3]
    assert [slot.cores for slot in make_slots(1)] == [(0, 2, 3, 5, 6)]
    many = make_slots(7)
    assert all(len(slot.cores) == 1 for slot in many) and {slot.cores[0] for slot in many} == {0, 2, 3, 5, 6}


def install_nvidia_smi(monkeypatch, folder, script):
    """The driver's program, as the only one there is; and no choice of the user's."""
    program = folder / "nvidia-smi"
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_slots_share_the_gpus(monkeypatch, tmp_path):
    install_nvidia_smi(monkeypatch, tmp_path, "#!/bin/sh\nprintf 'GPU-a\\nGPU-b\\n'\n")
    assert visible_gpus() == ["GPU-a", "GPU-b"]
    assert [slot.gpu for slot in make_slots(3)] == ["GPU-a", "GPU-b", "GPU-a"]
    # What the user has chosen is all there is; one GPU is no choice.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,4")
    assert [slot.gpu for slot in make_slots(2)] == ["2", "4"]
    for given in ("1", ""):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert [slot.gpu for slot in make_slots(2)] == [None, None]


def test_no_gpu_is_found_where_the_driver_does_not_answer(monkeypatch, tmp_path):
    install_nvidia_smi(monkeypatch, tmp_path, "#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert visible_gpus() == []


def test_the_environment_of_a_slot(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert Slot((1, 2), 2, "GPU-a").environment() == {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "GPU-a"}
    assert Slot((1, 2), 2, "GPU-a").environment(has_gpu_key=True) == {"OMP_NUM_THREADS": "2"}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert Slot((1, 2), 2).environment() == {}


@pytest.mark.parametrize(
    ("text", "code", "expected"),
    [
        ("cycle 0\nusb-active: error: a\nusb-active: error: b\nlast\n", 2, "b"),
        ("Traceback (most recent call last):\n  File x\nMemoryError: \x1b[31mno\n", 1, r"MemoryError: \x1b[31mno"),
        ("", 1, "exit code 1"),
        ("anything", -9, "killed by SIGKILL (out of memory?)"),
        ("anything", -40, "killed by signal 40"),
    ],
)
def test_the_last_words_of_a_process(tmp_path, text, code, expected):
    log = tmp_path / "log"
    log.write_text(f"usb-active: error: of an earlier process\n{text}")
    item = Running(None, Slot((), 1), None, log, log.stat().st_size - len(text.encode()), 0.0)
    assert last_words(item, code) == expected


def test_looking_at_a_lock_leaves_it_as_it_is(tmp_path):
    path = tmp_path / "lock"
    assert lock_holder(path) is None
    held = take_lock(path)
    assert lock_holder(path) == str(os.getpid())
    code = "import sys; from pathlib import Path; from usb_active.storage.durable import lock_holder; print(lock_holder(Path(sys.argv[1])))"
    result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert result.stdout == f"{os.getpid()}\n", result.stderr
    release_lock(held)
    assert lock_holder(path) is None


# ------------------------------------------------------------------------------------------------- what is shown


@pytest.fixture
def board(tmp_path) -> Board:
    """Four cells of two trainings: done, running with one training over, two queued."""
    cells = read_study(write_study(tmp_path, seeds=2)).cells
    states = [CellState(cell) for cell in cells]
    states[0].state, states[0].finished = DONE, 2
    states[1].state, states[1].finished = RUNNING, 1
    return Board(states, jobs=2)


def test_the_time_left_is_that_of_the_finished_cells(board):
    assert board.seconds_left() is None
    board.measured.append((60.0, 2))
    # 30 s per training; 1 + 2 + 2 are left, two at a time.
    assert board.seconds_left() == 75.0
    assert board.summary() == "4 cells: 1 done, 1 running, 2 queued; about 75 s left"
    assert [duration(seconds) for seconds in (3.2, 600, 9000)] == ["3 s", "10 min", "2.5 h"]


def test_a_line_for_each_change(board):
    out = io.StringIO()
    board.states[2].state, board.states[2].note = FAILED, "no"
    Lines(out).changed(board, board.states[2], 12.0)
    assert out.getvalue() == "[1/4] failed  acquisition=margin,seed=0 (12 s): no\n"


def test_the_table_has_the_cells_that_fit(board):
    console = pytest.importorskip("rich.console").Console(file=io.StringIO(), width=100)
    board.states[3].state, board.states[3].note = FAILED, "[red]no[/red]"
    console.print(draw_table(board, 24))
    whole = console.file.getvalue()
    assert all(state.cell.name in whole for state in board.states) and "1/2" in whole and "[red]no[/red]" in whole
    console.print(draw_table(board, 9))
    short = console.file.getvalue().removeprefix(whole)
    assert "… and 1 more" in short and board.states[0].cell.name not in short and board.states[1].cell.name in short


# ------------------------------------------------------------------------------------------------- real runs


def start(path: Path, *arguments: str, stdout: Any = subprocess.PIPE) -> subprocess.Popen:
    """The command in a process group of its own."""
    command = [sys.executable, "-m", "usb_active", "sweep", str(path), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True, start_new_session=True
    )  # fmt: skip


def wait_for(what: Callable[[], Any], process: subprocess.Popen, seconds: float = 240) -> None:
    """Until it is so; the process must not end before."""
    until = time.monotonic() + seconds
    while not what():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            pytest.fail(f"not seen: {process.communicate()}")
        time.sleep(0.05)


def has_lock(cell: Cell) -> bool:
    return lock_holder(cell.run_path / "lock") is not None


def running(cells: Iterable[Cell]) -> set[int]:
    """Pids of the runs that hold a lock; none as long as one of these has yet to write its own."""
    found = [holder for cell in cells if (holder := lock_holder(cell.run_path / "lock"))]
    return set(map(int, found)) if all(holder.isdecimal() for holder in found) else set()


@pytest.mark.slow
def test_one_cell_fails_one_waits_and_one_is_done(tmp_path):
    included = [{"active.oracle": "dataset"}, {"active.oracle": "csv"}, {"active.budget": 5000}]
    path = write_study(tmp_path, matrix=None, include=included)
    with start(path, "--jobs", "3") as process:
        out, err = process.communicate(timeout=600)
    assert process.returncode == 1 and err == "", err
    study = read_study(path)
    done, waiting, failed = study.cells
    log = study.folder / "logs" / f"{failed.name}.log"
    asked = waiting.run_path / "queries/cycle_000.csv"
    ends = out[out.rindex("waiting: ") :].splitlines()
    missing = f"20 of 20 labels are missing: fill the column 'label' of {asked} (pictures: {asked.with_suffix('.html')})"
    assert ends[0] == f"waiting: {waiting.name}: {missing}"
    assert ends[1].startswith(f"failed: {failed.name}: ") and "active.budget" in ends[1] and ends[1].endswith(f" ({log})")
    assert ends[2].startswith("3 cells: 1 done, 1 waiting for labels, 1 failed")
    assert asked.is_file() and len(RunDir.read(done.run_path).metrics()) == 2
    # Without the one that cannot be: what is done is not started again, and labels are all that is missing.
    write_study(tmp_path, matrix=None, include=included[:2])
    with start(path) as process:
        out, _ = process.communicate(timeout=600)
    assert process.returncode == 3 and out.count("running") == 1 and "2 cells: 1 done, 1 waiting for labels\n" in out


@pytest.mark.slow
def test_however_it_is_ended_it_ends_as_a_run_left_alone(tmp_path):
    path = write_study(tmp_path, {"num_train_iter": 60, "num_eval_iter": 20})
    study = read_study(path)
    # With one training over in each: that none is done twice shows in the seconds of its line, and nowhere else.
    with start(path, "--jobs", "2", "--set", "active.cycles=0") as process:
        _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    trained = [(cell.run_path / "metrics.jsonl").read_bytes() for cell in study.cells]
    assert [data.count(b"\n") for data in trained] == [1, 1] and all(b'"train_seconds"' in data for data in trained)
    # Ctrl-C: the runs are waited for, and the same command resumes.
    with start(path, "--jobs", "2") as process:
        wait_for(lambda: any(map(has_lock, study.cells)), process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and err == "\nusb-active: interrupted; the same command resumes from here\n"
    assert not any(map(has_lock, study.cells))
    # Killed alone: its runs go on, and are not started a second time. They stand still until that was seen, however fast they are.
    with start(path, "--jobs", "2") as process:
        seen: list[set[int]] = []
        wait_for(lambda: seen.append(running(study.cells)) or seen[-1], process)
        holders = seen[-1]
        for pid in holders:
            os.kill(pid, signal.SIGSTOP)
        process.kill()
        process.communicate(timeout=120)
    at_the_kill = [(cell.run_path / "metrics.jsonl").read_bytes() for cell in study.cells]
    said = tmp_path / "said.txt"
    with said.open("w") as file, start(path, "--jobs", "2", stdout=file) as process:
        try:
            wait_for(lambda: "in use by pid " in said.read_text(), process)
        finally:
            for pid in holders:
                os.kill(pid, signal.SIGCONT)
        _, err = process.communicate(timeout=600)
    assert process.returncode == 0 and err == "", err
    now = [(cell.run_path / "metrics.jsonl").read_bytes() for cell in study.cells]
    assert [data.startswith(before) for data, before in zip(now, trained, strict=True)] == [True, True]
    assert [data.startswith(before) for data, before in zip(now, at_the_kill, strict=True)] == [True, True]
    assert said.read_text().endswith(f"2 cells: 2 done\nreport: usb-active report {tmp_path / 'study'}\n")
    # In another directory, undisturbed.
    from usb_active.usb.launcher import make_algorithm

    for cell in study.cells:
        name = f"reference,{cell.name}"
        make_algorithm(load_yaml_config(study.base, (*cell.overrides, f"save_name={name}"))).train()
        assert compare(cell.run_path, cell.run_path.with_name(name)).differences == []


def test_the_command_of_a_cell_is_this_installation(tmp_path):
    study = read_study(write_study(tmp_path))
    command = sweep_cells.cell_command(study, study.cells[0])
    assert command[0] == sys.executable
    result = subprocess.run([*command[: command.index("run")], "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert result.stdout.startswith("usb-active ")


