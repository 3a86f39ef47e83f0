"""`usb-active labels RUN`: what is labelled, skipped, retracted and pending; and corrections, as new rows of the journal."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TextIO

from usb_active.builtin.answer_files import read_answers, readable_answers
from usb_active.builtin.label_file import task_of
from usb_active.contracts.task import Task
from usb_active.errors import UsageError, nearest, plain, printable
from usb_active.pool.answers import CORRECTION, merge_answers
from usb_active.records import LABELED, RETRACTED, SKIP, SKIPPED, LabelRow, Query, status_of
from usb_active.storage.journal_checks import check_labels, find_edits
from usb_active.storage.paths import nfc
from usb_active.storage.run_dir import RunDir, utc_now
from usb_active.storage.sample_keys import KeyFinder
from usb_active.storage.schemas import own_task, read_accepted, read_start
from usb_active.storage.spreadsheet import text_cell

PENDING = "pending"


@dataclass(frozen=True)
class Asked:
    """A sample that was asked for or labelled, as it stands now, in the last query that asked for it.

    `acquisition` is what chose it; `corrections` counts its changes. `status` is "retracted" where an answer was taken back and no query
    waits for another one.
    """

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
    asking = last_queries(queries)
    keys = {index: key for query in queries for index, key in zip(query.idx.tolist(), query.keys, strict=True)}
    unanswered = ((index, query) for index, query in asking.items() if index not in rows)
    samples = [Asked(query.cycle, index, keys[index], "", PENDING, query.acquisition, "", 0) for index, query in unanswered]
    waiting = None if not queries or read_start(run, queries[-1].cycle) is not None else queries[-1].cycle
    for index, own in rows.items():
        last, query = own[-1], asking.get(index)
        # The acquisition is the query's, not the row's: the row may be a correction.
        cycle, method = (own[0].cycle, own[0].acquisition) if query is None else (query.cycle, query.acquisition)
        # Asked for again, or not yet done with.
        is_pending = last.status == RETRACTED and query is not None and (last.cycle < cycle or cycle == waiting)
        changes = sum(before.answer != row.answer for before, row in pairwise(own))
        status, time = (PENDING, "") if is_pending else (last.status, last.time)
        samples.append(Asked(cycle, index, last.key, last.label, status, method, time, changes))
    return sorted(samples, key=lambda sample: sample.cycle)


def last_queries(queries: Sequence[Query]) -> dict[int, Query]:
    """Dataset index → the last query that asks for it. A sample is asked for again where its label was taken back."""
    return {index: query for query in queries for index in query.idx.tolist()}


def show_labels(path: Path, out: TextIO) -> None:
    """Print counts per cycle, and labelled samples per class.

    Raises:
        UsageError: no run at `path`, or a damaged one.
    """
    run = RunDir.read(path)
    queries = check_labels(run)
    samples = asked_samples(run, queries)
    if not samples:
        print(f"{path}: nothing has been asked yet", file=out)
        return
    columns = [LABELED, SKIPPED, PENDING, *([RETRACTED] if any(sample.status == RETRACTED for sample in samples) else [])]
    rows: list[Sequence[str]] = [("cycle", "acquisition", "asked", *columns)]
    for cycle in sorted({sample.cycle for sample in samples}):
        rows.append(_counts(str(cycle), [sample for sample in samples if sample.cycle == cycle], columns))
    rows.append(("total", "", *_counts("", samples, columns)[2:]))
    _print_table(rows, out)
    labeled = Counter(sample.label for sample in samples if sample.status == LABELED)
    # Classes without a label are shown too: that is what one wants to see.
    names = dict.fromkeys(name for query in queries for name in query.class_names)
    if names:
        print(file=out)
        _print_table([("class", LABELED), *((name, str(labeled[name])) for name in dict.fromkeys([*names, *labeled]))], out)
    corrected = sum(sample.corrections > 0 for sample in samples)
    if corrected:
        print(f"\n{corrected} corrected", file=out)


def _counts(cycle: str, samples: Sequence[Asked], columns: Sequence[str]) -> tuple[str, ...]:
    status = Counter(sample.status for sample in samples)
    methods = ", ".join(dict.fromkeys(sample.acquisition for sample in samples))
    return (cycle, methods, str(len(samples)), *(str(status[name]) for name in columns))


def _print_table(rows: Sequence[Sequence[str]], out: TextIO) -> None:
    rows = [[plain(text) for text in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        # Numbers to the right; a column of texts is one whose first entry below the head is no number.
        cells = [
            text.rjust(width) if rows[1][column].isdigit() else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip(), file=out)


def write_csv(path: Path, out: TextIO) -> None:
    """Print every sample that was asked for or labelled, one per row, as it stands now."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["cycle", "index", "key", "label", "status", "acquisition", "time"])
    run = RunDir.read(path)
    for sample in asked_samples(run, check_labels(run)):
        key, label, acquisition = map(text_cell, (sample.key, sample.label, sample.acquisition))
        writer.writerow([sample.cycle, sample.index, key, label, sample.status, acquisition, sample.time])


