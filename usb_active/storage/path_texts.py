"""Texts of a configuration that become names and paths: what is wrong with one, before anything touches the disk."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import Any

from usb_active.errors import plain, printable

# Of Linux, in bytes.
MAX_NAME, MAX_PATH = 255, 4095


def path_problem(text: Any) -> str:
    """Why a text can be no path of this machine; "" where it can, and for what is no text."""
    if not isinstance(text, str):
        return ""
    if plain(text) != text:
        return f"a path holds no control characters ({printable(text)})"
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:
        return f"the file system cannot hold this name ({printable(text)})"
    if len(data) > MAX_PATH or any(len(part) > MAX_NAME for part in data.split(b"/")):
        return f"longer than a path may be ({printable(text)})"
    return ""


def name_problem(text: str) -> str:
    """Why a text cannot be the name of a folder; "" where it can.

    What only Windows refuses (`:`, `?`, `CON`) is taken: runs are not carried there by their names.
    """
    if not text.strip() or text in (".", ".."):
        return f"must be a name ({printable(text)!r})"
    if "/" in text or "\\" in text:
        return f"is a name, not a path ({printable(text)}); the folder goes into save_dir"
    if plain(text) != text or text != text.strip():
        return f"must hold no control characters, and no blank at its ends ({printable(text)!r})"
    return path_problem(text)


def old_name_problem(text: str) -> str:
    """As `name_problem`, of a run that is there already: version 0.1.0 took paths below save_dir, and blanks at the ends of a name."""
    path = PurePath(text)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        return f"must be a path below save_dir ({printable(text)!r})"
    return path_problem(text)
