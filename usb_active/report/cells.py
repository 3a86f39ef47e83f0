"""cells.csv: every run at every number of labels, a row each, for statistics of one's own."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from usb_active.report.groups import Group
from usb_active.report.method_names import differing_keys, setting_text
from usb_active.report.runs import RunRecord, metric
from usb_active.storage.durable import atomic_write
from usb_active.storage.spreadsheet import text_cell

SUMMED = ("acquisition_seconds", "train_seconds", "cpu_seconds")


def write_cells(groups: Sequence[Group], path: Path) -> Path:
    """Write a row for each run and number of labels: method, settings that differ, seed, metrics as in metrics.jsonl.

    Where a cycle brought no label, the later training counts, and the seconds are those of both.
    """
    keys = differing_keys([group.settings for group in groups])
    metrics = _metric_names(groups)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*map(text_cell, ("run", "method", *keys, "seed", "cycle", "num_labels", "evaluated_on")), *metrics, *SUMMED])
    for group in groups:
        settings = [setting_text(group.settings, key) for key in keys]
        for run in group.runs:
            who = map(_shown, (run.path, group.label, *settings, run.config.get("seed")))
            writer.writerows([*who_cells, *row] for who_cells in [list(who)] for row in _rows(run, metrics))
    atomic_write(path, lambda stream: stream.write(text.getvalue().encode()))
    return path


def _metric_names(groups: Sequence[Group]) -> list[str]:
    headline, *others = groups[0].measures
    return [headline.key, f"best_{headline.key}", f"selected_{headline.key}", *(other.key for other in others)]


def _rows(run: RunRecord, metrics: Sequence[str]) -> Iterator[list[Any]]:
    """What stands behind the run's own columns, by number of labels."""
    by_labels: dict[int, list[dict]] = {}
    for line in run.metrics:
        by_labels.setdefault(line["num_labels"], []).append(line)
    for count, lines in sorted(by_labels.items()):
        last = lines[-1]
        seconds = [[line[name] for line in lines if line.get(name) is not None] for name in SUMMED]
        values = [metric(last, name, run.measure.key) for name in metrics]
        yield [last["cycle"], count, last["evaluated_on"], *values, *(sum(of) if of else None for of in seconds)]


def _shown(value: Any) -> Any:
    return text_cell(str(value)) if isinstance(value, (str, Path)) else value
