"""Which key of the keyboard gives which class."""

from __future__ import annotations

import string
from collections.abc import Sequence

# The page's own: skip and undo.
RESERVED = "su"
_ORDER = [key for key in "123456789" + string.ascii_lowercase if key not in RESERVED]
# More classes than this are found by typing a part of their name.
MOST = len(_ORDER)


def class_keys(names: Sequence[str]) -> list[str]:
    """A key for each class, "" where none is left: 1 to 9, then letters.

    A class whose name is a key (digits: "7") has that one, or a person would have to press 8 for it. Of many classes none has a key.
    """
    if len(names) > MOST:
        return [""] * len(names)
    allowed = {"0", *_ORDER}
    own = [name.lower() if len(name) == 1 and name.lower() in allowed else "" for name in names]
    own = [key if own.count(key) == 1 else "" for key in own]
    free = iter([key for key in _ORDER if key not in own])
    return [key or next(free, "") for key in own]
