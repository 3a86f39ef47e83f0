"""`usb-active sweep --engine slurm`: one job for each cell, found again whatever became of the sweep, and never two."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import run_helpers
import yaml
from fake_slurm import FakeSlurm, wait_until
from sweep_helpers import begin

from usb_active import cli
from usb_active.commands import sweep, sweep_jobs
from usb_active.commands.sweep_engines import Ended
from usb_active.commands.sweep_jobs import read_claim
from usb_active.commands.sweep_screen import DONE, HELD, QUEUED, RUNNING, SUBMITTED, Board, CellState, Silent
from usb_active.commands.sweep_slots import LocalEngine
from usb_active.config.shared_pretraining import VARIABLE
from usb_active.config.study import Cell, Study, read_study
from usb_active.storage.durable import lock_holder
from usb_active.storage.run_dir import RunDir
from usb_active.storage.study_list import study_list

pytest.importorskip("submitit")
from usb_active.commands.sweep_slurm import SlurmEngine, SlurmQueue  # noqa: E402  (it is of no use without)

RULES = ["random", "margin", "entropy"]
TESTS = Path(__file__).resolve().parents[1]


def write_study(tmp_path: Path, rules: list[str] = RULES, slurm: dict | None = None, **keys) -> Path:
    """A study over tiny runs of two trainings; it lies in tmp_path/study."""
    data = run_helpers.settings(tmp_path, active={"baselines": False})
    for key in ("save_dir", "save_name"):
        del data[key]
    run_helpers.write_yaml(tmp_path / "base.yaml", data)
    study = {"base": "base.yaml", "seeds": [3], "save_dir": str(tmp_path), "name": "study", "slurm": {"timeout_min": 30, **(slurm or {})}}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**study, "matrix": {"active.acquisition": rules}, **keys}, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> FakeSlurm:
    """A cluster that answers at once."""
    monkeypatch.setattr(SlurmEngine, "poll_seconds", 0.05)
    monkeypatch.setattr(SlurmEngine, "grace", 0.0)
    monkeypatch.setattr(SlurmQueue, "ask_seconds", 0.0)
    return FakeSlurm.install(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def stand_in(monkeypatch) -> Callable[[str], None]:
    """Cells run a line of Python instead of `usb-active run`; in it, `rule` is the cell's."""

    def replace(code: str) -> None:
        def command(study: Study, cell: Cell) -> list[str]:
            return [sys.executable, "-S", "-c", f"import os, sys, time; rule = {cell.place['active.acquisition']!r}\n{code}"]

        monkeypatch.setattr(sweep_jobs, "cell_command", command)

    return replace


def wait_for_end(job) -> Ended:
    return wait_until(job.ended)


# ------------------------------------------------------------------------------------------------- a whole sweep


@pytest.mark.slow
def test_exit_codes_become_states_and_only_what_is_not_done_is_submitted_again(tmp_path, capsys, slurm, stand_in):
    path = write_study(tmp_path)
    done, waiting, failed = read_study(path).cells
    code = f"print('fill in', {str(waiting.run_path)!r}); print('usb-active: error: no')"
    stand_in(f"{code}; sys.exit({{'random': 0, 'margin': 3}}.get(rule, 2))")
    assert cli.main(["sweep", str(path), "--engine", "slurm"]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"study: 3 cells in {tmp_path / 'study'}, 0 done; all as jobs of SLURM\n")
    assert f"submitted {done.name}: job 100\n" in out and slurm.numbers == ["100", "101", "102"]
    log = tmp_path / "study/logs" / f"{failed.name}.log"
    assert out.endswith(
        f"waiting: {waiting.name}: fill in {waiting.run_path}\nfailed: {failed.name}: no ({log})\n"
        "3 cells: 1 done, 1 waiting for labels, 1 failed\n"
        f"report: usb-active report {tmp_path / 'study'}\nthe same command tries again what has failed\n"
    )
    begin(done, trainings=2)
    assert cli.main(["sweep", str(path), "--engine", "slurm"]) == 1
    assert slurm.numbers == ["100", "101", "102", "103", "104"]
    assert [failed.name in slurm.script(number) for number in ("103", "104")] == [False, True]
    # And on this machine: it is one study, whatever started its cells.
    begin(waiting, trainings=2)
    begin(failed, trainings=2)
    assert cli.main(["sweep", str(path)]) == 0


