"""Whether the semilearn that would be imported is the release: USB's main branch has the same version number and other code.

Tried with what it calls by position mended: main's data loaders, `defixmatch` and its averages of BatchNorm buffers differ, and it does
not import with current timm. So it is refused, and found by its files, since it may not import.
"""

from __future__ import annotations

import os
from pathlib import Path

from usb_active.environment.usb_names import NEWER_ALGORITHMS
from usb_active.errors import UsageError


def check_release(folder: Path) -> None:
    """UsageError when the semilearn in `folder` is of USB's main branch; says so, and how to have the release instead."""
    if not any((folder / "algorithms" / name).is_dir() for name in NEWER_ALGORITHMS):
        return
    what = f"{folder} is of USB's main branch, which calls itself 0.3.2 too and is not the release that usb-active runs on"
    raise UsageError(f"semilearn: {what}; {_remedy(folder.parent)}")


def _remedy(place: Path) -> str:
    if any(_same(entry, place) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        return f"take {place} off PYTHONPATH"
    if _same(".", place):
        return "pip install semilearn==0.3.2, and the command from another directory"
    return "pip install --force-reinstall --no-deps semilearn==0.3.2"


def _same(entry: str, place: Path) -> bool:
    return bool(entry) and os.path.exists(entry) and os.path.samefile(entry, place)
