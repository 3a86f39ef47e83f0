"""Programs started by `python -m` inside a clone of USB run on the semilearn that is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from run_helpers import settings, write_yaml

from usb_active.environment import working_directory

SCRIPT = Path(__file__).parents[1] / "fixtures" / "usb_train.py"
# What a working directory must not be mistaken for.
BROKEN = "raise ImportError('the semilearn of the working directory')\n"
# A stand-in for several processes: like train.py it starts one that is not forked, which looks for semilearn (an import takes too long).
SPAWNING = """\
import importlib.util
import multiprocessing

def work(queue):
    queue.put(importlib.util.find_spec("semilearn").origin)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    print("spawned:", queue.get(timeout=120))
    process.join()
"""


@pytest.fixture
def clone(tmp_path):
    """A clone of USB as far as it matters: train.py, and a semilearn beside it."""
    folder = tmp_path / "clone"
    (folder / "semilearn").mkdir(parents=True)
    (folder / "semilearn" / "__init__.py").write_text(BROKEN)
    (folder / "train.py").write_text(SCRIPT.read_text())
    yaml = settings(tmp_path, "run", active={"cycles": 0, "initial": {"name": "random", "size": 10}}, num_train_iter=2, epoch=1)
    write_yaml(folder / "c.yaml", yaml)
    return folder


def python(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    """`python -m usb_active…` typed in a folder."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **env}
    return subprocess.run([sys.executable, "-m", *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_usbs_train_py_is_launched_inside_the_clone(clone):
    result = python(clone, "usb_active.launch", "train.py", "--c", "c.yaml")
    assert result.returncode == 0, result.stderr
    assert f"usb-active: warning: {clone / 'semilearn'} is not used, but the installed " in result.stderr
    assert "result test/accuracy: " in result.stdout


def test_spawned_processes_find_the_installed_one_too(clone):
    (clone / "train.py").write_text(SPAWNING)
    # The launcher's way without its checks, which want a train.py that builds an algorithm.
    code = "import runpy, usb_active.environment.working_directory as w; w.prefer_installed_semilearn()\n"
    (clone / "launcher.py").write_text(code + "runpy.run_path('train.py', run_name='__main__')\n")
    result = python(clone, "launcher", PYTHONPATH=str(Path(working_directory.__file__).parents[1]))
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("spawned: ")]
    assert not Path(line.removeprefix("spawned: ")).is_relative_to(clone)


@pytest.mark.slow
def test_the_commands_run_inside_the_clone(clone):
    result = python(clone, "usb_active", "check", "c.yaml")
    assert result.returncode == 0, result.stderr
    assert "fine; it would run in" in result.stdout


@pytest.fixture
def inside(clone, monkeypatch):
    """In the clone, with the path as `python -m` makes it, and before semilearn is imported."""
    monkeypatch.chdir(clone)
    monkeypatch.delitem(sys.modules, "semilearn", raising=False)
    monkeypatch.setattr(sys, "path", [str(clone), *sys.path])
    return clone


def test_the_first_entry_goes_and_nothing_else(inside, capsys):
    before = sys.path[1:]
    working_directory.prefer_installed_semilearn()
    assert sys.path == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"usb-active: warning: {inside / 'semilearn'} is not used, but the installed ")


def test_without_another_one_it_stays(inside, monkeypatch, capsys):
    monkeypatch.setattr(working_directory.importlib.util, "find_spec", lambda name: None)
    before = list(sys.path)
    working_directory.prefer_installed_semilearn()
    assert sys.path == before and not capsys.readouterr().err


def test_an_entry_put_there_on_purpose_stays(inside, monkeypatch, capsys):
    # PYTHONPATH names the clone as well: without the first entry it would still be found.
    monkeypatch.setattr(sys, "path", [str(inside), *sys.path])
    before = list(sys.path)
    working_directory.prefer_installed_semilearn()
    assert sys.path == before and not capsys.readouterr().err


def test_other_folders_are_left_alone(inside, monkeypatch, capsys):
    (inside / "semilearn" / "__init__.py").unlink()
    before = list(sys.path)
    working_directory.prefer_installed_semilearn()
    monkeypatch.chdir(inside.parent)
    working_directory.prefer_installed_semilearn()
    assert sys.path == before and not capsys.readouterr().err


def test_a_working_directory_that_was_removed_holds_nothing(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    before = list(sys.path)
    working_directory.prefer_installed_semilearn()
    assert sys.path == before