def test_what_the_study_asks_for_is_in_the_script(tmp_path, slurm, stand_in):
    stand_in("pass")
    asked = {"partition": "gpu", "gpus_per_node": 1, "cpus_per_task": 4, "mem_gb": 16, "setup": ["module load cuda"]}
    study = read_study(write_study(tmp_path, ["random"], {**asked, "additional_parameters": {"reservation": "al"}}))
    wait_for_end(SlurmEngine(study).start(study.cells[0], None, 0))
    script = slurm.script("100").splitlines()
    for line in ("partition=gpu", "gpus-per-node=1", "cpus-per-task=4", "mem=16GB", "time=30", "reservation=al"):
        assert f"#SBATCH --{line}" in script
    assert "module load cuda" in script and f"#SBATCH --job-name=study,{study.cells[0].name}" in script


@pytest.mark.slow
def test_so_many_at_a_time_as_jobs_says(tmp_path, slurm, stand_in):
    stand_in("pass")
    slurm.hold()
    study = read_study(write_study(tmp_path))
    board = Board([CellState(cell) for cell in study.cells], None)
    work = sweep._Sweep(study, board, SlurmEngine(study, 2))
    work._start()
    work._start()
    assert [state.state for state in board.states] == [SUBMITTED, SUBMITTED, QUEUED] and slurm.numbers == ["100", "101"]
    assert work._engine.describe() == "2 jobs of SLURM at a time"
    slurm.release()
    work.run(Silent())
    assert [state.state for state in board.states] == [DONE] * 3 and slurm.numbers == ["100", "101", "102"]


def test_one_job_pretrains_and_those_in_the_queue_are_not_passed(tmp_path, slurm, stand_in):
    stand_in(f"print(os.environ.get({VARIABLE!r}))")
    slurm.hold()
    matrix = {"active.pretrain": [{"name": "file", "path": "a.pth"}], "active.acquisition": ["random", "margin"]}
    study = read_study(write_study(tmp_path, matrix=matrix))
    states = [CellState(cell) for cell in study.cells]
    work = sweep._Sweep(study, Board(states, None), SlurmEngine(study))
    work._start()
    assert [state.state for state in states] == [SUBMITTED, QUEUED]
    made = states[0].cell.run_path / "pretrain/pretrained.pth"
    made.parent.mkdir(parents=True)
    made.touch()
    slurm.release()
    work.run(Silent())
    logs = [(study.folder / "logs" / f"{cell.name}.log").read_text().splitlines()[-1] for cell in study.cells]
    assert logs == ["None", str(states[0].cell.run_path)]


def test_what_slurm_refuses_is_shown_and_the_others_go_on(tmp_path, capsys, slurm, stand_in):
    stand_in("pass")
    path = write_study(tmp_path)
    last = "sbatch: error: Batch job submission failed: Invalid partition name specified"
    slurm.refuse(f"sbatch: error: invalid partition specified: gpuu\n{last}")
    assert cli.main(["sweep", str(path), "--engine", "slurm"]) == 1
    said = capsys.readouterr()
    assert said.out.count(f"failed  acquisition={RULES[0]},seed=3: not submitted: {last}\n") == 1
    assert "3 cells: 3 failed\n" in said.out and said.err == ""
    assert all(read_claim(read_study(path), cell) is None for cell in read_study(path).cells)


# ------------------------------------------------------------------------------------------------- found again


@pytest.mark.slow
def test_a_job_in_the_queue_is_found_again_and_not_submitted_twice(tmp_path, slurm, stand_in):
    stand_in("pass")
    slurm.hold()
    study = read_study(write_study(tmp_path))
    first = SlurmEngine(study)
    for cell in study.cells[:2]:
        first.start(cell, None, 0)
    # The sweep is gone; of what it had submitted, one job was cancelled.
    slurm.end("101", "CANCELLED")
    second = SlurmEngine(study)
    states = [CellState(cell) for cell in study.cells]
    jobs = [job for state in states if (job := sweep._place(state, second)) is not None]
    assert [state.state for state in states] == [SUBMITTED, QUEUED, QUEUED] and [job.note for job in jobs] == ["job 100"]
    slurm.release()
    sweep._Sweep(study, Board(states, None), second, jobs).run(Silent())
    assert [state.state for state in states] == [DONE] * 3 and slurm.numbers == ["100", "101", "102", "103"]
    # What has ended is no job any more.
    assert all(SlurmEngine(study).adopt(cell) is None for cell in study.cells)


