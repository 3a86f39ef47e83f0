"""faiss comes in two packages that share a module, so neither is a hard dependency: one error says how to get it."""

from __future__ import annotations

import importlib
from types import ModuleType

from usb_active.errors import UsageError


def import_faiss() -> ModuleType:
    """The module `faiss`. UsageError, in one line that names the extras, where it is not installed."""
    try:
        return importlib.import_module("faiss")
    except ModuleNotFoundError as error:
        if error.name != "faiss":
            raise
        raise UsageError('faiss is not installed: pip install "usb-active[cpu]", or "usb-active[gpu]", never both') from error
