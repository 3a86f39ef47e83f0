"""The journal against what the run knows: nothing is trained on, shown or predicted from labels that changed unnoticed.

What a cycle began with is in its start.json: the number of rows, a SHA-256 of them (header included, whatever the line ends), and
CRC-32 of at most a thousand blocks of them, which say where a change is: up to a thousand labels, in which line.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from usb_active.errors import SHOWN, UsageError, name_some, printable
from usb_active.records import RETRACTED, SKIP, LabelRow, Query
from usb_active.storage.classes import added_names, check_known, with_added
from usb_active.storage.journal import whole_rows
from usb_active.storage.run_format import PINNED_FILE
from usb_active.storage.schemas import QUERY_REMEDY, read_accepted, read_dataset, read_start

if TYPE_CHECKING:
    from usb_active.contracts.task import Task
    from usb_active.storage.run_dir import RunDir

BLOCKS = 1000
# A line of labels.csv is several values.
_LINE = 2 * SHOWN
# Of what a change is looked for in, this many lines are named.
_NAMED = 20


class Journal:
    """The bytes of labels.csv, by rows. `num_rows`: how many there are, not counting the header and a torn last one."""

    def __init__(self, path: Path):
        self.path = path
        self._data = whole_rows(path).replace(b"\r\n", b"\n")
        # Where line k ends; line 0 is the header.
        self._ends = np.flatnonzero(np.frombuffer(self._data, dtype=np.uint8) == ord("\n")) + 1
        self.num_rows = max(0, len(self._ends) - 1)

    def _bytes(self, first: int, last: int) -> memoryview:
        """Rows `first` … `last` - 1; row -1 is the header."""
        ends = self._ends
        start = 0 if first < 0 or not len(ends) else int(ends[first])
        return memoryview(self._data)[start : int(ends[last]) if len(ends) else 0]

    def sha256(self, rows: Iterable[int]) -> Iterator[str]:
        """The checksum of the first k rows, for every k of `rows`, which ascend."""
        digest, done = hashlib.sha256(), -1
        for count in rows:
            digest.update(self._bytes(done, count))
            done = count
            yield digest.copy().hexdigest()

    def crc32(self, rows: int) -> list[int]:
        """The checksums of the blocks of the first `rows` rows."""
        size = block_size(rows)
        return [zlib.crc32(self._bytes(first, min(rows, first + size))) for first in range(0, rows, size)]

    def crc32_present(self, rows: int) -> list[int]:
        """As `crc32`, of as many whole blocks as there are."""
        size = block_size(rows)
        last = min(rows, self.num_rows)
        whole = [first for first in range(0, last, size) if min(rows, first + size) <= last]
        return [zlib.crc32(self._bytes(first, min(rows, first + size))) for first in whole]

    def line(self, number: int) -> str:
        """The text of a line, counted from 1."""
        start = int(self._ends[number - 2]) if number > 1 else 0
        return self._data[start : int(self._ends[number - 1])].decode("utf-8", "replace").rstrip("\n")


def block_size(rows: int) -> int:
    """How many rows make a block."""
    return max(1, -(-rows // BLOCKS))


def journal_sums(path: Path, rows: int) -> dict[str, Any]:
    """The checksums of the first rows, as start.json holds them."""
    journal = Journal(path)
    return {"journal_sha256": next(journal.sha256([rows])), "journal_crc32": journal.crc32(rows)}


@dataclass(frozen=True)
class Start:
    """What a cycle began with; `sha256` and `crc32` after the edits that were accepted, `recorded` before any."""

    cycle: int
    rows: int
    sha256: str | None
    crc32: Sequence[int]
    pending: int | None
    samples: int | None
    class_names: Sequence[str] = ()

    @property
    def where(self) -> str:
        return f"cycle_{self.cycle:03d}/start.json"


def read_starts(run: RunDir) -> list[Start]:
    """Those of all cycles that have been begun, fewest rows first."""
    edits = read_accepted(run)
    starts = []
    for cycle in started_cycles(run.path):
        record = read_start(run, cycle)
        if record is not None:
            sums = record.get("journal_sha256"), record.get("journal_crc32", [])
            more = record.get("pending"), record.get("samples"), record.get("class_names") or ()
            start = Start(cycle, record["journal_rows"], *sums, *more)
            starts.append(_edited(start, edits))
    return sorted(starts, key=lambda start: (start.rows, start.cycle))


def _edited(start: Start, edits: Sequence[dict[str, Any]]) -> Start:
    for edit in edits:
        if edit["cycle"] == start.cycle and edit["before"] == start.sha256:
            start = replace(start, sha256=edit["sha256"], crc32=edit["crc32"])
    return start


def started_cycles(path: Path) -> list[int]:
    """The cycles of a run whose folders hold a start.json."""
    found = (re.fullmatch(r"cycle_(\d{3,})", start.parent.name) for start in path.glob("cycle_*/start.json"))
    return sorted(int(match[1]) for match in found if match)


def asked_cycles(path: Path) -> list[int]:
    """The cycles of a run whose queries there are."""
    found = (re.fullmatch(r"cycle_(\d{3,})\.json", query.name) for query in (path / "queries").glob("cycle_*.json"))
    return sorted(int(match[1]) for match in found if match)


# ------------------------------------------------------------------------------------------------- the checks
def check_prefix(run: RunDir) -> None:
    """The rows that cycles began with are there, and as they were.

    Raises:
        UsageError: the first line that is not, and what to do.
    """
    # Before the journal is read: a process that works in the run may add rows at any time.
    starts = read_starts(run)
    if not starts:
        return
    journal = Journal(run.path / "labels.csv")
    for start in starts:
        if start.rows > journal.num_rows:
            raise UsageError(_shortage(journal, start))
    for start, sha256 in zip(starts, journal.sha256(start.rows for start in starts), strict=True):
        if start.sha256 not in (None, sha256):
            raise UsageError(_change(run, journal, start))


def _shortage(journal: Journal, start: Start) -> str:
    line = min([*changed_lines(journal, start), journal.num_rows + 2])
    has = "it is gone" if not journal.path.exists() else f"the file has {journal.num_rows} rows"
    return (
        f"{journal.path}:{line}: rows are missing: {has}, and cycle {start.cycle} began with {start.rows} ({start.where}); "
        f"restore it from a copy (to take a label back: usb-active labels {journal.path.parent} --retract KEY)"
    )


def _change(run: RunDir, journal: Journal, start: Start) -> str:
    lines = changed_lines(journal, start)
    line = min(lines, default=1)
    through = f" (somewhere from there to line {line + block_size(start.rows) - 1})" if block_size(start.rows) > 1 and lines else ""
    return (
        f"{journal.path}:{line}: not as it was when cycle {start.cycle} began{through}: the checksum in {start.where} is another one; "
        f"restore it from a copy, or, if the edit was meant: usb-active labels {run.path} --accept-edits"
    )


def changed_lines(journal: Journal, start: Start) -> list[int]:
    """Lines of labels.csv at which the blocks begin that are not as they were when the cycle began; none where nothing is known."""
    now = journal.crc32_present(start.rows)
    return [2 + number * block_size(start.rows) for number, (old, new) in enumerate(zip(start.crc32, now, strict=False)) if old != new]


def check_rows(path: Path, rows: Sequence[LabelRow], keys: Sequence[str] | None) -> None:
    """Every row's key must be that of its index. UsageError names the line.

    Args:
        path: the run.
        keys: (N,) of keys.txt.
    """
    if keys is None:
        return
    for line, row in enumerate(rows, start=2):
        if not row.index < len(keys):
            raise UsageError(f"{path / 'labels.csv'}:{line}: no sample {row.index}; valid: 0 to {len(keys) - 1}; restore it from a copy")
        if keys[row.index] != row.key:
            raise UsageError(
                f"{path / 'labels.csv'}:{line}: the key '{printable(row.key)}' is not that of sample {row.index}, "
                f"'{printable(keys[row.index])}' (keys.txt); restore it from a copy"
            )


def check_queries(run: RunDir, rows: Sequence[LabelRow], keys: Sequence[str] | None) -> list[Query]:
    """All queries, checked against the pool's order and the data set's classes. UsageError when one is gone or was altered."""
    folder = run.path / "queries"
    # Known labels are journalled before the query that stands for them; those are of cycle 0.
    asked = {row.cycle + 1 for row in rows if row.cycle > 0}
    number = max([0, *(cycle + 1 for cycle in (*asked_cycles(run.path), *started_cycles(run.path))), *asked])
    # Whoever trains or predicts refuses a run that has lost it.
    names = read_dataset(run)["class_names"] if (run.path / PINNED_FILE).exists() else None
    queries = []
    for cycle in range(number):
        path, query = folder / f"cycle_{cycle:03d}.json", run.query(cycle, probs=False)
        if query is None:
            raise UsageError(f"{path} is gone; {QUERY_REMEDY}")
        # Those that were added while an earlier query waited; while its own did, they came after it.
        if names is not None and query.class_names != with_added(run, names, cycle - 1):
            check_known(run, query.class_names, f"queries/{path.name}")
            raise UsageError(f"{path} is damaged (class_names are not those of {PINNED_FILE}); {QUERY_REMEDY}")
        if keys is not None:
            _check_picks(path, query, keys)
        queries.append(query)
    return queries


def _check_picks(path: Path, query: Query, keys: Sequence[str]) -> None:
    for index, key in zip(query.idx.tolist(), query.keys, strict=True):
        if not 0 <= index < len(keys):
            raise UsageError(f"{path} is damaged (no sample {index}; valid: 0 to {len(keys) - 1}); {QUERY_REMEDY}")
        if keys[index] != key:
            shown = f"'{printable(key)}' is not the key of sample {index}, '{printable(keys[index])}'"
            raise UsageError(f"{path} is damaged ({shown}); {QUERY_REMEDY}")


def check_answered(
    path: Path, starts: Sequence[Start], queries: Sequence[Query], rows: Sequence[LabelRow], complete: bool = False
) -> None:
    """Whom a cycle asked has a row among those it began with, but for the answers that were pending then.

    A retracted sample has none until it is answered again, by whichever query asks for it.

    Args:
        complete: where a start says nothing of pending answers, as in runs of version 0.1.0, there can have been none.
    """
    answered: set[int] = set()
    done = 0
    for start in starts:
        for row in rows[done : start.rows]:
            (answered.discard if row.status == RETRACTED else answered.add)(row.index)
        done = max(done, start.rows)
        pending = 0 if start.pending is None and complete else start.pending
        if pending is None:
            continue
        query = queries[start.cycle]
        missing = [key for index, key in zip(query.idx.tolist(), query.keys, strict=True) if index not in answered]
        if len(missing) > pending:
            late = f" ({pending} of them were pending then)" if pending else ""
            raise UsageError(
                f"{path / 'labels.csv'}:{start.rows + 1}: up to this line there must be answers to the query of cycle {start.cycle} "
                f"(queries/cycle_{start.cycle:03d}.json), and there are none for {name_some(missing)}{late}; restore it from a copy"
            )


def check_keys_file(run: RunDir, starts: Sequence[Start], keys: Sequence[str] | None) -> None:
    """keys.txt is there once a query was made, and holds at least the samples that there were."""
    path = run.path / "keys.txt"
    if keys is None:
        # dataset.json is written before it, and queries after.
        if starts or (run.path / PINNED_FILE).exists() and any((run.path / "queries").glob("cycle_*.json")):
            raise UsageError(f"{path} is gone; restore it from a copy: it says which sample is which")
        return
    most = max([start.samples or 0 for start in starts], default=0)
    if len(keys) < most:
        raise UsageError(f"{path} is damaged ({len(keys)} keys, and there were {most} already); restore it from a copy")


def check_labels(run: RunDir, complete: bool = False) -> list[Query]:
    """All of it, cheapest first.

    Returns:
        All queries.

    Raises:
        UsageError: what is wrong, in which file and line, and what to do.
    """
    check_prefix(run)
    return check_labels_but_sums(run, read_starts(run), complete)


def check_labels_but_sums(run: RunDir, starts: Sequence[Start], complete: bool = False) -> list[Query]:
    """Everything that does not need a checksum: for a run just opened, which has compared them, or whose edits are to be accepted."""
    rows = run.rows()
    # After the rows: a run at work makes keys first.
    keys = run.keys()
    check_keys_file(run, starts, keys)
    check_rows(run.path, rows, keys)
    for start in starts:
        check_known(run, start.class_names, start.where)
    queries = check_queries(run, rows, keys)
    check_answered(run.path, starts, queries, rows, complete)
    return queries


# ------------------------------------------------------------------------------------------------- edits that were meant
def find_edits(run: RunDir, now: str, task: Task | None = None) -> list[dict[str, Any]]:
    """What accepted.json has to say of the journal as it is: an entry for each cycle that began with other rows.

    Args:
        run: its directory.
        now: the time that the entries carry.
        task: where labels are no classes.

    Raises:
        UsageError: rows are missing, or are none; a label that does not exist. These cannot be accepted.
    """
    starts, journal = read_starts(run), Journal(run.path / "labels.csv")
    for start in starts:
        if start.rows > journal.num_rows:
            raise UsageError(_shortage(journal, start))
    queries = check_labels_but_sums(run, starts)
    _check_labels(run, queries, task)
    edits = []
    for start, sha256 in zip(starts, journal.sha256(start.rows for start in starts), strict=True):
        if start.sha256 not in (None, sha256):
            lines = [_described(journal, line, block_size(start.rows)) for line in changed_lines(journal, start)[:_NAMED]]
            sums = {"before": start.sha256, "sha256": sha256, "crc32": journal.crc32(start.rows)}
            edits.append({"time": now, "cycle": start.cycle, **sums, "lines": lines})
    return edits


def _described(journal: Journal, line: int, size: int) -> str:
    return f"line {line}: now {printable(journal.line(line), _LINE)}" if size == 1 else f"somewhere in lines {line} to {line + size - 1}"


def _check_labels(run: RunDir, queries: Sequence[Query], task: Task | None) -> None:
    names = {name for query in queries for name in query.class_names}
    names |= set(added_names(run)) if names else set()
    for line, row in enumerate(run.rows() if task is not None else (), start=2):
        if row.label and task.read(row.label) in (None, SKIP):
            where = f"{run.path / 'labels.csv'}:{line}"
            raise UsageError(f"{where}: {task.problem} '{printable(row.label)}'{task.hint(row.label)}")
    for line, row in enumerate(run.rows(), start=2):
        if names and row.label and row.label not in names:
            valid = name_some(sorted(names), 20)
            raise UsageError(f"{run.path / 'labels.csv'}:{line}: unknown class '{printable(row.label)}'; valid: {valid}")
