"""The files of a query that people write answers into: a CSV, and a workbook beside it where somebody saved one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from usb_active.label_file import SKIP, Problems, Sheet, read_sheet
from usb_active.oracle import Query
from usb_active.workbook import can_read

logger = logging.getLogger("usb_active")


@dataclass(frozen=True)
class FoundAnswers:
    """What the files of a query say: `labels` (index → class index), and the other samples by what their row says."""

    labels: dict[int, int]
    skipped: frozenset[int] = frozenset()
    empty: frozenset[int] = frozenset()
    missing: frozenset[int] = frozenset()


def csv_path(run_path: Path, cycle: int) -> Path:
    """The CSV file of a query."""
    return (run_path / "queries" / f"cycle_{cycle:03d}.csv").absolute()


def read_answers(run_path: Path, query: Query, problems: Problems | None = None) -> FoundAnswers:
    """What the files of a query say. Where the CSV and a workbook both answer for a sample, the file that was changed last counts.

    Raises:
        UsageError: a file cannot be read; with `problems`, what is wrong in the rows goes there instead.
    """
    found, own = Problems() if problems is None else problems, problems is None
    csv_file = csv_path(run_path, query.cycle)
    sheets = [sheet for path in sorted(_files(csv_file), key=_changed) if (sheet := read_sheet(path, query, found)) is not None]
    if own:
        found.raise_if_any()
    if not sheets:
        return FoundAnswers({})
    return _merged(sheets)


def _files(csv_file: Path) -> list[Path]:
    workbook = csv_file.with_suffix(".xlsx")
    if workbook.is_file() and not can_read():
        logger.warning("%s is not read: pip install 'usb-active[xlsx]', or save it as CSV under the name %s", workbook, csv_file.name)
        return [csv_file]
    return [csv_file, workbook]


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _merged(sheets: list[Sheet]) -> FoundAnswers:
    """Of files in the order in which they were changed."""
    labels: dict[int, int] = {}
    for sheet in sheets:
        labels |= sheet.labels
    empty = frozenset().union(*(sheet.empty for sheet in sheets)).difference(labels)
    missing = sheets[0].missing.intersection(*(sheet.missing for sheet in sheets)).difference(labels)
    skipped = frozenset(index for index, label in labels.items() if label == SKIP)
    return FoundAnswers({index: label for index, label in labels.items() if label != SKIP}, skipped, empty, missing)
