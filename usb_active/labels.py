"""`usb-active labels RUN`: what is labelled, skipped and pending; and corrections, as new rows of the journal."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from usb_active.answers import CORRECTION
from usb_active.errors import UsageError, nearest
from usb_active.journal_checks import check_labels, find_edits
from usb_active.oracle import Query
from usb_active.records import read_accepted
from usb_active.run_dir import LABELED, SKIPPED, LabelRow, RunDir, utc_now

PENDING = "pending"


@dataclass(frozen=True)
class Asked:
    """A sample that was asked for or labelled, as it stands now. `acquisition` is what chose it; `corrections` counts later rows."""

    cycle: int
    index: int
    key: str
    label: str
    status: str
    acquisition: str
    time: str
    corrections: int


def asked_samples(run: RunDir, queries: Sequence[Query]) -> list[Asked]:
    """Every sample asked for or labelled, by cycle; the last row of a sample counts."""
    rows: dict[int, list[LabelRow]] = {}
    for row in run.rows():
        rows.setdefault(row.index, []).append(row)
    # A query knows better than a row who asked: the row may be a correction.
    methods = {}
    samples = []
    for query in queries:
        for index, key in zip(query.idx.tolist(), query.keys, strict=True):
            methods[index] = query.acquisition
            if index not in rows:
                samples.append(Asked(query.cycle, index, key, "", PENDING, query.acquisition, "", 0))
    for index, own in rows.items():
        first, last = own[0], own[-1]
        method = methods.get(index, first.acquisition)
        samples.append(Asked(first.cycle, index, last.key, last.label, last.status, method, last.time, len(own) - 1))
    return sorted(samples, key=lambda sample: sample.cycle)


def show(path: Path, out: TextIO) -> None:
    """Print counts a cycle, and labelled samples a class.

    Raises:
        UsageError: no run at `path`, or a damaged one.
    """
    run = RunDir.read(path)
    queries = check_labels(run)
    samples = asked_samples(run, queries)
    if not samples:
        print(f"{path}: nothing has been asked yet", file=out)
        return
    rows: list[Sequence[str]] = [("cycle", "acquisition", "asked", LABELED, SKIPPED, PENDING)]
    for cycle in sorted({sample.cycle for sample in samples}):
        rows.append(_counts(str(cycle), [sample for sample in samples if sample.cycle == cycle]))
    rows.append(("total", "", *_counts("", samples)[2:]))
    _print_table(rows, out)
    labeled = Counter(sample.label for sample in samples if sample.status == LABELED)
    # Classes without a label are shown too: that is what one wants to see.
    names = dict.fromkeys([*(name for query in queries for name in query.class_names), *labeled])
    print(file=out)
    _print_table([("class", LABELED), *((name, str(labeled[name])) for name in names)], out)
    corrected = sum(sample.corrections > 0 for sample in samples)
    if corrected:
        print(f"\n{corrected} corrected", file=out)


def _counts(cycle: str, samples: Sequence[Asked]) -> tuple[str, ...]:
    status = Counter(sample.status for sample in samples)
    methods = ", ".join(dict.fromkeys(sample.acquisition for sample in samples))
    return (cycle, methods, str(len(samples)), *(str(status[name]) for name in (LABELED, SKIPPED, PENDING)))


def _print_table(rows: Sequence[Sequence[str]], out: TextIO) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        # Numbers to the right; a column of texts is one whose first entry below the head is no number.
        cells = [
            text.rjust(width) if rows[1][column].isdigit() else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip(), file=out)


def write_csv(path: Path, out: TextIO) -> None:
    """Print every sample that was asked for or labelled, one a row, as it stands now."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["cycle", "index", "key", "label", "status", "acquisition", "time"])
    run = RunDir.read(path)
    for sample in asked_samples(run, check_labels(run)):
        writer.writerow([sample.cycle, sample.index, sample.key, sample.label, sample.status, sample.acquisition, sample.time])


def correct(path: Path, corrections: Sequence[str], skips: Sequence[str], out: TextIO) -> None:
    """Append rows to the journal that give or correct labels. All of them are checked before any is written.

    Args:
        corrections: `KEY=CLASS` texts. skips: keys of samples to refuse.

    Raises:
        UsageError: a sample that was never asked, an unknown class, or a run that another process uses.
    """
    config = RunDir.read(path).config
    with RunDir.open(path, config) as run:
        queries = check_labels(run)
        known = {sample.key: sample for sample in asked_samples(run, queries)}
        classes = {name for query in queries for name in query.class_names} | {sample.label for sample in known.values()} - {""}
        wanted = [_parse(text, known, classes) for text in corrections] + [(_asked(key, known), "") for key in skips]
        rows = [
            LabelRow(sample.cycle, sample.index, sample.key, label, LABELED if label else SKIPPED, CORRECTION, utc_now())
            for sample, label in wanted
            if _standing(sample) != (label or SKIPPED)
        ]
        run.append_rows(rows)
    for sample, label in wanted:
        old, new = _standing(sample), label or SKIPPED
        print(f"{sample.key}: {old}, unchanged" if old == new else f"{sample.key}: {old} -> {new}", file=out)


def accept_edits(path: Path, out: TextIO) -> None:
    """Take labels.csv as it is, though rows that cycles began with were changed: accepted.json says from now on that it was meant.

    Raises:
        UsageError: rows are missing or damaged, or name what does not exist; nothing is accepted then.
    """
    with RunDir.open(path, RunDir.read(path).config, check_labels=False) as run:
        edits = find_edits(run, utc_now())
        if edits:
            run.write_json("accepted.json", {"edits": [*read_accepted(run), *edits]})
    if not edits:
        print(f"{path / 'labels.csv'}: nothing to accept: the rows are as they were when cycles began with them", file=out)
        return
    for line in dict.fromkeys(line for edit in edits for line in edit["lines"]):
        print(line, file=out)
    trained = ", ".join(str(edit["cycle"]) for edit in edits)
    print(f"accepted; what cycle {trained} trained before stays as it is, the next training takes the rows as they are now", file=out)
    print("an oracle that still answers otherwise is taken at its word: --set corrects a label against it", file=out)


def _standing(sample: Asked) -> str:
    return sample.label or sample.status


def _parse(text: str, known: dict[str, Asked], classes: set[str]) -> tuple[Asked, str]:
    """Keys and class names may hold `=` themselves: any split into a known key and a known class is taken."""
    parts = text.split("=")
    splits = [("=".join(parts[:at]), "=".join(parts[at:])) for at in range(1, len(parts))]
    for key, label in splits:
        if key in known and label in classes:
            return known[key], label
    if not splits:
        raise UsageError(f"--set {text}: must be KEY=CLASS")
    key, label = next((split for split in splits if split[0] in known), splits[-1])
    _asked(key, known)
    raise UsageError(f"--set {text}: unknown class '{label}'{nearest(label, classes)}")


def _asked(key: str, known: dict[str, Asked]) -> Asked:
    if key not in known:
        near = nearest(key, known) if len(known) <= 20 or "mean" in nearest(key, known) else ""
        raise UsageError(f"'{key}' has neither been asked for nor labelled{near}")
    return known[key]