def correct(
    path: Path, corrections: Sequence[str], skips: Sequence[str], out: TextIO, *, retractions: Sequence[str] = (), trusted: bool = False
) -> None:
    """Append rows to the journal that give, correct or take back labels. All of them are checked before any is written.

    Args:
        corrections: `KEY=LABEL` texts.
        skips: keys of samples to refuse.
        retractions: keys of samples whose label, or refusal, is taken back.
        trusted: where labels are no classes, import the run's plugins even where they are not installed; see `usb_active.config.trust`.

    Raises:
        UsageError: a sample that was never asked, an unknown label, or a run that another process uses.
    """
    config = RunDir.read(path).config
    with RunDir.open(path, config) as run:
        queries = check_labels(run)
        samples = asked_samples(run, queries)
        known = _Known(samples)
        task = _own_task(run, trusted)
        classes = {name for query in queries for name in query.class_names} | {sample.label for sample in samples} - {""}
        labels = _Classes(classes) if task is None else _Texts(task)
        wanted: list[tuple[Asked, str | None]] = [_parse(text, known, labels) for text in corrections]
        wanted += [(known[key], "") for key in skips] + [(known[key], None) for key in retractions]
        said = _said_before(run, queries, {sample.index for sample, _ in wanted}, task)
        unread = {row.index for row in said}
        changed = [(sample, label) for sample, label in wanted if _changes(sample, label, sample.index in unread)]
        touched = {sample.index for sample, _ in changed}
        rows = [LabelRow(one.cycle, one.index, one.key, label or "", status_of(label), CORRECTION, utc_now()) for one, label in changed]
        run.append_rows([*(row for row in said if row.index in touched), *rows])
    for sample, label in wanted:
        old, new = _standing(sample), label or status_of(label)
        change = _changes(sample, label, sample.index in unread)
        print(plain(f"{sample.key}: {old} -> {new}" if change else f"{sample.key}: {old}, unchanged"), file=out)


def _changes(sample: Asked, label: str | None, is_unread: bool) -> bool:
    """Whether a correction (None: taken back) changes what stands. `is_unread`: there is an answer that no run has taken yet."""
    if label is None and sample.status in (PENDING, RETRACTED):
        return is_unread
    return _standing(sample) != (label or status_of(label))


def _own_task(run: RunDir, trusted: bool) -> Task | None:
    """What the labels are, as the run's data set says; None where they are classes, which every query names.

    Raises:
        UsageError: the data set is of a plugin that is not installed, and the run is not `trusted`.
    """
    if own_task(run) is None:
        return None
    from usb_active.config.settings import load_yaml_config
    from usb_active.config.trust import check_plugins

    check_plugins(run.path, run.config.get("plugins"), trusted)
    dataset = load_yaml_config(run.path / "config.yaml").dataset
    return dataset.cls.task_of(dataset.config, ())


def _said_before(run: RunDir, queries: Sequence[Query], idx: set[int], task: Task | None) -> list[LabelRow]:
    """What people wrote of these samples into the queries' files and no run has taken yet: it came before the correction, and must not
    be taken for an answer that came after it.

    The run will name what is wrong in other rows of the files; a correction is not held up by it. UsageError where two files contradict
    each other on one of these samples: whichever of them will be mended would be taken for the newer.
    """
    rows, asking = [], last_queries(queries)
    asked = {index: query.cycle for index, query in asking.items()}
    for query in queries:
        own = {index for index in idx if asking.get(index) is query}
        found = readable_answers(run.path, query, task)
        if found.disputed & own:
            read_answers(run.path, query, task=task)
        labels = {index: label for index, label in found.labels.items() if index in own}
        more = {"emptied": found.empty & own, "asked": asked}
        news = merge_answers(run.rows(), labels, found.skipped & own, task_of(query, task), **more)
        keys, now = dict(zip(query.idx.tolist(), query.keys, strict=True)), utc_now()
        rows += [LabelRow(query.cycle, index, keys[index], label or "", status_of(label), query.acquisition, now) for index, label in news]
    return rows


