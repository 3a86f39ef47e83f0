"""The first command of the README, shortened: what a newcomer sees, and what lies there afterwards."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

SHORT = ["--set", "num_train_iter=20", "--set", "num_eval_iter=20", "--set", "active.cycles=1"]


def quickstart(folder: Path) -> str:
    """What the command says on the standard output, run in this folder."""
    script = Path(sys.executable).with_name("usb-active")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([script, "run", "quickstart", *SHORT], cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended
    return ended.stdout


@pytest.mark.slow
def test_the_quickstart_runs_and_once_more_only_reports(tmp_path):
    lines = quickstart(tmp_path).splitlines()
    cycles = [re.match(r"cycle (\d): (\d+) labels, accuracy (\d+\.\d\d) % ", line) for line in lines]
    assert [match.group(1, 2) for match in cycles if match] == [("0", "10"), ("1", "20")]
    table = [line.split() for line in lines]
    start = next(number for number, words in enumerate(table) if words[:2] == ["cycle", "labels"])
    rows = [match.groups() for match in cycles if match]
    assert [tuple(words[:3]) for words in table[start + 1 : start + 3]] == rows

    (named,) = [line.removeprefix("run: ") for line in lines if line.startswith("run: ")]
    run = tmp_path / named
    (metrics,) = tmp_path.rglob("metrics.jsonl")
    assert metrics == run / "metrics.jsonl" and run.parent == tmp_path / "runs" / "quickstart"
    with Image.open(run / "report" / "learning_curve.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 100

    kept = {path: path.read_bytes() for path in run.rglob("*") if path.suffix in (".jsonl", ".csv", ".pth", ".json", ".yaml")}
    # The seconds too are those of the first time: nothing was trained again.
    assert quickstart(tmp_path).splitlines()[-6:] == lines[-6:]
    assert {path: path.read_bytes() for path in kept} == kept
