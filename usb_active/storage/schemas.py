"""What the small files of a run must hold: one model for each kind of file, checked whenever one is read."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from usb_active.errors import UsageError, printable
from usb_active.records import CLASS_METRICS, Metric
from usb_active.storage.run_format import DATASET_REMEDY, PINNED_FILE, read_pinned

if TYPE_CHECKING:
    from usb_active.storage.run_dir import RunDir

_Count = Annotated[int, Field(ge=0)]
_Log = dict[str, float]
# JSON as Python writes it has NaN and Infinity, of which no report can make anything.
_Number = Annotated[float, Field(allow_inf_nan=False)]

CYCLE_REMEDY = "restore it from a copy, or move its folder away to train the cycle again"
QUERY_REMEDY = "restore it from a copy: it says what was asked"
META_REMEDY = "remove it: nothing but seconds and what was logged is lost"
METRICS_REMEDY = "done.json of its cycle holds the same line"
LINE_REMEDY = "restore the folder from a copy, or remove the line"
BASELINES_FILE = "artifacts/baselines.json"
BASELINES_REMEDY = "remove it: a report computes it again"
CLASSES_FILE = "classes.json"
CLASSES_REMEDY = "restore it from a copy: it says which classes were added"
ACCEPTED_REMEDY = "restore it from a copy: it says which edits of labels.csv were meant"


class Record(BaseModel):
    """Types are taken as they are in JSON, nothing is converted. Keys of later versions do no harm."""

    model_config = ConfigDict(strict=True, extra="allow")


class ConfigRecord(Record):
    """config.yaml, as far as it is looked at without the plugins that it names."""

    seed: int | None = None
    num_train_iter: int | None = None
    plugins: list[str] | None = None
    active: dict[str, Any] | None = None


class MetricRecord(Record):
    """A metric of a task without classes: see `usb_active.records.Metric`."""

    score: str
    name: str
    higher_is_better: bool
    factor: float
    unit: str
    digits: Annotated[int, Field(ge=0, le=20)]
    short: str


class TaskRecord(Record):
    """What the labels are, where they are no classes."""

    name: str
    metrics: Annotated[list[MetricRecord], Field(min_length=1)]


class DatasetRecord(Record):
    """`dataset.json`: what the run began with. `run` tells it from all other runs; runs from before have none."""

    img_size: Annotated[int, Field(ge=1)]
    in_channels: Annotated[int, Field(ge=1)]
    class_names: list[str]
    # Of the pixels, where the data set normalises them; runs from before have neither.
    mean: list[float] | None = None
    std: list[float] | None = None
    # Of the test set's keys, where it is taken from the images of the pool.
    test_digest: str | None = None
    run: str | None = None
    task: TaskRecord | None = None


class StartRecord(Record):
    """`cycle_NNN/start.json`: the labels that a cycle trains on are the first `journal_rows` rows of labels.csv.

    `journal_sha256` and `journal_crc32` are the checksums of these rows (see `usb_active.storage.journal_checks`), `pending` counts the
    picks that had no answer yet, `samples` those of the pool. Runs from before have none of them.
    """

    cycle: _Count
    journal_rows: _Count
    journal_sha256: str | None = None
    journal_crc32: list[_Count] = []
    pending: _Count | None = None
    samples: _Count | None = None
    # What the outputs of the cycle's model stand for; there are none where labels are no classes.
    class_names: list[str] | None = None
    log: _Log = {}


class MetricsLine(Record):
    """A line of metrics.jsonl, as far as it is there."""

    cycle: _Count
    accuracy: _Number | None = None
    balanced_accuracy: _Number | None = None
    best_accuracy: _Number | None = None
    validation_accuracy: _Number | None = None
    selected_accuracy: _Number | None = None
    # Since the live network is scored too; lines from before have none.
    live_accuracy: _Number | None = None
    live_balanced_accuracy: _Number | None = None
    labeled_accuracy: _Number | None = None
    live_labeled_accuracy: _Number | None = None
    # Of runs with an audit or stop rules.
    audit_hits: str | None = None
    audit_joined: _Count | None = None
    audit_samples: _Count | None = None
    audit_skipped: _Count | None = None
    audit_accuracy: _Number | None = None
    audit_low: _Number | None = None
    audit_high: _Number | None = None
    audit_class_counts: list[_Count] = []
    audit_class_right: list[_Count] = []
    audit_class_low: list[_Number] = []
    audit_class_high: list[_Number] = []
    own_estimate: _Number | None = None
    uncertainty: _Number | None = None
    kappa: _Number | None = None
    stop: list[str] = []
    class_counts: list[_Count] = []
    validation_class_counts: list[_Count] = []
    selected_class_counts: list[_Count] | None = None
    acquisition: str | None = None
    acquisition_seconds: _Number | None = None
    train_seconds: _Number | None = None
    # Of acquisition and training; lines from before have none.
    cpu_seconds: _Number | None = None
    log: _Log | None = None


class TrainingMetrics(MetricsLine):
    """What a finished training must say at least."""

    num_labels: _Count
    evaluated_on: Literal["test", "validation", "none"]


class DoneRecord(Record):
    """`cycle_NNN/done.json`: the training is over; its line of metrics.jsonl, and the prior's tables."""

    metrics: TrainingMetrics
    prior: str
    prior_in_training: str