def accept_edits(path: Path, out: TextIO, *, trusted: bool = False) -> None:
    """Take labels.csv as it is, though rows that cycles began with were changed: accepted.json says from now on that it was meant.

    Raises:
        UsageError: rows are missing or damaged, or name what does not exist; nothing is accepted then.
    """
    with RunDir.open(path, RunDir.read(path).config, check_labels=False) as run:
        edits = find_edits(run, utc_now(), _own_task(run, trusted))
        if edits:
            run.write_json("accepted.json", {"edits": [*read_accepted(run), *edits]})
    if not edits:
        print(f"{path / 'labels.csv'}: nothing to accept: the rows are as they were when cycles began with them", file=out)
        return
    for line in dict.fromkeys(line for edit in edits for line in edit["lines"]):
        print(plain(line), file=out)
    trained = ", ".join(str(edit["cycle"]) for edit in edits)
    print(f"accepted; what cycle {trained} trained before stays as it is, the next training takes the rows as they are now", file=out)
    print("an oracle that still answers otherwise is taken at its word: --set corrects a label against it", file=out)


def _standing(sample: Asked) -> str:
    return sample.label or sample.status


class _Known:
    """Samples that were asked for or labelled, by what people write for their keys."""

    def __init__(self, samples: Sequence[Asked]):
        self._samples = samples
        self._by_key = {sample.key: sample for sample in samples}
        self._finder = KeyFinder({at: sample.key for at, sample in enumerate(samples)})

    def get(self, key: str, exact: bool = False) -> Asked | None:
        if exact or key in self._by_key:
            return self._by_key.get(key)
        at = self._finder.find(key)
        return None if at is None else self._samples[at]

    def __getitem__(self, key: str) -> Asked:
        sample = self.get(key)
        if sample is None:
            keys = [sample.key for sample in self._samples]
            near = nearest(key, keys) if len(keys) <= 20 or "mean" in nearest(key, keys) else ""
            raise UsageError(f"'{printable(key)}' has neither been asked for nor labelled{near}")
        return sample


class _Classes:
    """The names of classes, by what people write for them."""

    def __init__(self, classes: set[str]):
        self._classes = classes
        self._names = {nfc(name): name for name in classes} | {name: name for name in classes}

    def find(self, text: str) -> str | None:
        return self._names.get(text, self._names.get(nfc(text)))

    def problem(self, text: str) -> str:
        return f"unknown class '{printable(text)}'{nearest(text, self._classes)}"


class _Texts:
    """The texts of labels that are no classes, by what people write for them."""

    def __init__(self, task: Task):
        self._task = task

    def find(self, text: str) -> str | None:
        label = self._task.read(text)
        return None if label in (None, SKIP) else self._task.decode(label)

    def problem(self, text: str) -> str:
        return f"{self._task.problem} '{printable(text)}'{self._task.hint(text)}"


def _parse(text: str, known: _Known, labels: _Classes | _Texts) -> tuple[Asked, str]:
    """Keys and class names may hold `=` themselves: any split into a known key and a known label is taken, exact keys first."""
    parts = text.split("=")
    splits = [("=".join(parts[:at]), "=".join(parts[at:])) for at in range(1, len(parts))]
    for exact in (True, False):
        for key, label in splits:
            sample, name = known.get(key, exact), labels.find(label)
            if sample is not None and name is not None:
                return sample, name
    if not splits:
        raise UsageError(f"--set {printable(text)}: must be KEY=LABEL")
    key, label = next((split for split in splits if known.get(split[0]) is not None), splits[-1])
    known[key]  # refuses a key that is not known
    raise UsageError(f"--set {printable(text)}: {labels.problem(label)}")
