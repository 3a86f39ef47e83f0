"""Run directories of a small study as files: methods, seeds and settings with learning curves that a test chooses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from usb_active.records import CLASS_METRICS, Metric
from usb_active.report.groups import Group, group_runs
from usb_active.report.runs import RunRecord
from usb_active.storage.run_dir import RunDir

# Of numbers as labels: lower is better.
ERROR = (Metric("mae", "absolute error", higher_is_better=False, digits=3),)


def study_run(
    path: Path,
    scores: Sequence[float | None],
    *,
    seed: int = 0,
    acquisition: str | dict = "random",
    start: int = 10,
    step: int = 10,
    metric: str = "accuracy",
    active: dict | None = None,
    line: dict | None = None,
    **keys,
) -> Path:
    """A run with these scores at `start`, `start + step`, … labels; None for one that was not evaluated."""
    path.mkdir(parents=True)
    block = {"initial": {"name": "random", "size": start}, "budget": step, **(active or {})}
    block["acquisition"] = {"name": acquisition} if isinstance(acquisition, str) else acquisition
    config = {"algorithm": "fixmatch", "seed": seed, "dataset": {"name": "digits"}, "active": block, "plugins": [], **keys}
    (path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    lines = [
        {
            "cycle": cycle,
            "num_labels": start + step * cycle,
            metric: score,
            "validation_accuracy": None,
            "evaluated_on": "none" if score is None else "test",
            "acquisition_seconds": 1.0,
            "train_seconds": 9.0,
            **(line or {}),
        }
        for cycle, score in enumerate(scores)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
    return path


def seeds(folder: Path, name: str, scores: Sequence[float], gaps: Iterable[float] = (0.0, 0.01, 0.02), **more) -> list[Path]:
    """A run for each gap, which is added to all of its scores."""
    return [study_run(folder / f"{name}-{seed}", [score + gap for score in scores], seed=seed, **more) for seed, gap in enumerate(gaps)]


def groups_of(*paths: Path, measures: tuple[Metric, ...] = CLASS_METRICS) -> list[Group]:
    """The runs as a report groups them."""
    found = [RunDir.read(path) for path in paths]
    return group_runs([RunRecord(run.path, run, run.config, run.metrics(), measures) for run in found])


def table_below(text: str, heading: str, number: int = 0) -> list[dict[str, str]]:
    """The rows of a table of the section with this `###` heading, by column."""
    section = next(part for part in re.split(r"^### ", text, flags=re.M) if part.startswith(heading))
    tables = [block for block in section.split("\n\n") if block.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in tables[number].splitlines()]
    return [dict(zip(header, row, strict=True)) for row in rows]
