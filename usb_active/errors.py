"""What goes wrong, in one line each: what, where, which value, what would be valid."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

# A message shows no more of any value than this.
SHOWN = 80
# Control, format (bidirectional overrides among them) and surrogate characters, and the separators of lines and paragraphs.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


class UsageError(ValueError):
    """The user can mend this: bad configuration, bad data, a plugin that breaks its contract. Shown as one line, no traceback."""


class WaitingForLabels(Exception):
    """The oracle needs people; the run has stopped cleanly and resumes when the same command is given again."""

    def __init__(self, message: str, pending: int):
        super().__init__(message)
        self.pending = pending


@contextmanager
def errors_named(who: str) -> Iterator[None]:
    """Re-raise a ValueError as a UsageError prefixed with `who`; a UsageError passes unchanged."""
    try:
        yield
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{who}: {error}") from error


def plain(text: str) -> str:
    """The text with every control character as its escape (`\\x1b`, `\\u202e`): nothing that a terminal acts upon, and no line break."""
    if text.isprintable():
        return text
    return "".join(_escaped(char) if unicodedata.category(char) in _UNPRINTABLE else char for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def printable(value: Any, limit: int = SHOWN) -> str:
    """A value of the user as a message may show it: without control characters, and shortened to `limit` characters."""
    # Cut before it is escaped: a value may be as long as a file.
    text = plain(str(value)[: limit + 1])
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def reason_of(error: Exception) -> str:
    """What a plugin's or a library's exception says, on one line; with its type, and shortened, where it was not meant for the user."""
    if isinstance(error, UsageError):
        return plain(" ".join(str(error).split()))
    return f"{type(error).__name__}: {printable(str(error).strip().partition(chr(10))[0], 200)}"


def nearest(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"`, or what there is when nothing is near."""
    known = sorted(map(str, known))
    # Nothing is near to a text that is longer than any name, and looking for it would take long.
    close = difflib.get_close_matches(str(word), known, n=1) if len(str(word)) <= 10 * SHOWN else []
    if close:
        return f"; did you mean '{printable(close[0])}'?"
    return f"; known: {name_some(known, 20)}" if known else ""


def name_some(items: Iterable, limit: int = 5) -> str:
    """The first few of the items, and how many there are beyond: `3, 17, 18 and 40 more`."""
    items = list(items)
    # A path is shown whole: it says where to look.
    shown = ", ".join(plain(str(item)) if isinstance(item, PurePath) else printable(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
