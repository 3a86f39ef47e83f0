"""The files of a query that people write answers into: a CSV, and a workbook beside it where one was saved."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from usb_active.builtin.label_file import RowProblems, Sheet, read_sheet, task_of
from usb_active.builtin.workbook import can_read
from usb_active.contracts.task import Task
from usb_active.errors import UsageError, printable
from usb_active.records import RETRACT, SKIP, Query

logger = logging.getLogger("usb_active")


@dataclass(frozen=True)
class FoundAnswers:
    """What the files of a query say: `labels` (index → label), and the other samples by what their row says."""

    labels: dict[int, int]
    skipped: frozenset[int] = frozenset()
    retracted: frozenset[int] = frozenset()
    empty: frozenset[int] = frozenset()
    missing: frozenset[int] = frozenset()
    # Those of which the two files say different things; they are in none of the others.
    disputed: frozenset[int] = frozenset()


def csv_path(run_path: Path, cycle: int) -> Path:
    """The CSV file of a query."""
    return (run_path / "queries" / f"cycle_{cycle:03d}.csv").absolute()


def read_answers(run_path: Path, query: Query, problems: RowProblems | None = None, task: Task | None = None) -> FoundAnswers:
    """What the files of a query say. Of a sample for which the CSV and a workbook both answer they must say the same.

    When a file was changed tells nothing of its cells: the one that was saved last may hold an answer that was corrected in the other.

    Args:
        run_path: the run's folder.
        query: whose files.
        problems: takes what is wrong in the files; by default that is raised.
        task: where the query names no classes.

    Raises:
        UsageError: a file cannot be read, or the files contradict each other; with `problems`, what is wrong in them goes there instead.
    """
    found = RowProblems() if problems is None else problems
    paths = _files(csv_path(run_path, query.cycle))
    sheets = {path: sheet for path in paths if (sheet := read_sheet(path, query, found, task)) is not None}
    merged = _merged(sheets.values())
    _say_disputes(sheets, merged, query, found, task_of(query, task))
    if problems is None:
        found.raise_if_any()
    return merged


def readable_answers(run_path: Path, query: Query, task: Task | None = None) -> FoundAnswers:
    """As `read_answers`, of all rows that can be understood: what is wrong with the others, or with a whole file, is passed over."""
    sheets = []
    for path in _files(csv_path(run_path, query.cycle)):
        with suppress(UsageError):
            sheets.append(read_sheet(path, query, RowProblems(), task))
    return _merged([sheet for sheet in sheets if sheet is not None])


def _files(csv_file: Path) -> list[Path]:
    workbook = csv_file.with_suffix(".xlsx")
    if workbook.is_file() and not can_read():
        logger.warning("%s is not read: pip install 'usb-active[xlsx]', or save it as CSV under the name %s", workbook, csv_file.name)
        return [csv_file]
    return [csv_file, workbook]


def _merged(sheets: Collection[Sheet]) -> FoundAnswers:
    if not sheets:
        return FoundAnswers({})
    said = {pair for sheet in sheets for pair in sheet.labels.items()}
    times = Counter(index for index, _ in said)
    disputed = frozenset(index for index, count in times.items() if count > 1)
    labels = {index: label for sheet in sheets for index, label in sheet.labels.items() if index not in disputed}
    empty = frozenset().union(*(sheet.empty for sheet in sheets)).difference(times)
    missing = frozenset.intersection(*(sheet.missing for sheet in sheets))
    skipped, retracted = (frozenset(index for index, label in labels.items() if label == word) for word in (SKIP, RETRACT))
    given = {index: label for index, label in labels.items() if label not in (SKIP, RETRACT)}
    return FoundAnswers(given, skipped, retracted, empty, missing, disputed)


def _say_disputes(sheets: Mapping[Path, Sheet], merged: FoundAnswers, query: Query, problems: RowProblems, task: Task) -> None:
    if not merged.disputed:
        return
    (csv_file, one), (workbook, other) = sheets.items()
    for index, key in zip(query.idx.tolist(), query.keys, strict=True):
        if index in merged.disputed:
            what = f"'{printable(key)}' is '{_shown(other.labels[index], task)}' in {workbook.name}, and here it is another"
            problems.add(str(csv_file), what, _shown(one.labels[index], task), "the same in both, or an empty cell in one of them")


def _shown(label: int, task: Task) -> str:
    return {SKIP: "skip", RETRACT: "retract"}.get(label) or printable(task.decode(label))
