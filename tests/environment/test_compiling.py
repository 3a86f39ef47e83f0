"""Where numba keeps what it compiles, and what is said meanwhile."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

import numba
import pytest

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
print(folder.name, oct(folder.stat().st_mode)[-3:])
"""


def test_kernels_can_be_had_where_nothing_can_be_written(tmp_path):
    ended = subprocess.run([sys.executable, "-c", TRY], env={"PATH": "", "TMPDIR": str(tmp_path)}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    name, mode = ended.stdout.split()
    assert name.startswith("usb-active-compiled-") and (tmp_path / name).is_dir() and mode == "700"


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
    assert [record.message for record in caplog.records] == ["compiling something; this is kept for the next time"] * long


def test_every_module_that_compiles_can_do_without_the_packages_folder():
    root = Path(compiling.__file__).parents[2]
    for path in [*root.glob("usb_active/**/*.py"), *root.glob("plugins/**/*.py")]:
        text = path.read_text(encoding="utf-8")
        if "cache=True" in text and path.name != "compiling.py":
            assert "use_writable_cache(" in text, path
