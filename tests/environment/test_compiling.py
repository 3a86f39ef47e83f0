"""Where numba keeps what it compiles, and what is said meanwhile."""

from __future__ import annotations

import importlib
import logging
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import numba
import pytest
from numba.core import event
from numba.core.dispatcher import Dispatcher

from usb_active.environment import compiling
from usb_active.environment.compiling import prepare_compiling, said_where_long

# Kernels of every room, in a package whose folder and user's cache numba may not write to.
TRY = """
import os, sys
from numba.core import caching
def refuse(self):
    raise OSError("read-only file system")
found = [one for name, one in vars(caching).items() if name.endswith("CacheLocator")]
found = [one for one in found if one.__name__.strip("_") not in ("CacheLocator", "UserProvidedCacheLocator")]
for locator in found:
    locator.ensure_cache_path = refuse
assert len(found) > 2
import numba
from usb_active.images.kernels import prepare
from usb_active.numerics.propagation import kernels
from usb_active.plugins.jlp import kernels
from pathlib import Path
folder = Path(numba.config.CACHE_DIR)
assert os.environ["NUMBA_CACHE_DIR"] == str(folder)
print(folder.name, oct(folder.stat().st_mode)[-3:])
"""


def test_kernels_can_be_had_where_nothing_can_be_written(tmp_path):
    ended = subprocess.run([sys.executable, "-c", TRY], env={"PATH": "", "TMPDIR": str(tmp_path)}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    name, mode = ended.stdout.split()
    assert name.startswith("usb-active-compiled-") and mode == "700"
    assert not list(tmp_path.glob("usb-active-*")), "it is left behind"


def test_where_the_package_can_be_written_to_nothing_changes(monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(compiling, "_purposes", {})
    prepare_compiling(test_where_the_package_can_be_written_to_nothing_changes, "nothing")
    assert numba.config.CACHE_DIR == ""


@pytest.mark.parametrize("long", [True, False])
def test_what_takes_long_is_said_while_it_does(long, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(compiling, "PATIENCE_S", 0.0 if long else 3600.0)
    with said_where_long("something", "it is done once"):
        deadline = time.monotonic() + 60
        while long and not caplog.records and time.monotonic() < deadline:
            pass
    assert [record.message for record in caplog.records] == ["compiling something; it is done once"] * long


def test_what_numba_compiles_for_long_is_said_once_and_what_it_has_kept_is_not(tmp_path, monkeypatch, caplog, request):
    """Of a module that has said what it compiles; also where no single function takes long."""
    event.unregister("numba:compile", compiling._compilations)
    request.addfinalizer(lambda: event.register("numba:compile", compiling._compilations))
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(compiling, "_purposes", {})
    source = "import numba\n" + "".join(f"@numba.njit(cache=True)\ndef f{n}(x):\n    return x + {n}\n" for n in range(3))
    source += "@numba.njit\ndef g(x):\n    return f0(x)\n"
    (tmp_path / "loops.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    listener = compiling._Compilations()
    with event.install_listener("numba:compile", listener):
        loops = importlib.import_module("loops")
        prepare_compiling(loops.f0.py_func, "some loops")
        loops.f0(1)
        spent = listener._seconds["some loops"]
        assert spent > 0 and not caplog.records
        # Patience is at an end while the next one is compiled, if it was not before.
        monkeypatch.setattr(compiling, "PATIENCE_S", spent)
        asked, say = threading.Event(), listener._say
        monkeypatch.setattr(listener, "_say", lambda what: (say(what), asked.set()))
        for function in (loops.f1, loops.f2, loops.g):
            function(1)
        assert asked.wait(60)
        assert [record.message for record in caplog.records] == ["compiling some loops, some seconds; it is done once"]
        before = dict(listener._seconds)
        sys.modules.pop("loops")
        assert importlib.import_module("loops").f1(1) == 2 and listener._seconds == before


@pytest.mark.parametrize("data", [None, {}, {"dispatcher": None}, {"dispatcher": object()}])
def test_an_event_of_numba_that_holds_something_else_changes_nothing(data):
    listener = compiling._Compilations()
    happened = event.Event("numba:compile", event.EventStatus.START, data)
    # The end of what began before it was listening, also in a pair.
    listener.on_end(happened)
    listener.on_start(happened)
    listener.on_end(happened)
    listener.on_end(happened)
    assert not listener._seconds and not listener._of_thread.under_way


COMPILED = (
    "usb_active.images.kernels",
    "usb_active.images.twister",
    "usb_active.numerics.propagation.kernels",
    "usb_active.plugins.jlp.kernels",
    "usb_active.plugins.low_budget.clusters",
    "usb_active.plugins.low_budget.fisher_kernels",
)


def test_these_are_all_modules_that_compile():
    root = Path(compiling.__file__).parents[1]
    folders = {"usb_active": root, "usb_active.plugins": root.parent / "plugins"}
    found = set()
    for package, folder in folders.items():
        for path in folder.rglob("*.py"):
            if re.search(r"^@njit\(", path.read_text(encoding="utf-8"), re.MULTILINE):
                found.add(".".join([package, *path.relative_to(folder).with_suffix("").parts]))
    assert found == set(COMPILED)


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_code_calls_none_of_another_file(name):
    """numba keeps it as long as its own file is as it was: another file's code would stay in it, old."""
    module = importlib.import_module(name)
    compiled = {key: value for key, value in vars(module).items() if isinstance(value, Dispatcher)}
    assert len(compiled) > 1
    for function in compiled.values():
        assert Path(function.py_func.__code__.co_filename) == Path(module.__file__)
        used = [vars(module).get(called) for called in function.py_func.__code__.co_names]
        assert not [value for value in used if isinstance(value, ModuleType) and value.__name__.startswith("usb_active")]


@pytest.mark.parametrize("name", COMPILED)
def test_a_writable_cache_is_seen_to_before_anything_is_compiled(name):
    source = Path(importlib.import_module(name).__file__).read_text(encoding="utf-8")
    assert 0 < source.index("\nprepare_compiling(") < source.index("\n@njit(")
