"""Texts in CSV files that people open in a spreadsheet: none is a formula there, and what is read back is what stood in the cell.

A cell that begins with `=`, `+`, `-`, `@`, a tab or a carriage return would be computed. It is written behind an apostrophe, by which
spreadsheets know a text. A text that begins with apostrophes before such a sign gets one more, so that nothing of the cell is lost.
A cell holds no line breaks, no tabs and no bytes that are no text (see `cell`); code that looks for a text that was read back compares it
with the cell of each text, not with the text.
"""

from __future__ import annotations

import re

# With the signs' full-width forms, which some spreadsheets take for the same, and blanks, which some take away.
_FORMULA = re.compile(r"[\s']*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\s']*[\t\r]")
_TEXT_MARK = "'"


def cell(text: str) -> str:
    """A text as a spreadsheet can hold it: one line, a blank for each tab and line break, valid Unicode."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode("utf-8").splitlines()).replace("\t", " ")


def escaped(text: str) -> str:
    """The text as a cell that no spreadsheet computes."""
    return _TEXT_MARK + text if _FORMULA.match(text) else text


def unescaped(text: str) -> str:
    """The inverse of `escaped`: of what `text_cell` wrote, the `cell`."""
    return text[1:] if text.startswith(_TEXT_MARK) and _FORMULA.match(text[1:]) else text


def text_cell(text: str) -> str:
    """A text of the user for a CSV meant for spreadsheets. Numbers of our own are written as they are."""
    return escaped(cell(text))
