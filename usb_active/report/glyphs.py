"""Characters that matplotlib's font lacks: said in one line, not by a warning for each."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from usb_active.errors import name_some

LOGGER = logging.getLogger(__name__)
MISSING = re.compile(r"Glyph (\d+) .*missing from")
# Some of matplotlib's releases say this of whole scripts on top.
UNSUPPORTED = r"Matplotlib currently does not support \w+ natively"


@contextmanager
def missing_glyphs_logged() -> Iterator[None]:
    """Log the characters drawn as boxes in here, once and together; every other warning goes its usual way."""
    lacking: dict[str, None] = {}
    with warnings.catch_warnings():
        show = warnings.showwarning

        def collect(message: Warning | str, *where: Any, **more: Any) -> None:
            found = MISSING.match(str(message))
            if found:
                lacking[chr(int(found[1]))] = None
            else:
                show(message, *where, **more)

        warnings.showwarning = collect
        warnings.filterwarnings("always", message=MISSING.pattern)
        warnings.filterwarnings("ignore", message=UNSUPPORTED)
        yield
    if lacking:
        shown = name_some(map(_with_code, lacking))
        LOGGER.warning("the pictures show boxes where matplotlib's font lacks a character: %s; its setting font.family names others", shown)


def _with_code(character: str) -> str:
    """A character with its code, so that it can be told where the terminal cannot show it either: `あ (U+3042)`."""
    shown = f"{character} " if character.isprintable() else ""
    return f"{shown}(U+{ord(character):04X})"