class QueryMeta(Record):
    """`queries/cycle_NNN.meta.json`: who made a query, in how many seconds, and what it logged. Those from before have no CPU seconds."""

    acquisition: str
    seconds: float | None
    cpu_seconds: float | None = None
    log: _Log


class PriorChanges(Record):
    """A line of prior.jsonl on what the prior changed."""

    iteration: _Count
    changed: _Count
    rows: _Count


class PriorMade(Record):
    """A line of prior.jsonl on a new table."""

    iteration: _Count
    when: str
    log: _Log


_Share = Annotated[float, Field(ge=0, le=1)]


class CycleBaselines(Record):
    """What cheap classifiers made of the labels that a cycle trained on.

    Attributes:
        cycle: whose labels.
        labels: the checksum of its rows of labels.csv.
        evaluated_on: whether these are test samples or held-out ones ("validation").
        features: what they predict from, by name.
        evaluated: the number of samples that were predicted.
        available: the number of those there were.
        versions: of the method and of the packages it uses.
        accuracies: by name of the baseline (`usb_active.numerics.baselines.TITLES`).
    """

    cycle: _Count
    labels: str
    evaluated_on: Literal["test", "validation"]
    features: str
    evaluated: Annotated[int, Field(ge=1)]
    available: Annotated[int, Field(ge=1)]
    versions: dict[str, str]
    accuracies: dict[str, _Share]


class BaselinesRecord(Record):
    """`artifacts/baselines.json`."""

    cycles: list[CycleBaselines]


class Edit(Record):
    """The first rows of labels.csv, up to where a cycle began, were changed on purpose: checksums before and since."""

    time: str
    cycle: _Count
    before: str
    sha256: str
    crc32: list[_Count]
    lines: list[str]


class AcceptedEdits(Record):
    """`accepted.json`: the edits of labels.csv that were meant, oldest first."""

    edits: list[Edit]


class AddedClass(Record):
    """A class that was added while the query of a cycle waited for answers: the training of that cycle is the first that knows it."""

    name: Annotated[str, Field(min_length=1)]
    cycle: _Count
    time: str


class AddedClasses(Record):
    """`classes.json`: the classes beside those of dataset.json, in the order of their numbers."""

    added: list[AddedClass]


def check_record(model: type[Record], where: Path | str, value: Any, remedy: str) -> Any:
    """The value, when it is what the model says. UsageError names the file, the key and what to do."""
    try:
        model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = printable(".".join(map(str, first["loc"])))
        problem = first["msg"][:1].lower() + first["msg"][1:] if key else "no object in it"
        raise UsageError(f"{where} is damaged ({key}{': ' if key else ''}{problem}); {remedy}") from None
    return value


def read_dataset(run: RunDir) -> dict[str, Any] | None:
    """dataset.json; None before the run has one."""
    pinned = read_pinned(run)
    return None if pinned is None else check_record(DatasetRecord, run.path / PINNED_FILE, pinned, DATASET_REMEDY)


def own_task(run: RunDir, needed: bool = False) -> dict[str, Any] | None:
    """What dataset.json says of labels that are no classes; None where they are, and where it is gone without being `needed`."""
    if not needed and not (run.path / PINNED_FILE).exists():
        # A report needs nothing else of it.
        return None
    return (read_dataset(run) or {}).get("task")


def run_metrics(run: RunDir, lines: Sequence[dict[str, Any]] = ()) -> tuple[Metric, ...]:
    """The metrics of a run's task, the headline first. `lines`: of metrics.jsonl."""
    task = own_task(run, needed=any("task" in line for line in lines))
    if task is None:
        return CLASS_METRICS
    return tuple(Metric(**{name: metric[name] for name in MetricRecord.model_fields}) for metric in task["metrics"])


