"""What people write for a label: texts compared as they are meant, and classes found by their names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal

from usb_active.records import SKIP
from usb_active.storage.sample_keys import unique
from usb_active.storage.spreadsheet import cell, unescaped

# Exactly three digits behind the point or comma could as well be thousands, so such a text is no number here.
_NUMBER = re.compile(r"[+-]?[0-9]+(?:[.,](?:[0-9]{1,2}|[0-9]{4,}))?")


def exact(text: str) -> str:
    """The text without blanks around it, accents composed."""
    return unicodedata.normalize("NFC", cell(text)).strip()


def fold(text: str) -> str:
    """As `exact`, whatever the case."""
    return exact(text).casefold()


def to_number(text: str) -> Decimal | None:
    """The number that a text says without doubt."""
    text = text.strip()
    return Decimal(text.replace(",", ".")) if _NUMBER.fullmatch(text) else None


def _is_numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class ClassReader:
    """What people write for a class, as its index."""

    def __init__(self, class_names: Sequence[str]):
        self.names = tuple(class_names)
        self._names = {name: label for label, name in enumerate(self.names)}
        self._folded = unique((fold(name), label) for label, name in enumerate(self.names))
        self._numbers = unique((to_number(name), label) for label, name in enumerate(self.names))
        # With numbers for names, a number can only be a name.
        self._by_index = not any(map(_is_numeric, self.names))
        self.can_skip = "skip" not in map(fold, self.names)

    def read(self, text: str) -> int | None:
        """The class index, `SKIP`, or None for what is neither.

        In this order: the exact name, with or without the apostrophe that keeps it from being a formula; `skip`; the name in
        another case, if only one class has it; a number that equals a name (`3.0` for `3`); the class index, where no name is
        a number.
        """
        for name in (text, exact(text), unescaped(exact(text))):
            if name in self._names:
                return self._names[name]
        if self.can_skip and fold(text) == "skip":
            return SKIP
        for name in (fold(text), unescaped(fold(text))):
            if name in self._folded:
                return self._folded[name]
        value = to_number(text)
        if value is None or not self._by_index:
            return self._numbers.get(value)
        return int(value) if value == int(value) and 0 <= value < len(self.names) else None
