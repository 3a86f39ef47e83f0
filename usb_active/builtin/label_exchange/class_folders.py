"""A folder for each class: `OUT/cat/unlabeled/img_001.png`. Below it, a sample's file lies where its key says.

Links are made, copies where the file system has no links. Neither refusals nor samples without a label have a place there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from usb_active.builtin.label_exchange.entries import Entry, Found
from usb_active.errors import UsageError, printable
from usb_active.storage.durable import make_folder, no_os_error
from usb_active.storage.path_texts import name_problem

# What a picture of a sample that is no file is called, behind its key.
PICTURE = ".png"


def check_as_folders(entries: Iterable[Entry]) -> None:
    """UsageError where a class or a key can be no path below a folder; the first."""
    for name in dict.fromkeys(entry.label for entry in entries if entry.label):
        if problem := name_problem(name):
            raise UsageError(f"the class '{printable(name)}' can be no folder: {problem}")
    for entry in entries:
        parts = entry.key.split("/")
        if entry.label and ("\0" in entry.key or any(part in ("", ".", "..") for part in parts)):
            raise UsageError(f"the key '{printable(entry.key)}' can be no path below a folder")


def check_folder_target(folder: Path) -> None:
    """UsageError where something lies there already."""
    with no_os_error("look into", folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder} is there already; give another name, or an empty folder")


def write_class_folders(
    entries: Iterable[Entry], folder: Path, file_of: Callable[[str], Path | None], draw: Callable[[str, Path], None]
) -> int:
    """Make the folders. How many samples have a file there.

    Args:
        entries: those without a label are left out.
        folder: a new one, or empty.
        file_of: the file of a key; None where the sample is none.
        draw: writes a picture of a key's sample to a path, which ends in `PICTURE`.

    Raises:
        UsageError: something lies there already, or cannot be written.
    """
    entries = [entry for entry in entries if entry.label]
    check_as_folders(entries)
    check_folder_target(folder)
    for entry in entries:
        own = file_of(entry.key)
        path = folder / entry.label / (entry.key if own is not None else f"{entry.key}{PICTURE}")
        path.parent.mkdir(parents=True, exist_ok=True) if path.parent.exists() else make_folder(path.parent)
        with no_os_error("write", path):
            draw(entry.key, path) if own is None else _link(own, path)
    return len(entries)


def _link(own: Path, path: Path) -> None:
    try:
        os.symlink(own.absolute(), path)
    except FileExistsError:
        raise
    except OSError:
        shutil.copyfile(own, path)


def read_class_folders(folder: Path) -> list[Found]:
    """An answer for each file below the folder of a class. UsageError where it cannot be read, or holds files beside the folders."""
    found = []
    with no_os_error("read", folder):
        for inner in sorted(folder.iterdir()):
            if inner.name.startswith("."):
                continue
            if not inner.is_dir():
                raise UsageError(f"{inner}: lies beside the folders of the classes, so its class is not known")
            for path in sorted(inner.rglob("*")):
                if path.name.startswith(".") or path.is_dir():
                    continue
                name = path.relative_to(inner).as_posix()
                names = (name, name.removesuffix(PICTURE)) if name.endswith(PICTURE) else (name,)
                found.append(Found(str(path), names, inner.name))
    return found
