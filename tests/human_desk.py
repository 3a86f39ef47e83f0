"""A person with a terminal and a spreadsheet, who labels a folder of images."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_helpers import settings

from usb_active import cli

CLASSES = ("cat", "dog", "guinea pig")


@dataclass
class Desk:
    """A person with a YAML, a terminal and a spreadsheet."""

    folder: Path
    capsys: pytest.CaptureFixture

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def write(self, active: Mapping[str, Any] | None = None, **usb: Any) -> None:
        """The YAML: two queries of four and three, from unlabelled images, answered by a person."""
        block = {"initial": {"name": "random", "size": 4}, "budget": 3, "oracle": "csv", **(active or {})}
        folder = {"dataset": {"name": "image_folder", "class_names": list(CLASSES)}, "data_dir": str(self.data)}
        tiny = {"num_train_iter": 3, "num_eval_iter": 3, "epoch": 1, "batch_size": 4}
        (self.folder / "c.yaml").write_text(yaml.safe_dump(settings(self.folder, active=block, **{**folder, **tiny, **usb})))

    def go(self, code: int, *more: str) -> list[str]:
        """`usb-active run`: the lines that it prints, errors included. It must end with this code."""
        return self.do(code, "run", str(self.folder / "c.yaml"), *more)

    def do(self, code: int, *arguments: str) -> list[str]:
        """Any command."""
        ended = cli.main(list(arguments))
        out, err = self.capsys.readouterr()
        assert ended == code, out + err
        return (out + err).splitlines()

    def sheet(self, cycle: int) -> Path:
        return self.run / "queries" / f"cycle_{cycle:03d}.csv"

    def asked(self, cycle: int) -> list[dict[str, str]]:
        """The rows of a query's file."""
        text = self.sheet(cycle).read_text(encoding="utf-8-sig")
        return list(csv.DictReader(io.StringIO(text), delimiter=";" if ";" in text else ","))

    def fill(self, cycle: int, *labels: str) -> None:
        """Write labels from the top, as a spreadsheet of a German office saves them: sorted, BOM, semicolons, CRLF, a column more."""
        rows = sorted(self.asked(cycle), key=lambda row: row["key"])
        for row, label in zip(rows, labels, strict=False):
            row["label"] = label
        with open(self.sheet(cycle), "w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys([*rows[0], "note"])), delimiter=";", restval="")
            writer.writeheader()
            writer.writerows(rows)

    def journal(self) -> list[tuple[str, ...]]:
        """(cycle, key, label, status, acquisition) of every row."""
        with open(self.run / "labels.csv", newline="", encoding="utf-8") as file:
            return [tuple(row[name] for name in ("cycle", "key", "label", "status", "acquisition")) for row in csv.DictReader(file)]

    def keys(self, cycle: int) -> list[str]:
        """What was asked, sorted."""
        return sorted(row["key"] for row in self.asked(cycle))


def waiting(desk: Desk, cycle: int, missing: str) -> list[str]:
    files = f"{desk.sheet(cycle)} (pictures: {desk.sheet(cycle).with_suffix('.html')})"
    return [
        f"{missing} labels are missing: fill the column 'label' of {files}",
        "with one of: cat, dog, guinea pig; 'skip' refuses a sample; then run the same command again",
    ]
