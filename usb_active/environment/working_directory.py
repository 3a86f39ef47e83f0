"""`python -m` looks for modules in the working directory first: inside a clone of USB that would be the clone's semilearn."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path


def prefer_installed_semilearn() -> None:
    """Take the working directory off the path where it holds a semilearn and another one is installed, and say so.

    For programs started by `python -m`, before anything imports semilearn. Processes that are spawned inherit the path.
    """
    try:
        here = Path.cwd()
    except OSError:  # it was removed: nothing is found there
        return
    # With -P, or PYTHONSAFEPATH, the first entry was put there on purpose.
    if getattr(sys.flags, "safe_path", False) or "semilearn" in sys.modules or not (here / "semilearn" / "__init__.py").is_file():
        return
    if not sys.path or not os.path.samefile(sys.path[0] or ".", here):
        return
    entry = sys.path.pop(0)
    installed = semilearn_folder()
    if installed is None or installed.samefile(here / "semilearn"):
        sys.path.insert(0, entry)
    else:
        print(f"usb-active: warning: {here / 'semilearn'} is not used, but the installed {installed}", file=sys.stderr)


def semilearn_folder() -> Path | None:
    """The folder of the semilearn that is imported, or that an import would find; None when there is none."""
    module = sys.modules.get("semilearn")
    spec = importlib.util.find_spec("semilearn") if module is None else None
    places = getattr(module, "__path__", None) or getattr(spec, "submodule_search_locations", None)
    return Path(next(iter(places))) if places else None
