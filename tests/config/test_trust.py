"""A received run directory executes nothing, and a plugin file may import what lies beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import run_helpers

from usb_active import cli
from usb_active.config import trust
from usb_active.config.trust import check_plugins, foreign_plugins, is_installed
from usb_active.contracts import file_imports
from usb_active.contracts.file_imports import import_file
from usb_active.errors import UsageError

LINE = {"cycle": 0, "num_labels": 10, "accuracy": 0.5, "best_accuracy": 0.5, "balanced_accuracy": 0.5, "evaluated_on": "test"}
EVIL = "from pathlib import Path\nPath(__file__).with_name('executed').touch()\n"


@pytest.fixture
def received(tmp_path):
    """A run directory that names a file and a module of its own, both of which leave a mark when they are imported."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "evil.py").write_text(EVIL)
    (run / "evil_package").mkdir()
    (run / "evil_package" / "__init__.py").write_text(EVIL.replace("with_name", "parent.with_name"))
    (run / "evil_package" / "part.py").write_text("")
    (run / "metrics.jsonl").write_text(json.dumps(LINE) + "\n")

    def write(*plugins: str) -> Path:
        block = {"initial": {"name": "random", "size": 10}, "cycles": 0, "analysis": "made_up"}
        config = {"algorithm": "fixmatch", "dataset": "digits", "plugins": list(plugins), "active": block}
        run_helpers.write_yaml(run / "config.yaml", config)
        return run

    return write


def executed(run: Path) -> bool:
    return bool(list(run.parent.rglob("executed")))


@pytest.mark.parametrize("plugin", ["evil.py", "/evil.py", "evil", "evil_package", "evil_package.part"])
@pytest.mark.parametrize("command", ["predict", "report", "report --analysis", "report --embed", "labels", "labels --csv"])
def test_nothing_of_a_received_run_is_executed(received, capsys, command, plugin, monkeypatch):
    run = received(plugin)
    if plugin.startswith("/"):
        run = received(str(run / plugin[1:]))
    # As with `python -m usb_active` inside of the directory.
    monkeypatch.syspath_prepend(str(run))
    monkeypatch.chdir(run)
    name, *options = command.split()
    code = cli.main([name, str(run), *options])
    out, err = capsys.readouterr()
    assert not executed(run) and "Traceback" not in err
    if name == "predict":
        assert code == 2 and err.count("\n") == 1 and f"{run / 'config.yaml'}: plugins: " in err and "--trust-plugins imports it" in err
    elif name == "labels":
        assert code == 0
    elif "--embed" not in options:
        text = (run / "report" / "report.md").read_text()
        assert code == 0 and "50.00" in text and "The gallery is left out" in text and "-plugins imports it" in text


def test_the_flag_imports_it(received, capsys):
    run = received("evil.py")
    assert cli.main(["report", str(run), "--trust-plugins"]) == 0
    assert executed(run)


def test_what_is_installed_is_found_without_importing_it(tmp_path, monkeypatch):
    (tmp_path / "numpy_beside.py").write_text(EVIL)
    (tmp_path / "some_package").mkdir()
    (tmp_path / "some_package" / "__init__.py").write_text(EVIL)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert all(is_installed(name, tmp_path / "run") for name in ("numpy", "torch.nn", "usb_active.plugins.jlp", "yaml"))
    foreign = ["numpy_beside", "some_package.part", "no_such_module", "numpy.no_such_module", "pip.__main__"]
    foreign += ["", ".", ".numpy", "a b", "x.py"]
    assert foreign_plugins(["numpy", *foreign], tmp_path / "run") == foreign
    assert not executed(tmp_path / "x")
    check_plugins(tmp_path, ["numpy"], False)
    check_plugins(tmp_path, foreign, True)
    check_plugins(tmp_path, None, False)


