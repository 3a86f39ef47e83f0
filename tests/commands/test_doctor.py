"""`usb-active doctor` says what is installed, what does not import, and whether anything is wrong."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from usb_active.commands import doctor
from usb_active.environment.import_guard import CONSTRAINTS


def run_doctor(path: Path | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **({} if path is None else {"PYTHONPATH": str(path)})}
    return subprocess.run([sys.executable, "-m", "usb_active", "doctor"], env=env, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_what_is_broken_is_named_and_the_rest_is_shown(tmp_path):
    """One package raises, one ends the process: all before them is told, and which one it was."""
    (tmp_path / "timm.py").write_text("raise ImportError('no such symbol')")
    (tmp_path / "faiss.py").write_text("import os; os._exit(9)")
    result = run_doctor(tmp_path)
    assert result.returncode == 1 and not result.stderr
    lines = result.stdout.splitlines()
    assert any(re.fullmatch(r"torch +2\.\S+ +\S+", line) for line in lines)
    assert any(re.fullmatch(r"torch +ok", line) for line in lines)
    problems = [line for line in lines if line.startswith("problem: ")]
    assert problems[0] == "problem: timm does not import (ImportError: no such symbol)"
    assert problems[1].startswith("problem: usb_active.usb does not import (BrokenInstall: semilearn 0.3.2 does not import: ImportError")
    assert problems[2] == "problem: faiss does not import (ended the process (exit code 9))"
    assert lines[-1] == "3 problems"


def test_what_libraries_print_does_not_end_the_report(monkeypatch, tmp_path):
    (tmp_path / "noisy.py").write_text("print('[2026 INFO] ready'); print('[1, 2]'); print('no end of line', end='')")
    (tmp_path / "torch.py").write_text("print('[INFO]', end=''); raise ImportError('no such symbol')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "MODULES", {"noisy": True, "torch": True, "json": True})
    out = io.StringIO()
    assert list(doctor._imports(out)) == ["torch does not import (ImportError: no such symbol)"]
    assert re.findall(r"^(\w+) +(ok|ImportError.*)$", out.getvalue(), re.MULTILINE) == [
        ("noisy", "ok"), ("torch", "ImportError: no such symbol"), ("json", "ok")
    ]  # fmt: skip


def test_folders_that_there_are_none_of_are_said(monkeypatch):
    def gone():
        raise FileNotFoundError(2, "No such file or directory")

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(doctor.Path, "cwd", gone)
    monkeypatch.setattr(doctor.Path, "home", homeless)
    out = io.StringIO()
    assert list(doctor._folders(out)) == []
    assert "working directory  none: No such file or directory" in out.getvalue()
    assert re.search(r"home +none: Could not determine home directory\.", out.getvalue())


@pytest.mark.slow
def test_a_sound_environment_has_no_problems(tmp_path):
    result = run_doctor(cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    assert f"working directory  {tmp_path}: ok" in result.stdout and "write access" in result.stdout
    assert result.stdout.splitlines()[-1] == "no problems"


def test_both_faiss_packages_are_a_problem(monkeypatch):
    monkeypatch.setattr(doctor, "_installed", lambda name: "1.0")
    out = io.StringIO()
    problems = list(doctor._versions(out))
    assert problems == ["faiss-cpu and faiss-gpu are both installed; they share a module: uninstall both, then install one"]


def test_a_folder_that_cannot_be_written_is_shown(tmp_path):
    assert doctor._not_writable(tmp_path) == ""
    assert doctor._not_writable(tmp_path / "none") == "No such file or directory"


def test_the_tested_versions_are_exact_and_hold_every_dependency():
    """One version for this Python and system of all that is depended on, and it satisfies what is asked for."""
    lines = [line for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+]+( ; .+)?", line) for line in lines)
    tested = doctor.tested_versions()
    wanted = [Requirement(line) for line in requires("usb-active")]
    for one in wanted:
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", "cpu", "test")):
            assert tested[doctor.canonical(one.name)] in one.specifier, one
