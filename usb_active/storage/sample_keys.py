"""Samples found by what people write for their keys: a whole path, another system's separators, or the file's bare name."""

from __future__ import annotations

import heapq
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from itertools import pairwise
from os.path import commonprefix

from usb_active.storage.paths import nfc

# So many keys are compared letter by letter.
_MOST = 5000
_DRIVE = re.compile(r"[A-Za-z]:/")


class KeyFinder:
    """Dataset indices by key.

    Args:
        keys: index → key.
        exact: what makes two spellings of one key equal; by default, however their accents are composed.
    """

    def __init__(self, keys: Mapping[int, str], exact: Callable[[str], str] = nfc):
        self._keys, self._exact = keys, exact

    @cached_property
    def _by_key(self) -> dict[str, int]:
        return unique((self._exact(key), index) for index, key in self._keys.items())

    @cached_property
    def _by_name(self) -> dict[str, int]:
        return unique((key.rpartition("/")[2], index) for key, index in self._by_key.items())

    def find(self, text: str) -> int | None:
        """The sample meant, in this order: its key; the key after `\\` for `/` and without `./`; a path that ends in the key; a bare
        file name that only one key has. None where nothing or more than one fits."""
        text = self._exact(text)
        if text in self._by_key:
            return self._by_key[text]
        path = text.replace("\\", "/")
        absolute = path.startswith("/") or _DRIVE.match(path) is not None
        path = posixpath.normpath(path).lstrip("/")
        parts = path.split("/")
        if len(parts) == 1:
            return self._by_key.get(path, self._by_name.get(path))
        # The longest end first. A key without a folder is only a bare name: the end of a path proves little, unless the path is absolute.
        ends = range(len(parts) if absolute else len(parts) - 1)
        return next((self._by_key[end] for end in ("/".join(parts[at:]) for at in ends) if end in self._by_key), None)


def look_alikes(text: str, keys: Collection[str], count: int = 50) -> list[str]:
    """Some keys that differ from a text in a quarter of it at most, and share most letters with it at their beginnings and ends.

    A slip of the pen leaves all else as it is. Among a million keys `difflib` would look for minutes; among these it finds the nearest.
    """
    quarters = [len(text) * part // 4 for part in range(5)]
    found: list[str] = []
    for head, tail in ((text[:begin], text[end:]) for begin, end in pairwise(quarters)):
        found += [key for key in keys if key.startswith(head) and key.endswith(tail)][:_MOST]
    shared = lambda key: len(commonprefix((text, key))) + len(commonprefix((text[::-1], key[::-1])))  # noqa: E731 — closure
    return heapq.nlargest(count, dict.fromkeys(found), shared)


def unique(pairs: Iterable[tuple]) -> dict:
    """A dict of the pairs whose first element occurs once."""
    found: dict = {}
    twice = set()
    for name, value in pairs:
        if name in found:
            twice.add(name)
        found[name] = value
    return {name: value for name, value in found.items() if name is not None and name not in twice}