@pytest.mark.parametrize("module", ["this", "antigravity", "json", "idlelib.idle", "sys", "_frozen_importlib", "__hello__", "__main__"])
def test_the_standard_library_holds_no_plugins(received, capsys, module):
    run = received(module)
    assert cli.main(["predict", str(run)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and f"plugins: {module}: of no package that is installed here" in err


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """An editable project, as `python -m` finds it in its own folder: a package, and folders without `__init__.py`."""
    metadata, root = tmp_path / "site" / "hostile_clone-1.dist-info", tmp_path / "clone"
    files = {
        metadata / "METADATA": "Name: hostile-clone\nVersion: 1\n",
        metadata / "top_level.txt": "hostile_clone\n",
        metadata / "direct_url.json": json.dumps({"url": root.as_uri(), "dir_info": {"editable": True}}),
        root / "hostile_clone" / "__init__.py": "",
        root / "hostile_clone" / "part.py": "",
        root / "hostile_clone" / "runs" / "got" / "evil.py": EVIL,
        root / "hostile_clone" / "sub" / "__init__.py": EVIL,
        root / "runs" / "got" / "evil.py": EVIL,
        root / "beside.py": EVIL,
        root / "beside_package" / "__init__.py": EVIL,
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr("site.getsitepackages", lambda: [str(tmp_path / "site")])
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.chdir(root)
    trust._roots.cache_clear()
    yield root
    trust._roots.cache_clear()


@pytest.mark.parametrize("place", [".", "runs/got", "hostile_clone/runs/got", "elsewhere"])
def test_a_run_inside_of_an_editable_project_is_no_part_of_it(clone, received, capsys, place):
    foreign = ["runs.got.evil", "runs.got", "hostile_clone.runs.got.evil", "beside", "beside_package"]
    assert foreign_plugins(foreign, clone / place) == foreign
    if place != ".":
        assert foreign_plugins(["hostile_clone", "hostile_clone.part"], clone / place) == []
    assert foreign_plugins(["hostile_clone.sub"], clone / "hostile_clone" / "sub") == ["hostile_clone.sub"], "below the run directory"
    (clone / place).mkdir(exist_ok=True)
    (received(*foreign) / "config.yaml").rename(clone / place / "config.yaml")
    assert cli.main(["predict", place]) == 2
    assert "plugins: runs.got.evil, runs.got, hostile_clone" in capsys.readouterr().err
    assert not executed(clone / place) and not list(clone.rglob("executed"))


# --- neighbours -------------------------------------------------------------------------------------------------------------
@pytest.fixture
def imports(monkeypatch):
    """sys.path, sys.modules and the files that were imported, put back at the end."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(file_imports, "_imported", dict(file_imports._imported))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_plugin_file_imports_its_neighbours(tmp_path, imports):
    late = "def later():\n    import hostile_late\n    return hostile_late.VALUE\n"
    (tmp_path / "hostile_main.py").write_text(f"import hostile_helper\n\n\n{late}")
    (tmp_path / "hostile_helper.py").write_text("VALUE = 1\n")
    (tmp_path / "hostile_late.py").write_text("VALUE = 2\n")
    module = import_file(tmp_path / "hostile_main.py")
    assert module.hostile_helper.VALUE == 1 and module.later() == 2


def test_a_neighbour_shadows_nothing_that_is_installed(tmp_path, imports):
    (tmp_path / "wave.py").write_text("raise RuntimeError('the wrong one')\n")
    (tmp_path / "hostile_main.py").write_text("import wave\n")
    assert hasattr(import_file(tmp_path / "hostile_main.py").wave, "open")


def test_namesakes_beside_two_plugins_are_refused(tmp_path, imports):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"plugin_{name}.py").write_text("from hostile_twin import WHERE\n")
        (tmp_path / name / "hostile_twin.py").write_text(f"WHERE = {name!r}\n")
    assert import_file(tmp_path / "one" / "plugin_one.py").WHERE == "one"
    with pytest.raises(UsageError, match=r"plugin_other.py imports 'hostile_twin' from beside it, but .*one/hostile_twin.py has that name"):
        import_file(tmp_path / "other" / "plugin_other.py")


def test_neighbours_through_the_command_line(tmp_path):
    (tmp_path / "main.py").write_text("from helper import NAME\nfrom usb_active import Acquisition, register_plugin\n\n\n"
                                      "@register_plugin('acquisition', NAME)\nclass Mine(Acquisition):\n"
                                      "    def select(self, view, budget):\n        return view.candidates[:budget]\n")  # fmt: skip
    (tmp_path / "helper.py").write_text("NAME = 'of_the_helper'\n")
    data = run_helpers.settings(tmp_path, active={"acquisition": "of_the_helper"}, plugins=["main.py"], lr=-1)
    path = run_helpers.write_yaml(tmp_path / "c.yaml", data)
    ended = subprocess.run([sys.executable, "-m", "usb_active", "check", str(path)], capture_output=True, text=True, cwd=tmp_path.parent)
    # Its own mistake alone: the plugin is known.
    assert ended.stderr == f"usb-active: error: {path}: lr: must be in (0, inf) (-1)\n"
