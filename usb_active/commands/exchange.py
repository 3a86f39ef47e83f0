"""`usb-active labels RUN --import FILE` and `--export FILE`: labels from and for other tools."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from usb_active.builtin.label_exchange import FORMATS, HOLD_SKIPS, format_of
from usb_active.builtin.label_exchange.class_folders import check_as_folders, check_folder_target, read_class_folders, write_class_folders
from usb_active.builtin.label_exchange.cvat import read_cvat, write_cvat
from usb_active.builtin.label_exchange.entries import Entry, Found
from usb_active.builtin.label_exchange.label_studio import read_label_studio, write_label_studio
from usb_active.builtin.label_file import RowProblems, read_answered
from usb_active.commands.asked import Asked, asked_samples
from usb_active.commands.label_arguments import Classes, KnownSamples, Texts
from usb_active.commands.labels import class_names, current, take, task_of_run, write_csv
from usb_active.contracts.task import Classification, Task
from usb_active.errors import UsageError, name_some, plain, printable
from usb_active.records import SKIP, SKIPPED
from usb_active.storage.durable import atomic_write, read_bytes
from usb_active.storage.journal_checks import check_labels
from usb_active.storage.run_dir import RunDir

_READERS = {"label-studio": read_label_studio, "cvat": read_cvat}


def export_labels(path: Path, target: Path, out: TextIO, *, format_name: str | None = None, trusted: bool = False) -> None:
    """Write every sample that was asked for or labelled, as it stands now, to a new file or folder.

    Args:
        path: the run.
        target: the file; there must be none. For `folders`, a new or an empty folder.
        format_name: of `FORMATS`; by default the name of the file says it.
        trusted: as for `usb_active.commands.labels.correct`.

    Raises:
        UsageError: no run, an unknown format, a target that is there already, or what the format cannot hold.
    """
    kind = format_of(target, format_name)
    if kind == "folders":
        check_folder_target(target)
    elif target.exists():
        raise UsageError(f"{target} is there already; give another name")
    run = RunDir.read(path)
    queries = current(run, check_labels(run))
    samples = asked_samples(run, queries)
    entries = [Entry(sample.key, sample.label, sample.status == SKIPPED) for sample in samples]
    task = task_of_run(run, trusted)
    if kind == "folders":
        if task is not None:
            raise UsageError("--export: folders are for classes, and the labels of this run are none; export as CSV")
        _write_folders(run, entries, target, trusted)
    else:
        data = _csv(path) if kind == "csv" else _encoded(kind, entries, class_names(queries, samples), task)
        atomic_write(target, lambda file: file.write(data))
    skipped = sum(entry.is_skipped for entry in entries)
    left = f"; {skipped} skipped samples are not in it, which the format cannot hold" if skipped and kind not in HOLD_SKIPS else ""
    print(plain(f"{target}: {sum(bool(entry.label) for entry in entries)} labels ({kind}){left}"), file=out)


def _csv(path: Path) -> bytes:
    text = io.StringIO()
    write_csv(path, text)
    return text.getvalue().encode("utf-8-sig")


def _encoded(kind: str, entries: Sequence[Entry], names: Sequence[str], task: Task | None) -> bytes:
    return write_cvat(entries, names) if kind == "cvat" else write_label_studio(entries, choices=task is None)


def _write_folders(run: RunDir, entries: Sequence[Entry], target: Path, trusted: bool) -> None:
    check_as_folders(entries)
    from usb_active.builtin.contact_sheet import NoImage, as_image
    from usb_active.report.galleries import load_dataset

    dataset = load_dataset(run, trusted=trusted)
    positions = {key: index for index, key in enumerate(dataset.keys)}
    missing = [entry.key for entry in entries if entry.label and entry.key not in positions]
    if missing:
        raise UsageError(f"dataset '{dataset.name}' no longer has the samples {name_some(missing)}")

    def draw(key: str, path: Path) -> None:
        try:
            as_image(dataset.load(positions[key])).save(path, format="PNG")
        except NoImage as error:
            raise UsageError(f"sample '{printable(key)}' is no image ({error}), and no file; export as CSV") from error

    write_class_folders(entries, target, lambda key: dataset.path(positions[key]), draw)


def import_labels(path: Path, source: Path, out: TextIO, *, format_name: str | None = None, trusted: bool = False) -> None:
    """Take the labels and refusals of a file, as `--set` and `--skip` would: all of it is checked before one row is written.

    Args:
        path: the run.
        source: the file or folder.
        format_name: of `FORMATS`; by default the name of the file says it.
        trusted: as for `usb_active.commands.labels.correct`.

    Raises:
        UsageError: no file, an unknown format, or a line for each problem: samples that are not of the pool, unknown classes, two labels
            for one sample; or a run that another process uses.
    """
    kind = format_of(source, format_name)
    if not source.exists():
        raise UsageError(f"{source}: no such file; known formats: {name_some(FORMATS)}")
    with RunDir.open(path, RunDir.read(path).config) as run:
        queries = current(run, check_labels(run))
        if not queries:
            raise UsageError(f"{path}: nothing has been asked yet, and a label belongs to a query; start the run first")
        samples = asked_samples(run, queries)
        known = KnownSamples(samples, run.keys() or (), queries)
        task = task_of_run(run, trusted)
        names = class_names(queries, samples)
        if kind == "csv":
            wanted = _of_csv(source, run.keys() or (), known, task or Classification(names))
        else:
            wanted = _of_found(source, kind, known, Classes(names) if task is None else Texts(task))
        if not wanted:
            raise UsageError(f"{source}: holds no label")
        changed = take(run, queries, wanted, task)
    labels = sum(bool(label) for sample, label in wanted if sample.index in changed)
    counts = f"{labels} labels and {len(changed) - labels} refusals taken, {len(wanted) - len(changed)} as they were"
    print(plain(f"{source}: {counts} ({kind})"), file=out)


def _of_csv(source: Path, keys: Sequence[str], known: KnownSamples, task: Task) -> list[tuple[Asked, str | None]]:
    answers = read_answered(source, keys, task)
    return [(known[keys[index]], "" if label == SKIP else task.decode(label)) for index, label in answers.items()]


def _of_found(source: Path, kind: str, known: KnownSamples, labels: Classes | Texts) -> list[tuple[Asked, str | None]]:
    problems = RowProblems()
    if kind == "folders":
        found = read_class_folders(source)
    else:
        found = _READERS[kind](str(source), read_bytes(source) or b"", problems)
    wanted: dict[int, tuple[Asked, str | None]] = {}
    for one in found:
        sample, label = _sample(one, known, problems), labels.find(one.label) if one.label else ""
        if label is None:
            problems.say(lambda one=one: f"{one.where}: {labels.problem(one.label)}")
        if sample is None or label is None:
            continue
        _, before = wanted.setdefault(sample.index, (known.check(sample), label))
        if before != label:
            said = f"{before or 'skip'}, {label or 'skip'}"
            problems.add(one.where, f"two labels for '{printable(sample.key)}'", said, "one for each sample")
    problems.raise_if_any()
    return list(wanted.values())


def _sample(one: Found, known: KnownSamples, problems: RowProblems) -> Asked | None:
    """The sample that is meant. Where more than one could be, that is said by their names."""
    for name in one.names:
        sample = known.in_pool(name)
        if sample is not None:
            return sample
    problems.say(lambda: _unknown(one, known))
    return None


def _unknown(one: Found, known: KnownSamples) -> str:
    shown, several = one.names[0] if one.names else "", known.called(one.names)
    if len(several) > 1:
        return f"{one.where}: '{printable(shown)}' could be any of several samples: {name_some(several)}"
    return f"{one.where}: '{printable(shown)}' is no sample of the pool{known.near(shown)}"
