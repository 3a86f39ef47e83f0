"""`usb-active labels RUN --history KEY`: all that was ever said of a sample, and which trainings began with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from usb_active.commands.asked import asked_samples
from usb_active.commands.label_arguments import KnownSamples
from usb_active.commands.labels import print_table
from usb_active.errors import plain
from usb_active.records import LabelRow, Query
from usb_active.storage.audit_file import read_audit
from usb_active.storage.journal_checks import Start, check_labels, read_starts
from usb_active.storage.run_dir import RunDir

# What cycles have to do with a row, of other samples and of those of the audit.
_TRAINED, _MEASURED = "trainings that began with it", "trainings measured by it"


def show_history(path: Path, keys: Sequence[str], out: TextIO) -> None:
    """Print, of each of these samples, which queries asked for it, and every row of the journal with the trainings that began with it.

    Of samples of the audit: with the trainings whose model was measured by it.

    Raises:
        UsageError: no run at `path`, or a damaged one; a key that is not of its pool.
    """
    run = RunDir.read(path)
    queries = check_labels(run)
    rows, starts, audit = run.rows(), read_starts(run), set(read_audit(run).tolist())
    are_brought = _brings_labels(run)
    known = KnownSamples(asked_samples(run, queries), run.keys() or (), queries)
    for number, sample in enumerate([known.need(key) for key in keys]):
        blank = "\n" if number else ""
        print(blank + plain(f"{sample.key} (sample {sample.index}): {sample.standing}"), file=out)
        asking = [query for query in queries if sample.index in query.idx]
        is_audit = sample.index in audit
        print(plain(_asked(asking, is_audit, are_brought)), file=out)
        lines = trained_on(rows, starts, sample.index)
        if lines:
            cells = ((row.time, row.label or row.status, row.acquisition, str(row.cycle), _cycles(on)) for row, on in lines)
            print_table([("time", "what", "by", "cycle", _MEASURED if is_audit else _TRAINED), *cells], out)


def trained_on(rows: Sequence[LabelRow], starts: Sequence[Start], index: int) -> list[tuple[LabelRow, list[int]]]:
    """The rows of a sample, oldest first, each with the cycles whose training began while it was the last one."""
    own = [(at, row) for at, row in enumerate(rows) if row.index == index]
    ends = [*(at for at, _ in own), len(rows)][1:]
    ranges = zip(own, ends, strict=True)
    return [(row, sorted(start.cycle for start in starts if at < start.rows <= until)) for (at, row), until in ranges]


def _brings_labels(run: RunDir) -> bool:
    """Whether the run began with labels that existed already: then its first query has asked nobody."""
    initial = (run.config.get("active") or {}).get("initial")
    return isinstance(initial, dict) and initial.get("size", 0) is None


def _asked(asking: Sequence[Query], is_audit: bool, are_brought: bool) -> str:
    if not asking:
        return "no query has asked for it"
    asked = [query for query in asking if query.cycle or not are_brought]
    parts = [f"brought in cycle 0 by {asking[0].acquisition}"] if len(asked) < len(asking) else []
    if asked and is_audit:
        parts += ["asked for in cycle " + ", ".join(str(query.cycle) for query in asked)]
    elif asked:
        parts += ["asked for " + ", ".join(f"in cycle {query.cycle} by {query.acquisition}" for query in asked)]
    return ", ".join([*parts, *(["drawn for the audit: nothing trains on it"] if is_audit else [])])


def _cycles(cycles: Sequence[int]) -> str:
    """`cycle 0, 3 to 7`; "none" of none."""
    groups: list[list[int]] = []
    for cycle in cycles:
        if groups and cycle == groups[-1][-1] + 1:
            groups[-1].append(cycle)
        else:
            groups.append([cycle])
    texts = [f"{group[0]} to {group[-1]}" if len(group) > 1 else str(group[0]) for group in groups]
    return f"cycle {', '.join(texts)}" if texts else "none"
