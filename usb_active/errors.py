"""What goes wrong, in one line each: what, where, which value, what would be valid."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UsageError(ValueError):
    """The user can mend this: bad configuration, bad data, a plugin that breaks its contract. Shown as one line, no traceback."""


class WaitingForLabels(Exception):
    """The oracle needs people; the run has stopped cleanly and goes on when the same command is given again."""

    def __init__(self, message: str, pending: int):
        super().__init__(message)
        self.pending = pending


@contextmanager
def errors_named(who: str) -> Iterator[None]:
    """What a function refuses (ValueError), as a UsageError that says for whom it worked; a UsageError stays as it is."""
    try:
        yield
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{who}: {error}") from error


def nearest(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"`, or what there is when nothing is near."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(str(word), known, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {name_some(known, 20)}" if known else ""


def name_some(items: Iterable, limit: int = 5) -> str:
    """The first few of the items, and how many there are beyond: `3, 17, 18 and 40 more`."""
    items = list(items)
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
