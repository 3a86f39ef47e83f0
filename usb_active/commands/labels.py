"""`usb-active labels RUN`: what is labelled, skipped, retracted and pending; and corrections, as new rows of the journal."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from usb_active.builtin.answer_files import read_answers, readable_answers
from usb_active.builtin.label_file import task_of
from usb_active.commands.add_class import check_new_classes, write_new_classes
from usb_active.commands.asked import PENDING, UNASKED, Asked, asked_samples, last_queries
from usb_active.commands.label_arguments import Classes, KnownSamples, Texts, parse_setting
from usb_active.contracts.task import Task
from usb_active.errors import UsageError, name_some, plain, printable
from usb_active.pool.answers import merge_answers
from usb_active.records import AUDIT, CORRECTION, LABELED, RETRACTED, SKIPPED, VOLUNTEERED, LabelRow, Query, status_of
from usb_active.storage.audit_file import read_audit
from usb_active.storage.classes import added_names, with_added
from usb_active.storage.journal_checks import check_labels, find_edits
from usb_active.storage.run_dir import RunDir, utc_now
from usb_active.storage.schemas import own_task, read_accepted
from usb_active.storage.spreadsheet import text_cell


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
    asked = [sample for sample in samples if sample.acquisition != VOLUNTEERED]
    volunteered = [sample for sample in samples if sample.acquisition == VOLUNTEERED]
    for cycle in sorted({sample.cycle for sample in asked}):
        rows.append(_counts(str(cycle), [sample for sample in asked if sample.cycle == cycle], columns))
    if volunteered:
        rows.append(("", VOLUNTEERED, "0", *_counts("", volunteered, columns)[3:]))
    rows.append(("total", "", str(len(asked)), *_counts("", samples, columns)[3:]))
    print_table(rows, out)
    labeled = Counter(sample.label for sample in samples if sample.status == LABELED)
    # Classes without a label are shown too: that is what one wants to see.
    names = dict.fromkeys(name for query in current(run, queries) for name in query.class_names)
    if names:
        print(file=out)
        print_table([("class", LABELED), *((name, str(labeled[name])) for name in dict.fromkeys([*names, *labeled]))], out)
    corrected = sum(sample.corrections > 0 for sample in samples)
    if corrected:
        print(f"\n{corrected} corrected", file=out)


def _counts(cycle: str, samples: Sequence[Asked], columns: Sequence[str]) -> tuple[str, ...]:
    status = Counter(sample.status for sample in samples)
    methods = ", ".join(dict.fromkeys(sample.acquisition for sample in samples))
    return (cycle, methods, str(len(samples)), *(str(status[name]) for name in columns))


def print_table(rows: Sequence[Sequence[str]], out: TextIO) -> None:
    """Print columns under their heads, numbers to the right."""
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
    path: Path,
    corrections: Sequence[str],
    skips: Sequence[str],
    out: TextIO,
    *,
    retractions: Sequence[str] = (),
    new_classes: Sequence[str] = (),
    trusted: bool = False,
) -> None:
    """Append rows to the journal that give, correct or take back labels. All of it is checked before any is written.

    Args:
        path: the run.
        corrections: `KEY=LABEL` texts.
        skips: keys of samples to refuse.
        out: what was done is printed there.
        retractions: keys of samples whose label, or refusal, is taken back.
        new_classes: names of classes that are added first (see `usb_active.commands.add_class`), so that labels may be of them.
        trusted: where labels are no classes, or classes are added, import the run's plugins even where they are not installed; see
            `usb_active.config.trust`.

    Raises:
        UsageError: a sample that is not in the pool, one that was never asked for before there is any query, an unknown label, a class
            that cannot be added, or a run that another process uses. Nothing is written then.
    """
    config = RunDir.read(path).config
    with RunDir.open(path, config) as run:
        queries = current(run, check_labels(run))
        if new_classes:
            check_new_classes(run, queries, new_classes, trusted)
            queries = [replace(query, class_names=(*query.class_names, *new_classes)) for query in queries]
        samples = asked_samples(run, queries)
        known = KnownSamples(samples, run.keys() or (), queries)
        task = task_of_run(run, trusted)
        labels = Classes(class_names(queries, samples)) if task is None else Texts(task)
        wanted: list[tuple[Asked, str | None]] = [parse_setting(text, known, labels) for text in corrections]
        wanted += [(known[key], "") for key in skips] + [(known[key], None) for key in retractions]
        _check_once(wanted)
        if new_classes:
            write_new_classes(run, new_classes, queries[-1].cycle, out)
        replaced = take(run, queries, wanted, task)
    for sample, label in wanted:
        old, new = replaced.get(sample.index, sample.standing), label or status_of(label)
        has_changed = sample.index in replaced and old != new
        print(plain(f"{sample.key}: {old} -> {new}" if has_changed else f"{sample.key}: {old}, unchanged"), file=out)


def _check_once(wanted: Sequence[tuple[Asked, str | None]]) -> None:
    """UsageError where one command says two different things of a sample."""
    said: dict[int, str | None] = {}
    for sample, label in wanted:
        if said.setdefault(sample.index, label) != label:
            texts = (text or status_of(text) for text in (said[sample.index], label))
            raise UsageError(f"'{printable(sample.key)}' is given twice: {name_some(texts)}; one for each sample")


def current(run: RunDir, queries: Sequence[Query]) -> list[Query]:
    """The queries with the classes that may be given now: some may have been added since."""
    added = added_names(run)
    if not added:
        return list(queries)
    return [replace(query, class_names=with_added(run, query.class_names)) if query.class_names else query for query in queries]


def class_names(queries: Sequence[Query], samples: Sequence[Asked]) -> tuple[str, ...]:
    """The classes that queries name, and those of the labels that stand."""
    return tuple(dict.fromkeys(name for query in queries for name in query.class_names)) or tuple(
        sorted({sample.label for sample in samples} - {""})
    )


def take(
    run: RunDir, queries: Sequence[Query], wanted: Sequence[tuple[Asked, str | None]], task: Task | None
) -> dict[int, str]:
    """Append rows that give or correct labels, all at once. The dataset index of what is changed by that → the label, or status, before.

    Args:
        run: open, so that nobody else writes.
        queries: all there are.
        wanted: each with a label's text, "" to refuse the sample, None to take back what was said of it.
        task: what labels are, where they are no classes.
    """
    said = unread_answers(run, queries, {sample.index for sample, _ in wanted}, task)
    unread = {row.index: row.label or row.status for row in said}
    changed = {sample.index: (sample, label) for sample, label in wanted if _is_news(sample, label, unread.get(sample.index))}
    cycle, now = _cycles_of_rows(queries), utc_now()
    rows = [LabelRow(cycle(one), one.index, one.key, label or "", status_of(label), _source(one), now) for one, label in changed.values()]
    run.append_rows([*(row for row in said if row.index in changed), *rows])
    return {index: unread.get(index, sample.standing) for index, (sample, _) in changed.items()}


def _is_news(sample: Asked, label: str | None, unread: str | None) -> bool:
    """Whether a correction (None: taken back) changes what stands, or an answer that no run has taken yet (`unread`)."""
    if label is None and sample.status in (PENDING, RETRACTED, UNASKED):
        return unread is not None
    return {sample.standing, unread or sample.standing} != {label or status_of(label)}


def _cycles_of_rows(queries: Sequence[Query]) -> Callable[[Asked], int]:
    """Sample → the cycle of its next row: that of the last query that asks for it, or of the last one there is where none does."""
    asked = last_queries(queries)
    return lambda sample: sample.cycle if sample.index in asked or not queries else queries[-1].cycle


def _source(sample: Asked) -> str:
    return VOLUNTEERED if sample.status == UNASKED else CORRECTION


def task_of_run(run: RunDir, trusted: bool) -> Task | None:
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


def unread_answers(run: RunDir, queries: Sequence[Query], idx: set[int], task: Task | None = None) -> list[LabelRow]:
    """What people wrote of these samples into the queries' files and no run has taken yet: it came before the correction, and must not
    be taken for an answer that came after it.

    The run will name what is wrong in other rows of the files; a correction is not held up by it. UsageError where two files contradict
    each other on one of these samples: whichever of them will be mended would be taken for the newer.
    """
    rows, asking, audit = [], last_queries(queries), set(read_audit(run).tolist())
    asked = {index: query.cycle for index, query in asking.items()}
    for query in queries:
        own = {index for index in idx if asking.get(index) is query}
        found = readable_answers(run.path, query, task)
        if found.disputed & own:
            read_answers(run.path, query, task=task)
        labels = {index: label for index, label in found.labels.items() if index in own}
        more = {"emptied": found.empty & own, "retracted": found.retracted & own, "asked": asked}
        news = merge_answers(run.rows(), labels, found.skipped & own, task_of(query, task), **more)
        keys, now = dict(zip(query.idx.tolist(), query.keys, strict=True)), utc_now()
        method = {index: AUDIT if index in audit else query.acquisition for index, _ in news}
        rows += [LabelRow(query.cycle, index, keys[index], label or "", status_of(label), method[index], now) for index, label in news]
    return rows


def accept_edits(path: Path, out: TextIO, *, trusted: bool = False) -> None:
    """Take labels.csv as it is, though rows that cycles began with were changed: accepted.json says from now on that it was meant.

    Raises:
        UsageError: rows are missing or damaged, or name what does not exist; nothing is accepted then.
    """
    with RunDir.open(path, RunDir.read(path).config, check_labels=False) as run:
        edits = find_edits(run, utc_now(), task_of_run(run, trusted))
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
