"""Studies of tiny runs, and what their cells leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import run_helpers
import yaml

from usb_active.config.study import Cell
from usb_active.storage.run_dir import RunDir


def write_study(tmp_path: Path, of_base: dict[str, Any] | None = None, **keys: Any) -> Path:
    """A study over tiny runs of two trainings; it lies in tmp_path/study."""
    data = run_helpers.settings(tmp_path, active={"baselines": False})
    for key in ("save_dir", "save_name"):
        del data[key]
    run_helpers.write_yaml(tmp_path / "base.yaml", {**data, **(of_base or {})})
    matrix = {"active.acquisition": ["random", "margin"]}
    study = {"base": "base.yaml", "matrix": matrix, "seeds": [3], "save_dir": str(tmp_path), "name": "study", **keys}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    return path


def begin(cell: Cell, trainings: int = 0, *, reported: bool = True) -> Path:
    """The run directory of a cell, with so many lines of metrics, and the report that a run makes of them."""
    with RunDir.open(cell.run_path, cell.config.stored()) as run:
        for cycle in range(trainings):
            run.append_metrics({"cycle": cycle, "num_labels": 20 + 10 * cycle, "evaluated_on": "test", "accuracy": 0.5})
    if trainings and reported:
        write_report(cell)
    return cell.run_path


def write_report(cell: Cell) -> None:
    """What a run writes last."""
    (cell.run_path / "report").mkdir(exist_ok=True)
    (cell.run_path / "report/report.md").touch()