def test_a_job_whose_number_was_never_kept_does_nothing(tmp_path, slurm, stand_in):
    ran = tmp_path / "ran"
    stand_in(f"open({str(ran)!r}, 'a').write('x')")
    slurm.hold()
    study = read_study(write_study(tmp_path, ["random"]))
    (cell,) = study.cells
    lost = SlurmEngine(study).start(cell, None, 0)
    # Killed between sbatch and this.
    sweep_jobs.Claim(lost.claim.path, "slurm").write()
    engine = SlurmEngine(study)
    assert engine.adopt(cell) is None
    job = engine.start(cell, None, 0)
    slurm.release()
    assert wait_for_end(job).code == 0
    wait_until(lambda: slurm.state("100") == "COMPLETED")
    assert ran.read_text() == "x" and lost.ended().code is None


def test_a_cell_that_this_machine_starts_is_no_more_the_queues(tmp_path, slurm, stand_in):
    ran = tmp_path / "ran"
    stand_in(f"open({str(ran)!r}, 'a').write('x')")
    slurm.hold()
    study = read_study(write_study(tmp_path, ["random"]))
    SlurmEngine(study).start(study.cells[0], None, 0)
    engine = LocalEngine(study)
    engine.leave([engine.start(study.cells[0])])
    slurm.release()
    wait_until(lambda: slurm.state("100") == "COMPLETED")
    assert not ran.exists()


def test_a_cell_that_is_no_more_in_the_study_leaves_the_queue(tmp_path, slurm, stand_in):
    ran = tmp_path / "ran"
    stand_in(f"open({str(ran)!r}, 'a').write(rule)")
    slurm.hold()
    study = read_study(write_study(tmp_path, ["random", "margin"]))
    study.folder.mkdir()
    sweep._remember(study, io.StringIO())
    engine = SlurmEngine(study)
    jobs = [engine.start(cell, None, 0) for cell in study.cells]
    sweep._remember(read_study(write_study(tmp_path, ["margin"])), io.StringIO())
    slurm.release()
    wait_until(lambda: slurm.state("100") == "COMPLETED")
    assert wait_for_end(jobs[1]).code == 0 and ran.read_text() == "margin"


def test_a_run_that_another_has_is_waited_for(tmp_path, slurm, stand_in):
    stand_in("sys.exit(2)")
    study = read_study(write_study(tmp_path, ["random"]))
    (state,) = states = [CellState(cell) for cell in study.cells]
    work = sweep._Sweep(study, Board(states, None), SlurmEngine(study))
    with RunDir.open(state.cell.run_path, state.cell.config.stored()):
        work._start()
        wait_until(lambda: (work._reap(), state.state == HELD)[1])
        assert state.note == f"in use by pid {os.getpid()}"


def test_a_list_that_names_other_folders_costs_nothing(tmp_path, slurm):
    study = read_study(write_study(tmp_path, ["random"]))
    other = tmp_path / "other,seed=3"
    for folder in (study.folder / "jobs", other):
        folder.mkdir(parents=True)
    (other / "precious.json").touch()
    (study.folder / "study.json").write_bytes(study_list("study.yaml", {"../../other,seed=3": {}, str(other): {}}))
    sweep._remember(study, io.StringIO())
    assert (other / "precious.json").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"engine": "slurm", "id": 3, "finished": 0}'])
def test_a_damaged_claim_is_one_line(tmp_path, capsys, slurm, stand_in, text):
    stand_in("pass")
    slurm.hold()
    path = write_study(tmp_path, ["random"])
    study = read_study(path)
    job = SlurmEngine(study).start(study.cells[0], None, 0)
    job.claim.path.write_text(text)
    assert cli.main(["sweep", str(path), "--engine", "slurm", "--dry-run"]) == 1
    line, _ = capsys.readouterr().out.splitlines()
    assert f"{job.claim.path} is damaged" in line and line.endswith("delete it: the runs are not touched")


# ------------------------------------------------------------------------------------------------- how jobs end


def test_a_job_that_slurm_ends_before_its_turn(tmp_path, slurm, stand_in):
    stand_in("pass")
    slurm.hold()
    study = read_study(write_study(tmp_path))
    engine = SlurmEngine(study)
    jobs = [engine.start(cell, None, 0) for cell in study.cells]
    assert [job.ended() for job in jobs] == [None] * 3 and not jobs[0].began()
    slurm.end("100", "CANCELLED")
    slurm.end("101", "NODE_FAIL")
    (slurm.root / "102.purged").touch()
    assert [job.ended() for job in jobs] == [
        Ended(None, 0.0, "job 100 is over, and not by its own end (CANCELLED)"),
        Ended(None, 0.0, "job 101 is over, and not by its own end (NODE_FAIL)"),
        Ended(None, 0.0, "job 102 is over, and not by its own end (SLURM knows it no more)"),
    ]


