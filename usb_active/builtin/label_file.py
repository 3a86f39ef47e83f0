"""The files people write labels into: made for spreadsheets, read however a spreadsheet saved them."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from pathlib import Path

from usb_active.builtin.workbook import workbook_rows
from usb_active.contracts.label_texts import exact, fold, to_number
from usb_active.contracts.task import Classification, Task
from usb_active.errors import UsageError, name_some, printable
from usb_active.records import RETRACT, SKIP, SKIPPED, Query
from usb_active.storage.durable import read_bytes
from usb_active.storage.sample_keys import KeyFinder, look_alikes
from usb_active.storage.sample_keys import unique as _unique
from usb_active.storage.spreadsheet import escaped, unescaped

_COLUMNS = ("index", "key", "file", "label", "suggestion", "confidence", "status")


class RowProblems:
    """What is wrong in the files, a line each, raised as one error: people mend all of it in one go."""

    def __init__(self, limit: int = 10):
        self.limit = limit
        self.lines: list[str] = []
        self.count = 0

    def add(self, where: str, what: str, value: str, valid: Iterable[str] | str, near: bool = False) -> None:
        """A problem at `where` (file:row). `near`: name the nearest of the valid texts first."""
        self.count += 1
        # Only what is shown is worked out: a file may have a hundred thousand wrong rows.
        if self.count > self.limit:
            return
        value = printable(value, 60)
        if not isinstance(valid, str):
            valid = list(valid)
            alike = valid if len(valid) <= 1000 else look_alikes(value, valid)
            folded = {fold(name): name for name in alike} if near else {}
            close = difflib.get_close_matches(fold(value), folded, n=1)
            valid = (f"did you mean '{printable(folded[close[0]])}'? " if close else "") + name_some(valid, 20)
        self.lines.append(f"{where}: {what} ({_quoted(value)}); valid: {valid}")

    def say(self, line: Callable[[], str]) -> None:
        """A problem in words of one's own, which are made only where they are shown."""
        self.count += 1
        if self.count <= self.limit:
            self.lines.append(line())

    def raise_if_any(self) -> None:
        """UsageError with the first lines and how many more there are."""
        if self.count > self.limit:
            self.lines.append(f"and {self.count - self.limit} more")
        if self.lines:
            raise UsageError("\n".join(self.lines))


def _quoted(shown: str) -> str:
    """As `repr` would, of a text in which control characters are escaped already."""
    return f'"{shown}"' if "'" in shown and '"' not in shown else f"'{shown}'"


@dataclass(frozen=True)
class _Row:
    where: str
    index: str
    key: str
    label: str
    status: str = ""


class _Samples:
    """Samples (of a query, of the pool), found by what a row says. `whose`: for messages."""

    def __init__(self, keys: dict[int, str], whose: str = "this query"):
        self.keys, self.whose = keys, whose

    @cached_property
    def _by_key(self) -> KeyFinder:
        return KeyFinder(self.keys, exact)

    @cached_property
    def _by_number(self) -> dict[Decimal, int]:
        # A spreadsheet turns the key 00017 into 17.
        return _unique((to_number(key), index) for index, key in self.keys.items())

    def find(self, row: _Row, problems: RowProblems) -> int | None:
        """The row's sample, or None after saying what is wrong."""
        if not row.index:
            return self._find_key(row, problems)
        number = to_number(row.index)
        if number is None or number != int(number):
            problems.add(row.where, "index is no whole number", row.index, f"an index of {self.whose}")
            return None
        index = int(number)
        if index not in self.keys:
            problems.add(row.where, f"index is not in {self.whose}", row.index, map(str, self.keys))
            return None
        if row.key and not self._agree(row.key, index):
            valid = f"{_quoted(printable(self.keys[index]))}, or no column 'key' at all"
            problems.add(row.where, f"key does not agree with index {index}", row.key, valid)
            return None
        return index

    def _find_key(self, row: _Row, problems: RowProblems) -> int | None:
        if not row.key:
            valid = f"an index or a key of {self.whose}"
            problems.add(row.where, "neither index nor key beside the label", row.label, valid)
            return None
        # As it is, or as a file for spreadsheets holds it; a text that could be two samples is none.
        found = {self._by_key.find(text) for text in (row.key, unescaped(row.key))} - {None}
        index = found.pop() if len(found) == 1 else None
        if index is None:
            index = self._by_number.get(to_number(row.key))
        if index is None:
            problems.add(row.where, f"key is not in {self.whose}", row.key, self.keys.values(), near=True)
        return index

    def _agree(self, given: str, index: int) -> bool:
        key = self.keys[index]
        if exact(given) in (exact(key), escaped(exact(key))):
            return True
        return to_number(given) == to_number(key) is not None or self._by_key.find(given) == index


