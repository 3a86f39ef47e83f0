"""`usb-active label`: what is refused in one line, and where the page is."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import stat
import subprocess
import sys
import threading

import pytest
from desks import waiting_run
from run_helpers import settings, train, write_yaml

from usb_active import cli
from usb_active.commands.label import LabelOptions, _own_command, _write_door, label, run_and_label
from usb_active.config.settings import load_yaml_config
from usb_active.errors import UsageError
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


@pytest.mark.slow
def test_run_asks_in_the_browser_where_labels_are_awaited(tmp_path):
    """The page is served, answers are taken, and SIGTERM ends it as it ends a run."""
    active = {"initial": {"name": "random", "size": 3}, "oracle": "csv"}
    config = write_yaml(tmp_path / "c.yaml", settings(tmp_path, active=active))
    command = [sys.executable, "-m", "usb_active", "run", str(config), "--label"]
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as process:
        lines = []
        while not (found := re.search(r"^label .* at http://(127\.0\.0\.1:\d+)(/\S+/)$", lines[-1] if lines else "")):
            lines.append(process.stdout.readline())
            assert lines[-1], "".join(lines)
        assert any("3 of 3 labels are missing" in line for line in lines)
        connection = http.client.HTTPConnection(found[1])
        connection.request("GET", f"{found[2]}state")
        told = json.loads(connection.getresponse().read())
        assert len(told["samples"]) == told["batch"] == 3 and told["loop"] and told["command"] == f"usb-active run {config}"
        headers = {"origin": f"http://{found[1]}", "content-type": "application/json"}
        message = {"client": "somebody", "round": 1, "place": 2, "label": 7}
        connection.request("POST", f"{found[2]}answer", json.dumps(message), headers)
        assert json.loads(connection.getresponse().read())["saved"] == 2
        (row,) = RunDir.read(tmp_path / "run").rows()
        assert (row.key, row.label) == (told["samples"][2][0], "7")
        connection.request("GET", "/state")
        assert connection.getresponse().status == 403
        connection.close()
        process.terminate()
        rest = process.communicate()[0]
    assert process.returncode == 143 and "Traceback" not in rest and "usb-active: terminated" in rest
    assert f"go on: usb-active run {config}\n" in rest and not (tmp_path / "run" / "labeling.html").exists()


class Ending(io.StringIO):
    """Where the address is printed; whoever reads it ends the page at once."""

    thread: threading.Thread | None = None

    def flush(self) -> None:
        found = re.search(r"at http://(127\.0\.0\.1:\d+)(/\S+/)", self.getvalue())
        if found and self.thread is None:
            self.thread = threading.Thread(target=self.finish, args=found.groups())
            self.thread.start()

    def finish(self, host: str, path: str) -> None:
        connection = http.client.HTTPConnection(host)
        headers = {"origin": f"http://{host}", "content-type": "application/json"}
        connection.request("POST", f"{path}finish", json.dumps({"client": "somebody"}), headers)
        connection.getresponse().read()
        connection.close()


@pytest.mark.slow
def test_a_page_that_ends_while_labels_are_missing_says_what_to_type_and_exits_with_3(tmp_path):
    config_path = write_yaml(tmp_path / "c.yaml", settings(tmp_path, active={"initial": {"name": "random", "size": 3}, "oracle": "csv"}))
    out = Ending()
    assert run_and_label(load_yaml_config(config_path), ["run", str(config_path)], LabelOptions(browser=False, loop=True), out) == 3
    out.thread.join()
    assert "\n3 of 3 labels are missing\n" in out.getvalue() and out.getvalue().endswith(f"go on: usb-active run {config_path}\n")


@pytest.mark.slow
def test_a_run_that_asks_nothing_says_so(tmp_path):
    train(settings(tmp_path, active={"cycles": 0}))
    out = Ending()
    label(tmp_path / "run", LabelOptions(browser=False), out)
    out.thread.join()
    assert "\nnothing is asked now; what is labelled can be looked at and corrected\n" in out.getvalue()


def test_a_port_that_is_taken_says_nothing_but_that(tmp_path):
    data = settings(tmp_path, active={"initial": {"name": "random", "size": 3}, "oracle": "csv"})
    path, out = waiting_run(tmp_path / "waiting"), io.StringIO()
    write_yaml(path / "config.yaml", data)
    with pytest.raises(UsageError):
        label(path, LabelOptions(port=70000, browser=False), out)
    assert out.getvalue() == ""


def test_what_the_browser_is_given_is_this_users_alone(tmp_path):
    door, other = tmp_path / "door.html", tmp_path / "other"
    other.write_text("kept")
    door.symlink_to(other)
    _write_door(door, "http://127.0.0.1:8000/s3cret-Token_/")
    assert stat.S_IMODE(door.lstat().st_mode) == 0o600 and not door.is_symlink() and other.read_text() == "kept"
    assert 'content="0; url=http://127.0.0.1:8000/s3cret-Token_/"' in door.read_text()


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_neither_web_library_is_imported_by_other_commands(argument):
    code = "import sys; from usb_active.cli import main\ntry: main([sys.argv[1]])\nexcept SystemExit: pass\n"
    code += "sys.exit(bool({'starlette', 'uvicorn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code, argument], capture_output=True, check=False).returncode == 0