def test_its_last_word_may_come_late(tmp_path, slurm, stand_in, monkeypatch):
    stand_in("pass")
    slurm.hold()
    monkeypatch.setattr(SlurmEngine, "grace", 3600.0)
    study = read_study(write_study(tmp_path, ["random"]))
    job = SlurmEngine(study).start(study.cells[0], None, 0)
    slurm.end("100", "COMPLETED")
    assert job.ended() is None
    sweep_jobs.atomic_write(job.claim.state_path, lambda file: file.write(b'{"code": 0, "seconds": 5.0, "began": "now", "offset": 7}'))
    assert job.ended() == Ended(0, 5.0) and job.began() and job.offset == 7


def test_where_slurm_does_not_answer_jobs_are_taken_to_be_there(tmp_path, slurm, stand_in, caplog):
    stand_in("pass")
    slurm.hold()
    study = read_study(write_study(tmp_path, ["random"]))
    job = SlurmEngine(study).start(study.cells[0], None, 0)
    slurm.go_silent()
    assert job.ended() is None and job.ended() is None and SlurmEngine(study).adopt(study.cells[0]).note == "job 100"
    first, _ = caplog.messages
    assert first == (
        "squeue does not answer, and is asked again: slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    )


def test_a_base_that_changed_while_the_job_was_in_the_queue(tmp_path, slurm, stand_in):
    stand_in("pass")
    slurm.hold()
    study = read_study(write_study(tmp_path, ["random"]))
    job = SlurmEngine(study).start(study.cells[0], None, 0)
    study.base.write_text(f"{study.base.read_text()}\n# another\n")
    slurm.release()
    ended = wait_for_end(job)
    assert ended.code is None and ended.why == f"{study.base} has changed since this job was submitted; give the command again"


@pytest.mark.slow
def test_a_job_whose_time_is_up_is_queued_again_and_goes_on(tmp_path, slurm, stand_in):
    begun = tmp_path / "begun"
    # Interrupted as by Ctrl-C, and not by the notice itself.
    code = "import signal; assert signal.SIGUSR2 in signal.pthread_sigmask(signal.SIG_BLOCK, ())\n"
    code += f"p = {str(begun)!r}\nif not os.path.exists(p):\n    open(p, 'w'); time.sleep(600)\nprint('second'); sys.exit(0)"
    stand_in(code)
    study = read_study(write_study(tmp_path, ["random"], {"timeout_min": 1}))
    job = SlurmEngine(study).start(study.cells[0], None, 0)
    wait_until(begun.exists)
    assert job.ended() is None and job.began()
    slurm.notify("100")
    assert wait_for_end(job).code == 0 and slurm.numbers == ["100"]
    log = job.log.read_text()
    assert "KeyboardInterrupt" in log and log.endswith("second\n") and log.count("--- ") == 2


def test_a_job_whose_time_is_up_too_often_has_failed(tmp_path, slurm, stand_in):
    begun = tmp_path / "begun"
    stand_in(f"open({str(begun)!r}, 'w'); time.sleep(600)")
    study = read_study(write_study(tmp_path, ["random"], {"timeout_min": 1, "max_num_timeout": 0}))
    job = SlurmEngine(study).start(study.cells[0], None, 0)
    wait_until(begun.exists)
    slurm.notify("100")
    ended = wait_for_end(job)
    assert ended.code is None and "timed-out too many times" in ended.why


# ------------------------------------------------------------------------------------------------- what must be there


def test_what_is_missing_is_one_line(tmp_path, capsys, monkeypatch, slurm):
    def refusal(path: Path) -> str:
        assert cli.main(["sweep", str(path), "--engine", "slurm"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("usb-active: error: ")

    path = write_study(tmp_path)
    (slurm.root / "bin/squeue").unlink()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(slurm.root / "bin"))
        assert refusal(path) == "--engine slurm: no squeue here; give the command where SLURM takes jobs, as on a login node"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "submitit", None)
        assert refusal(path).endswith(": pip install 'usb-active[slurm]'")
    assert refusal(write_study(tmp_path, name="50%")).endswith("give another `save_dir:` or `name:`")
    data = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({key: value for key, value in data.items() if key not in ("slurm", "name")}))
    assert refusal(path) == f"{path}: slurm: missing; what a cell gets there, at least `slurm: {{timeout_min: 240}}`"
    assert not (tmp_path / "study").exists() and slurm.numbers == []


