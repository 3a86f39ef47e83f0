"""`usb-active label`: what is refused in one line, and where the page is."""

from __future__ import annotations

import subprocess
import sys

import pytest
from desks import waiting_run
from run_helpers import settings, write_yaml

from usb_active import cli
from usb_active.commands.label import _own_command
from usb_active.config.settings import load_yaml_config
from usb_active.storage.run_dir import RunDir


def fails(capsys, *arguments: str) -> str:
    assert cli.main(["label", *arguments, "--no-browser"]) == 2
    return capsys.readouterr().err


def test_no_run_is_one_line(tmp_path, capsys):
    assert fails(capsys, str(tmp_path)) == f"usb-active: error: {tmp_path} is not a run directory: it has no config.yaml\n"


def test_without_the_extra_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert fails(capsys, str(tmp_path)) == "usb-active: error: label: uvicorn not installed; pip install 'usb-active[label]'\n"
    config = write_yaml(tmp_path / "c.yaml", settings(tmp_path))
    assert cli.main(["run", str(config), "--label"]) == 2
    assert capsys.readouterr().err.endswith("label: uvicorn not installed; pip install 'usb-active[label]'\n")


def test_plugins_that_are_not_installed_are_not_imported_unasked(tmp_path, capsys):
    path = waiting_run(tmp_path / "run")
    mark = tmp_path / "imported"
    (tmp_path / "mine.py").write_text(f"open({str(mark)!r}, 'w')\n")
    config = RunDir.read(path).config
    write_yaml(path / "config.yaml", {**config, "plugins": [str(tmp_path / "mine.py")]})
    assert "--trust-plugins imports it" in fails(capsys, str(path)) and not mark.exists()


def test_the_page_goes_on_with_the_run_where_it_lies(tmp_path):
    config = load_yaml_config(write_yaml(tmp_path / "c.yaml", settings(tmp_path)))
    here = tmp_path / "run"
    assert _own_command(config, here) == ["run", str(here / "config.yaml")]
    moved = tmp_path / "moved to"
    places = ["--set", f"save_dir={tmp_path}", "--set", "save_name=moved to"]
    assert _own_command(config, moved) == ["run", str(moved / "config.yaml"), *places]


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_neither_web_library_is_imported_by_other_commands(argument):
    code = "import sys; from usb_active.cli import main\ntry: main([sys.argv[1]])\nexcept SystemExit: pass\n"
    code += "sys.exit(bool({'starlette', 'uvicorn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code, argument], capture_output=True, check=False).returncode == 0