@dataclass(frozen=True)
class Sheet:
    """What a query's file says.

    Attributes:
        labels: dataset index → label, `SKIP` or `RETRACT`.
        empty: samples with a row and no label in it.
        missing: samples without a row.
    """

    labels: dict[int, int] = field(default_factory=dict)
    empty: frozenset[int] = frozenset()
    missing: frozenset[int] = frozenset()


def read_sheet(path: Path, query: Query, problems: RowProblems, task: Task | None = None) -> Sheet | None:
    """A query's file, a CSV or a workbook; None where there is none.

    Args:
        path: the file.
        query: whose it is.
        problems: takes what is wrong.
        task: where the query names no classes.
    """
    if path.suffix == ".xlsx":
        rows = _workbook(path, problems) if path.is_file() else None
    else:
        data = read_bytes(path)
        rows = None if data is None else _rows(path, data, problems)
    if rows is None:
        return None
    samples = _Samples(dict(zip(query.idx.tolist(), query.keys, strict=True)))
    task = task_of(query, task)
    found: dict[int, int] = {}
    empty: set[int] = set()
    for row in rows:
        if not row.label.strip():
            index = samples.find(row, RowProblems())
            empty |= set() if index is None else {index}
            continue
        index = samples.find(row, problems)
        if index is None:
            continue
        if index in found:
            problems.add(row.where, f"second label for index {index}", row.label, "one row per sample")
            continue
        label = _read_label(task, row, problems)
        if label is not None:
            found[index] = label
    missing = frozenset(query.idx.tolist()).difference(found, empty)
    # A row with a mistake in it is not missing; its file is refused anyway.
    return Sheet(found, frozenset(empty - found.keys()), frozenset() if problems.count else missing)


def task_of(query: Query, task: Task | None) -> Task:
    """What a query's labels are: one of the classes that it names, or else what its data set says."""
    if query.class_names or task is None:
        return Classification(query.class_names)
    return task


def _read_label(task: Task, row: _Row, problems: RowProblems) -> int | None:
    if fold(row.label) == "retract" and "retract" not in map(fold, task.class_names):
        return RETRACT
    label = task.read(row.label)
    if label is None:
        # As a file for spreadsheets holds it.
        label = task.read(unescaped(exact(row.label)))
    if label is None:
        skip = ["skip"] if task.can_skip else []
        valid = f"{task.valid}{', or skip' if skip else ''}" if isinstance(task.valid, str) else [*task.valid, *skip]
        problems.add(row.where, task.problem, row.label, valid, near=True)
    return label


def read_known_labels(path: Path, keys: Sequence[str], task: Task) -> dict[int, int]:
    """Labels that exist already, of any samples of the pool: dataset index → label.

    A key counts more than an index, which belongs to the pool it was made for. As in a run's own labels.csv a later row
    replaces an earlier one, and one that is empty, or says `skip` or `retract`, takes it back.

    Raises:
        UsageError: no such file, no label in it, or a line for each problem: `file:row: what (value); valid: …`.
    """
    found = {index: label for index, label in read_answered(path, keys, task, takes_back=True).items() if label != SKIP}
    if not found:
        raise UsageError(f"{path}: holds no label")
    return found