@pytest.mark.slow
def test_what_is_unpickled_lies_in_a_folder_of_this_call(tmp_path, slurm, stand_in):
    stand_in("pass")
    study = read_study(write_study(tmp_path))
    for cell in study.cells[:2]:
        wait_for_end(SlurmEngine(study).start(cell, None, 0))
    folders = sorted((study.folder / "jobs").glob("submitit-*"))
    assert len(folders) == 2 and all(folder.stat().st_mode & 0o77 == 0 for folder in folders)
    assert not list((study.folder / "jobs").glob("acquisition*/*.pkl"))
    # It is still a study's folder, and its report is one.
    assert cli.main(["sweep", str(tmp_path / "study.yaml"), "--dry-run"]) == 0


# ------------------------------------------------------------------------------------------------- real runs


def start(path: Path, *program: str) -> subprocess.Popen:
    command = [sys.executable, *program, "sweep", str(path), "--engine", "slurm"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def is_gone(process: subprocess.Popen) -> None:
    """A failure where it is."""
    if process.poll() is not None:
        pytest.fail(f"ended too early: {process.communicate()}")


@pytest.mark.slow
def test_jobs_outlive_the_sweep_and_are_found_again(tmp_path, slurm):
    path = write_study(tmp_path, RULES[:2])
    study = read_study(path)
    slurm.hold()
    with start(path, "-m", "usb_active") as process:
        wait_until(lambda: all(claim and claim.id for claim in (read_claim(study, cell) for cell in study.cells)) or is_gone(process))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and err == "\nusb-active: interrupted; the same command resumes from here\n"
    assert out.splitlines()[-1] == "2 jobs go on in SLURM, and the same command finds them again; to end them: scancel 100 101"
    with start(path, "-m", "usb_active") as process:
        assert process.stdout.readline() and process.stdout.readline().endswith(f"submitted {study.cells[0].name}: job 100\n")
        process.kill()
        process.communicate(timeout=120)
    slurm.release()
    with start(path, "-m", "usb_active") as process:
        out, err = process.communicate(timeout=600)
    assert process.returncode == 0 and err == "" and "2 cells: 2 done\n" in out and slurm.numbers == ["100", "101"]
    assert all(len(RunDir.read(cell.run_path).metrics()) == 2 for cell in study.cells)


@pytest.mark.slow
def test_with_submitits_local_executor(tmp_path):
    included = [{"active.oracle": "dataset"}, {"active.oracle": "csv"}, {"active.budget": 5000}]
    path = write_study(tmp_path, matrix=None, include=included)
    done, waiting, failed = read_study(path).cells
    with start(path, str(TESTS / "local_jobs.py")) as process:
        out, err = process.communicate(timeout=600)
    assert process.returncode == 1 and err == "", err
    ends = out[out.rindex("waiting: ") :].splitlines()
    asked = waiting.run_path / "queries/cycle_000.csv"
    missing = f"20 of 20 labels are missing: fill the column 'label' of {asked} (pictures: {asked.with_suffix('.html')})"
    assert ends[0] == f"waiting: {waiting.name}: {missing}"
    assert ends[1].startswith(f"failed: {failed.name}: ") and "active.budget" in ends[1]
    assert ends[2].startswith("3 cells: 1 done, 1 waiting for labels, 1 failed") and len(RunDir.read(done.run_path).metrics()) == 2


@pytest.mark.slow
def test_a_run_at_work_is_found_again_after_a_kill_with_submitits_local_executor(tmp_path):
    path = write_study(tmp_path, ["margin"])
    (cell,) = read_study(path).cells
    holder = None
    try:
        with start(path, str(TESTS / "local_jobs.py")) as process:
            holder = int(wait_until(lambda: lock_holder(cell.run_path / "lock") or is_gone(process)))
            os.kill(holder, signal.SIGSTOP)
            # Its jobs have its standard output, and keep that open.
            process.kill()
            process.wait(120)
        with start(path, str(TESTS / "local_jobs.py")) as process:
            first = next(line for line in iter(process.stdout.readline, "") if line.startswith("["))
            os.kill(holder, signal.SIGCONT)
            out, err = process.communicate(timeout=600)
    finally:
        if holder is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder, signal.SIGCONT)
    assert process.returncode == 0, err
    assert first.startswith(f"[0/1] {RUNNING} {cell.name}: job ") and "1 cells: 1 done\n" in out
