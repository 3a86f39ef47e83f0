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

AUDITED = ("audit_samples", "audit_accuracy", "audit_low", "audit_high", "own_estimate", "uncertainty", "kappa")
SUMMED = ("acquisition_seconds", "train_seconds", "cpu_seconds")


def write_cells(groups: Sequence[Group], path: Path) -> Path:
    """Write a row for each run and number of labels: method, settings that differ, seed, metrics as in metrics.jsonl.

    Where a cycle brought no label, the later training counts, and the seconds are those of both. What methods logged is in the
    last columns, `log.NAME`. Lists (class counts) are left out.
    """
    keys = differing_keys([group.settings for group in groups])
    metrics, logged = _metric_names(groups), _logged_names(groups)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    first, last = ("run", "method", *keys, "seed", "cycle", "num_labels", "evaluated_on"), [f"log.{name}" for name in logged]
    writer.writerow([*map(text_cell, first), *metrics, *SUMMED, *map(text_cell, last)])
    for group in groups:
        settings = [setting_text(group.settings, key) for key in keys]
        for run in group.runs:
            who = map(_shown, (run.path, group.label, *settings, run.config.get("seed")))
            writer.writerows([*who_cells, *row] for who_cells in [list(who)] for row in _rows(run, metrics, logged))
    atomic_write(path, lambda stream: stream.write(text.getvalue().encode()))
    return path


def _metric_names(groups: Sequence[Group]) -> list[str]:
    """The metrics that a line always has, and those that some line here has."""
    headline, *others = groups[0].measures
    always = [headline.key, f"best_{headline.key}", f"selected_{headline.key}", *(other.key for other in others)]
    kinds = ("validation", "live", "labeled", "live_labeled")
    possible = [*(f"{kind}_{headline.key}" for kind in kinds), *(f"live_{other.key}" for other in others), *AUDITED]
    return always + [name for name in possible if any(line.get(name) is not None for line in _lines(groups))]


def _logged_names(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(name for line in _lines(groups) for name in line.get("log") or {}))


def _lines(groups: Sequence[Group]) -> Iterator[dict]:
    return (line for group in groups for run in group.runs for line in run.metrics)


def _rows(run: RunRecord, metrics: Sequence[str], logged: Sequence[str]) -> Iterator[list[Any]]:
    """What stands behind the run's own columns, by number of labels."""
    by_labels: dict[int, list[dict]] = {}
    for line in run.metrics:
        by_labels.setdefault(line["num_labels"], []).append(line)
    for count, lines in sorted(by_labels.items()):
        last = lines[-1]
        seconds = [[line[name] for line in lines if line.get(name) is not None] for name in SUMMED]
        values = [metric(last, name, run.measure.key) for name in metrics]
        log = [(last.get("log") or {}).get(name) for name in logged]
        yield [last["cycle"], count, last["evaluated_on"], *values, *(sum(of) if of else None for of in seconds), *log]


def _shown(value: Any) -> Any:
    return text_cell(str(value)) if isinstance(value, (str, Path)) else value