def read_answered(path: Path, keys: Sequence[str], task: Task, takes_back: bool = False) -> dict[int, int]:
    """As `read_known_labels`, with the refusals: dataset index → label, or `SKIP`; a row of the status `skipped` is one too.

    Args:
        path: the file.
        keys: (N,) of the pool.
        task: what the labels are.
        takes_back: whether a label that is `retract` takes an earlier row back, or is a problem. An empty one does so in either case.

    Raises:
        UsageError: no such file, or a line for each problem: `file:row: what (value); valid: …`.
    """
    data = read_bytes(path)
    if data is None:
        raise UsageError(f"{path}: no such file")
    problems = RowProblems()
    samples = _Samples(dict(enumerate(keys)), "the pool")
    found: dict[int, int] = {}
    for row in _rows(path, data, problems):
        index = samples.find(replace(row, index="") if row.key else row, problems)
        if index is None:
            continue
        found.pop(index, None)
        is_skip = not row.label.strip() and fold(row.status) == SKIPPED
        label = _read_label(task, row, problems) if row.label.strip() else SKIP if is_skip else None
        if label == RETRACT and not takes_back:
            problems.add(row.where, "a file takes no label back", row.label, "a label, skip, or none; `--retract KEY` takes one back")
        elif label not in (None, RETRACT):
            found[index] = label
    problems.raise_if_any()
    return found


def _rows(path: Path, data: bytes, problems: RowProblems) -> Iterator[_Row]:
    """The rows of a CSV file below the header that hold anything."""
    text = _decode(path, data)
    lines_before, delimiter, text = _separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    numbered = ((reader.line_num + lines_before, cells) for cells in reader)
    try:
        yield from _below_header(path, numbered, problems)
    except csv.Error as error:
        where = f"{path}:{reader.line_num + lines_before}"
        problems.add(where, "not readable as CSV", str(error), "a CSV file")


def _workbook(path: Path, problems: RowProblems) -> Iterator[_Row]:
    yield from _below_header(path, workbook_rows(path), problems)


def _below_header(path: Path, numbered: Iterable[tuple[int, list[str]]], problems: RowProblems) -> Iterator[_Row]:
    places: dict[str, int] | None = None
    for number, cells in numbered:
        where = f"{path}:{number}"
        if not any(map(str.strip, cells)):
            continue
        if places is not None:
            yield _row(where, cells, places)
            continue
        places = _header(where, cells, problems)
        if not places:
            return
    if places is None:
        problems.add(f"{path}:1", "no header", "", "the columns index,key,file,label")


def _row(where: str, cells: list[str], places: dict[str, int]) -> _Row:
    values = {name: cells[at] for name, at in places.items() if at < len(cells)}
    index, key, label, status = (values.get(name, "") for name in ("index", "key", "label", "status"))
    return _Row(where, index.strip(), key.strip(), label, status)


def _header(where: str, cells: list[str], problems: RowProblems) -> dict[str, int]:
    """Column name → position; empty after saying what is missing."""
    names = list(map(fold, cells))
    found = ", ".join(name.strip() for name in cells)
    for name in ("index", "key", "label"):
        if names.count(name) > 1:
            problems.add(where, f"two columns '{name}'", found, "one")
            return {}
    if "label" not in names or not {"index", "key"} & set(names):
        problems.add(where, "missing columns", found, "label, and index or key")
        return {}
    return {name: names.index(name) for name in _COLUMNS if name in names}


def _separator(text: str) -> tuple[int, str, str]:
    """Lines taken off the top, the delimiter, and the text from the header on."""
    told = re.match(r'"?sep=(.)"?(?:\r\n|\r|\n)', text, re.IGNORECASE)
    if told:
        return 1, told[1], text[told.end() :]
    header = next((line for line in text.splitlines() if line.strip(' ,;\t|"')), "")
    return 0, max(",;\t|", key=lambda mark: _known_columns(header, mark)), text


def _known_columns(header: str, delimiter: str) -> int:
    cells = next(csv.reader([header], delimiter=delimiter), [])
    return sum(fold(name) in _COLUMNS for name in cells)


def _decode(path: Path, data: bytes) -> str:
    """UTF-8 with or without its mark, UTF-16 with it (Excel's "Unicode text"), else Windows-1252."""
    if data.startswith(b"PK\x03\x04"):
        raise UsageError(f"{path} is a workbook, not a CSV file; save it as CSV under this name")
    utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16",) if utf16 else ("utf-8-sig", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise UsageError(f"{path} is no text in UTF-8, UTF-16 or Windows-1252; save it as 'CSV UTF-8'")
