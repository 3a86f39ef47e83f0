"""Paths as people write them: `~` is a home folder, and names with accents are one name however these are composed."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

from usb_active.errors import UsageError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/(?:/|(?=[^/]))")


def user_path(text: str | Path) -> Path:
    """The path with `~` or `~name` at its start replaced by that home folder. UsageError: there is no such user."""
    path = os.path.expanduser(text)
    if str(text).startswith("~") and path.startswith("~"):
        raise UsageError(f"{text}: '~' at the start stands for a home folder, and there is no such user; for a folder here write ./{text}")
    return Path(path)


def is_url(text: str) -> bool:
    """Whether it names something on a network: `https://…`, `ftp://…`, and `https:/…`, which is what a path makes of one."""
    return _URL.match(text) is not None


def absolute(text: str) -> str:
    """The same place from any working directory; what is no path on this machine (nothing, or a URL) stays as it is."""
    return text if not text or is_url(text) else os.path.abspath(user_path(text))


def nfc(text: str) -> str:
    """The text composed: macOS writes é in file names as two characters, most others as one."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)
