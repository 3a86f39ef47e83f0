"""The runs that a report is about, as they were read from their directories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usb_active.contracts.task import Classification
from usb_active.errors import UsageError, name_some
from usb_active.records import Metric
from usb_active.storage.durable import no_os_error
from usb_active.storage.journal_checks import check_labels
from usb_active.storage.run_dir import RunDir
from usb_active.storage.schemas import finished_trainings, own_task, run_metrics

# Where a metric was evaluated, as a report says it.
PLACES = {"test": "on test", "validation": "on held-out labels", "none": "not evaluated"}


@dataclass(frozen=True)
class RunRecord:
    """One run directory as it was read.

    Attributes:
        path: as given.
        directory: the run directory, opened for reading.
        config: its config.yaml.
        metrics: the lines of its metrics.jsonl, one per cycle.
        measures: the metrics of its task, the headline first.
        has_classes: whether its labels are classes.
    """

    path: Path
    directory: RunDir
    config: dict
    metrics: list[dict]
    measures: tuple[Metric, ...] = Classification.metrics
    has_classes: bool = True

    @property
    def measure(self) -> Metric:
        """The headline metric of its task."""
        return self.measures[0]

    @property
    def evaluated_on(self) -> str:
        """What its metrics are measured on: "test", "validation", or "none"."""
        kinds = [line["evaluated_on"] for line in self.metrics if line["evaluated_on"] != "none"]
        return kinds[-1] if kinds else "none"

    @property
    def label_counts(self) -> set[int]:
        """The numbers of labels that it was trained with."""
        return {line["num_labels"] for line in self.metrics}

    def by_labels(self, name: str) -> dict[int, float]:
        """Number of labels → a metric. Where a cycle brought no label, the later training counts."""
        place = self.evaluated_on
        lines = [line for line in self.metrics if line["evaluated_on"] == place]
        values = {line["num_labels"]: metric(line, name, self.measure.key) for line in lines}
        return {count: value for count, value in values.items() if value is not None}

    def total(self, name: str, num_labels: int) -> float | None:
        """The sum of a metric over the trainings with at most `num_labels` labels."""
        values = [line.get(name) for line in self.metrics if line["num_labels"] <= num_labels]
        values = [value for value in values if value is not None]
        return sum(values) if values else None


def metric(line: dict, name: str, headline: str = "accuracy") -> float | None:
    """A value of a line of metrics.jsonl; the headline metric is the one on `evaluated_on`."""
    if name == headline and line["evaluated_on"] == "validation" and line.get(name) is None:
        return line.get(f"validation_{headline}")
    return line.get(name)


def repeated_seeds(runs: Sequence[RunRecord]) -> list[Any]:
    """The seeds that several of the runs have: these are no sample of seeds, and which one to pair is open."""
    seeds = Counter(run.config.get("seed") for run in runs)
    return [seed for seed, count in seeds.items() if count > 1]


def _read(path: Path, found: RunDir) -> RunRecord:
    lines = finished_trainings(found)
    return RunRecord(path, found, found.config, lines, run_metrics(found, lines), has_classes=own_task(found) is None)


def run_paths(paths: Sequence[Path]) -> list[Path]:
    """The run directories; of a folder that is none, those in it, by name.

    Raises:
        UsageError: a path that is neither.
    """
    return [run for path in map(Path, paths) for run in _runs_at(path)]


def _runs_at(path: Path) -> list[Path]:
    if (path / "config.yaml").is_file() or not path.is_dir():
        return [path]
    with no_os_error("look into", path):
        inside = sorted(folder for folder in path.iterdir() if (folder / "config.yaml").is_file())
    if not inside:
        raise UsageError(f"{path} is not a run directory: it has no config.yaml, nor has any folder in it")
    return inside


def default_folder(paths: Sequence[Path]) -> Path:
    """Where a report goes: into the run or the folder of runs that it is about, where it is about one."""
    alone = {Path(path).resolve(): Path(path) for path in paths}
    return next(iter(alone.values())) / "report" if len(alone) == 1 else Path("report")


def read_runs(paths: Sequence[Path]) -> tuple[list[RunRecord], list[str]]:
    """The runs with metrics, each directory once, and a line for every one without. All are of one task."""
    unique = {Path(path).resolve(): Path(path) for path in paths}
    directories = {path: RunDir.read(path) for path in unique.values()}
    for found in directories.values():
        check_labels(found)
    runs = [_read(path, found) for path, found in directories.items()]
    empty = [run.path for run in runs if not run.metrics]
    if len(empty) == len(runs):
        where = name_some(empty) if empty else "no run given"
        raise UsageError(f"nothing to report: {where}{': no training has finished yet' if empty else ''}")
    notes = [f"{path}: no training has finished yet; left out." for path in empty]
    finished = [run for run in runs if run.metrics]
    other = next((run for run in finished if run.measures != finished[0].measures), None)
    if other is not None:
        one = finished[0]
        what = f"{one.path} measures {one.measure.name}, {other.path} {other.measure.name}"
        raise UsageError(f"runs of two tasks cannot stand in one report: {what}; write a report of each")
    return finished, notes
