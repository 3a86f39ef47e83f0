"""The labels of a run as they stand, for another run to begin with. The run is only read, and may be under way."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from usb_active.errors import UsageError
from usb_active.records import LABELED, SKIPPED, LabelRow
from usb_active.storage.audit_file import read_audit
from usb_active.storage.classes import with_added
from usb_active.storage.durable import read_bytes
from usb_active.storage.journal_checks import check_labels
from usb_active.storage.run_dir import RunDir
from usb_active.storage.schemas import read_dataset


@dataclass(frozen=True)
class LabelsInForce:
    """What stands in a run's journal: the last row of each sample; a retracted one is a sample without a label like any other.

    Attributes:
        number: by which the run is known again, wherever its directory lies.
        keys: (N,) of its pool, in its order.
        class_names: the labels that may be given there; none where labels are no classes.
        task: the name of its task where labels are no classes, else "".
        labels: key → the label's text, in the order in which they first came.
        skipped: keys of refused samples.
        audit: keys of all samples that were drawn to measure the model by, those too that have no answer.
    """

    number: str
    keys: tuple[str, ...]
    class_names: tuple[str, ...]
    task: str
    labels: Mapping[str, str]
    skipped: tuple[str, ...]
    audit: tuple[str, ...] = ()

    @property
    def counts(self) -> str:
        """`20 labels and 3 skipped samples`"""
        pairs = (len(self.labels), "label"), (len(self.skipped), "skipped sample")
        return " and ".join(f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in pairs)


def labels_in_force(path: Path) -> LabelsInForce:
    """What stands in the journal of the run at `path`.

    Raises:
        UsageError: no run directory, one of a later version, a damaged one, or one without any label; one line.
    """
    run = RunDir.read(path)
    pinned = read_dataset(run) or {}
    # In this order, as a run at work makes keys before rows.
    rows = run.rows()
    check_labels(run)
    standing: dict[int, LabelRow] = {row.index: row for row in rows}
    labels = {row.key: row.label for row in standing.values() if row.status == LABELED}
    if not labels:
        raise UsageError(f"{path} holds no label yet: there is nothing to begin with")
    skipped = tuple(row.key for row in standing.values() if row.status == SKIPPED)
    task, classes = (pinned.get("task") or {}).get("name", ""), with_added(run, pinned.get("class_names", ()))
    keys = tuple(run.keys() or ())
    audit = tuple(keys[index] for index in read_audit(run).tolist())
    return LabelsInForce(run_number(run), keys, classes, task, labels, skipped, audit)


def run_number(run: RunDir) -> str:
    """By which a run is known again. Runs that began without a number have their first query, which never changes.

    Raises:
        UsageError: dataset.json is damaged or of a later version, or nothing has been asked yet.
    """
    number = run.run_id
    if number is not None:
        return number
    path = run.path / "queries" / "cycle_000.json"
    first = read_bytes(path)
    if first is None:
        raise UsageError(f"{run.path} holds no label yet: there is nothing to begin with")
    return hashlib.sha256(first).hexdigest()[:16]
