"""Workbooks (`.xlsx`) as rows of texts, read with openpyxl, which the extra `xlsx` brings."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

from usb_active.errors import UsageError, printable

# Unpacked: a workbook is a zip archive, and a small one can hold gigabytes.
MAX_UNPACKED = 200_000_000


def can_read() -> bool:
    """Whether openpyxl is installed."""
    return importlib.util.find_spec("openpyxl") is not None


def workbook_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of the row, cells) of the first sheet. Formulas count as what the spreadsheet program computed last.

    Raises:
        UsageError: no workbook, or one that is larger than any list of labels.
    """
    import openpyxl

    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_UNPACKED:
            raise UsageError(f"{path}: {size:,} bytes when unpacked; this is no list of labels")
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            for number, cells in enumerate(book.worksheets[0].iter_rows(values_only=True), start=1):
                yield number, [_text(value) for value in cells]
        finally:
            book.close()
    except UsageError:
        raise
    except Exception as error:  # whatever a damaged archive provokes in zipfile, the XML parser or openpyxl
        reason = printable(f"{type(error).__name__}: {error}".partition("\n")[0])
        raise UsageError(f"{path}: cannot be read as a workbook ({reason}); save it again, or as CSV") from error


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.isoformat() if isinstance(value, date | datetime) else str(value)
