"""Where numba keeps what it compiles, and what is said meanwhile."""

from __future__ import annotations

import importlib
import logging
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numba
import pytest
from numba.core.dispatcher import Dispatcher

from usb_active.environment import compiling
from usb_active.environment.compiling import said_where_long, use_writable_cache

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
    use_writable_cache(test_where_the_package_can_be_written_to_nothing_changes)
    assert numba.config.CACHE_DIR == ""


@pytest.mark.parametrize("long", [True, False])
def test_what_takes_long_is_said_while_it_does(long, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(compiling, "PATIENCE_S", 0.0 if long else 3600.0)
    with said_where_long("something"):
        deadline = time.monotonic() + 60
        while long and not caplog.records and time.monotonic() < deadline:
            pass
    assert [record.message for record in caplog.records] == ["compiling something; it is done once"] * long


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
    assert 0 < source.index("\nuse_writable_cache(") < source.index("\n@njit(")
