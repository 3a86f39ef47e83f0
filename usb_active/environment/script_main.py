"""`__main__` of processes that USB's train.py spawns: what train.py defines, imported after this package.

A spawned process imports the main module of its parent before it unpickles its work. If that were train.py itself, semilearn would be
imported without the guard of `usb_active.environment.import_guard`. `as_main` therefore gives train.py's module the name of this
one, and this one runs the script, whose path it finds in the environment.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

# The script's path, for processes that are spawned meanwhile.
VARIABLE = "USB_ACTIVE_SCRIPT"


@contextmanager
def as_main(script: Path) -> Iterator[ModuleType]:
    """An empty module for `script` that is `__main__` meanwhile, here and in processes that are spawned."""
    module = ModuleType("__main__")
    module.__file__ = str(script)
    module.__spec__ = ModuleSpec("usb_active.environment.script_main", None)
    before = sys.modules["__main__"]
    sys.modules["__main__"] = module
    os.environ[VARIABLE] = str(script.absolute())
    try:
        yield module
    finally:
        sys.modules["__main__"] = before
        del os.environ[VARIABLE]


if __name__ == "__mp_main__":
    globals().update(runpy.run_path(os.environ[VARIABLE], run_name=__name__))
