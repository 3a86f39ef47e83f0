"""USB's main branch, which has the release's version number, is told from the release by its files, and refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from usb_active.environment.release import check_release
from usb_active.environment.working_directory import semilearn_folder
from usb_active.errors import UsageError


@pytest.fixture
def main_branch(tmp_path):
    """A semilearn with an algorithm that the release lacks; it does not import, as main does not with current dependencies."""
    folder = tmp_path / "main" / "semilearn"
    (folder / "algorithms" / "refixmatch").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('timm.models.layers.helpers')\n")
    return folder


def test_the_release_passes():
    check_release(semilearn_folder())


@pytest.mark.parametrize("name", ["multimatch", "refixmatch", "sequencematch"])
def test_any_of_its_algorithms_gives_main_away(tmp_path, name):
    (tmp_path / "algorithms" / "fixmatch").mkdir(parents=True)
    check_release(tmp_path)
    (tmp_path / "algorithms" / name).mkdir()
    with pytest.raises(UsageError, match="is of USB's main branch"):
        check_release(tmp_path)


def test_the_remedy_is_of_where_it_was_found(main_branch, monkeypatch):
    place = main_branch.parent
    def remedy():
        with pytest.raises(UsageError) as error:
            check_release(main_branch)
        (line,) = str(error.value).splitlines()
        assert line.startswith(f"semilearn: {main_branch} is of USB's main branch, which calls itself 0.3.2 too")
        return line.rpartition("; ")[2]

    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert remedy() == "pip install --force-reinstall --no-deps semilearn==0.3.2"
    monkeypatch.chdir(place)
    assert remedy() == "pip install semilearn==0.3.2, and the command from another directory"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/nowhere", f"{place}/"]))
    assert remedy() == f"take {place} off PYTHONPATH"


@pytest.mark.slow
def test_check_says_it_in_one_line(main_branch, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(main_branch.parent)}
    arguments = [sys.executable, "-m", "usb_active", "check", "quickstart", "--set", f"save_dir={tmp_path / 'runs'}"]
    result = subprocess.run(arguments, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"usb-active: error: semilearn: {main_branch} is of USB's main branch")
    assert line.endswith(f"; take {main_branch.parent} off PYTHONPATH")
    assert not (tmp_path / "runs").exists()
