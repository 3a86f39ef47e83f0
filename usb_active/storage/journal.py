"""The journal `labels.csv`: append-only, one line per row. What was acknowledged is never touched again."""

from __future__ import annotations

import csv
import io
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime, timezone
from operator import attrgetter
from pathlib import Path

from usb_active.errors import UsageError, printable
from usb_active.records import LABELED, RETRACTED, SKIPPED, LabelRow
from usb_active.storage.durable import no_os_error, read_bytes, sync_folder, write_all

logger = logging.getLogger("usb_active")

_COLUMNS = tuple(field.name for field in fields(LabelRow))
_values = attrgetter(*_COLUMNS)
_HEADER = (",".join(_COLUMNS) + "\n").encode()


def utc_now() -> str:
    """The time as the journal writes it: `2024-05-01T12:00:00+00:00`."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def read_journal(path: Path) -> list[LabelRow]:
    """All rows, oldest first. A torn last row is left out, with a warning.

    Raises:
        UsageError: damage anywhere else; names file, line and what is wrong.
    """
    whole, torn = _split(path, read_bytes(path) or b"")
    if torn:
        logger.warning("%s: the last row is torn and left out; it was never acknowledged: %s", path, printable(torn))
    return _decode_rows(path, whole)


def whole_rows(path: Path) -> bytes:
    """The header and all rows, without a torn last one, as they are in the file; empty without a file."""
    return _split(path, read_bytes(path) or b"")[0]


def drop_torn_row(path: Path) -> int:
    """Cut off what a killed writer left, with a warning. Gives the good length, 0 if there is none."""
    whole, torn = _split(path, read_bytes(path) or b"")
    if torn:
        logger.warning("%s: the last row is torn and dropped; it was never acknowledged: %s", path, printable(torn))
        with no_os_error("write", path):
            os.truncate(path, len(whole))
    return len(whole)


def append_journal(path: Path, rows: Sequence[LabelRow]) -> None:
    """Add rows: when this returns they survive a power cut; when it raises the journal is as before.

    Raises:
        UsageError: a row that is no row; a disk that is full or cannot be written (path and reason).
    """
    data = _encode_rows(rows)
    if not data:
        return
    length = drop_torn_row(path)
    with no_os_error("write", path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            _append(fd, data if length else _HEADER + data, length)
        finally:
            os.close(fd)
        if not length:
            sync_folder(path.parent)


def _append(fd: int, data: bytes, length: int) -> None:
    try:
        write_all(fd, data)
        os.fsync(fd)
    except BaseException:
        # Should this fail too: whole rows are true labels all the same, a torn one is dropped later.
        os.ftruncate(fd, length)
        raise


def _encode_rows(rows: Sequence[LabelRow]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        problem = _problem(str(row.cycle), str(row.index), row.label, row.status)
        if problem:
            raise UsageError(f"labels.csv: refused to write a row of sample {row.index}: {problem}")
        writer.writerow([_escape(value) if isinstance(value, str) else value for value in _values(row)])
    # File names that are not valid UTF-8 come as lone surrogates; this gives their bytes back.
    return text.getvalue().encode("utf-8", "surrogateescape")


def _escape(text: str) -> str:
    # One line per row, whatever a key holds: only so is a torn last row told from damage in the middle.
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _unescape(text: str) -> str:
    plain = {"n": "\n", "r": "\r", "\\": "\\"}
    return re.sub(r"\\(.)", lambda match: plain.get(match[1], match[0]), text) if "\\" in text else text


def _split(path: Path, data: bytes) -> tuple[bytes, bytes]:
    """What was written whole, and the torn rest: a row ends with its newline, what follows is torn."""
    end = data.rfind(b"\n") + 1
    whole, torn = data[:end], data[end:]
    good = whole.replace(b"\r\n", b"\n", 1).startswith(_HEADER) if whole else _HEADER.startswith(torn)
    if not good:
        header = _HEADER.decode().strip()
        raise UsageError(f"{path}:1: damaged: the first line must be {header}; mend this line")
    return whole, torn


def _decode_rows(path: Path, whole: bytes) -> list[LabelRow]:
    lines = whole.decode("utf-8", "surrogateescape").split("\n")[1:-1]
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            rows.append(_decode_row(line.removesuffix("\r")))
        except ValueError as error:
            raise UsageError(f"{path}:{number}: damaged row: {error}; mend this row") from error
    return rows


def _decode_row(line: str) -> LabelRow:
    """One line as a row; ValueError says what is wrong with it."""
    try:
        cells = next(csv.reader([line], strict=True), [])
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if len(cells) != len(_COLUMNS):
        raise ValueError(f"{len(cells)} fields, must be {len(_COLUMNS)} ({', '.join(_COLUMNS)})")
    cycle, index, key, label, status, acquisition, time = map(_unescape, cells)
    problem = _problem(cycle, index, label, status)
    if problem:
        raise ValueError(problem)
    return LabelRow(int(cycle), int(index), key, label, status, acquisition, time)


def _problem(cycle: str, index: str, label: str, status: str) -> str | None:
    for name, text in (("cycle", cycle), ("index", index)):
        if not (text.isascii() and text.isdigit()):
            return f"{name} is '{printable(text)}', must be a whole number"
    if status not in (LABELED, SKIPPED, RETRACTED):
        return f"status is '{printable(status)}', must be '{LABELED}', '{SKIPPED}' or '{RETRACTED}'"
    if bool(label) != (status == LABELED):
        return f"label is '{printable(label)}' though status is '{status}'"
    return None