def check_values(where: str, line: Mapping[str, Any], metrics: Sequence[Metric], remedy: str) -> None:
    """UsageError where something that a task measures (`metrics`, the headline first) is no finite number in a line of metrics.jsonl."""
    headline, *others = metrics
    kinds = ("best", "validation", "selected", "live", "labeled", "live_labeled")
    names = [headline.key, *(f"{kind}_{headline.key}" for kind in kinds)]
    names += [f"{kind}{metric.key}" for metric in others for kind in ("", "live_")]
    for name in names:
        value = line.get(name)
        # A whole number may be beyond what a float holds.
        is_number = isinstance(value, Real) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        if value is not None and not is_number:
            raise UsageError(f"{where} ({name}: input should be a finite number, is {printable(value)}); {remedy}")


def finished_trainings(run: RunDir) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, by cycle, each with all that reports and predictions need."""
    lines = run.metrics(TrainingMetrics)
    measures = run_metrics(run, lines)
    for number, line in enumerate(lines, start=1):
        # `MetricsLine` knows those of classes alone.
        check_values(f"{run.path / 'metrics.jsonl'}:{number} is damaged", line, measures, METRICS_REMEDY)
    has_folders = any(run.path.glob("cycle_*/*.json"))
    for number, line in enumerate(lines, start=1):
        folder = run.path / f"cycle_{line['cycle']:03d}"
        # Of a run that was copied without any of its trainings, for its curve alone, nothing is known of them.
        # A folder that was moved away, to train its cycle again, leaves the query.
        traces = folder / "start.json", folder / "done.json", run.path / "queries" / f"{folder.name}.json"
        if has_folders and not any(path.exists() for path in traces):
            where = f"{run.path / 'metrics.jsonl'}:{number}"
            raise UsageError(f"{where} is of cycle {line['cycle']}, which was never trained: no {folder.name}/start.json; {LINE_REMEDY}")
    return lines


def read_start(run: RunDir, cycle: int) -> dict[str, Any] | None:
    """start.json of a cycle; None before its training."""
    name = f"cycle_{cycle:03d}/start.json"
    return _of_cycle(run.path / name, _read(run, name, StartRecord, CYCLE_REMEDY), cycle)


def need_start(run: RunDir, cycle: int) -> dict[str, Any]:
    """start.json of a cycle that has been trained. UsageError when it is gone."""
    return _needed(run.path / f"cycle_{cycle:03d}/start.json", read_start(run, cycle))


def read_done(run: RunDir, cycle: int) -> dict[str, Any] | None:
    """done.json of a cycle; None until its training is over."""
    name = f"cycle_{cycle:03d}/done.json"
    record = _read(run, name, DoneRecord, CYCLE_REMEDY)
    _of_cycle(run.path / name, record and record["metrics"], cycle)
    return record


def need_done(run: RunDir, cycle: int) -> dict[str, Any]:
    """done.json of a cycle whose training is over. UsageError when it is gone."""
    return _needed(run.path / f"cycle_{cycle:03d}/done.json", read_done(run, cycle))


def read_query_meta(run: RunDir, cycle: int) -> dict[str, Any] | None:
    """The notes on a query; None where there are none."""
    return _read(run, f"queries/cycle_{cycle:03d}.meta.json", QueryMeta, META_REMEDY)


def read_accepted(run: RunDir) -> list[dict[str, Any]]:
    """The edits of labels.csv that were meant, oldest first."""
    record = _read(run, "accepted.json", AcceptedEdits, ACCEPTED_REMEDY)
    return [] if record is None else record["edits"]


def read_added_classes(run: RunDir) -> list[dict[str, Any]]:
    """The classes that were added to a run, in the order of their numbers."""
    record = _read(run, CLASSES_FILE, AddedClasses, CLASSES_REMEDY)
    return [] if record is None else record["added"]


def read_baselines(run: RunDir) -> list[dict[str, Any]]:
    """The baselines that were computed so far."""
    record = _read(run, BASELINES_FILE, BaselinesRecord, BASELINES_REMEDY)
    return [] if record is None else record["cycles"]


def _read(run: RunDir, name: str, model: type[Record], remedy: str) -> dict[str, Any] | None:
    value = run.read_json(name, remedy)
    # A file with `null` in it is no file that is missing.
    if value is None and not (run.path / name).exists():
        return None
    return check_record(model, run.path / name, value, remedy)


def _of_cycle(path: Path, record: dict[str, Any] | None, cycle: int) -> dict[str, Any] | None:
    if record is not None and record["cycle"] != cycle:
        raise UsageError(f"{path} is damaged (it is of cycle {record['cycle']}, must be of cycle {cycle}); {CYCLE_REMEDY}")
    return record


def _needed(path: Path, record: dict[str, Any] | None) -> dict[str, Any]:
    if record is None:
        raise UsageError(f"{path} is gone; {CYCLE_REMEDY}")
    return record
