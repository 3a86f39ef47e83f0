"""What a sweep costs beside its runs, and what two at a time save.

    python benchmarks/sweep_speed.py --root sweep_speed

1. `usb-active run` and a sweep of that one cell, alternating, so that other work on the machine falls on both.
2. Twelve cells (2 rules × 2 budgets × 3 seeds of the study of sweep_kills.py) with `--jobs 1` and with `--jobs 2`.
3. The same command again, when all of them are done.

Prints one JSON object, in seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import yaml
from sweep_kills import write_study


def seconds_of(*arguments: str) -> float:
    """How long `usb-active` takes."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "usb_active", *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def alone_and_swept(root: Path, times: int) -> tuple[list[float], list[float]]:
    """Seconds of one run by itself, and as the only cell of a sweep."""
    path = write_study(root, "one")
    study = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**study, "matrix": {"active.budget": [5]}, "seeds": 1}), encoding="utf-8")
    alone, swept = [], []
    for number in range(times):
        overrides = [f"--set=save_dir={root}", f"--set=save_name=alone_{number}", "--set=active.budget=5", "--set=seed=0"]
        alone.append(seconds_of("run", str(root / "base.yaml"), *overrides))
        swept.append(seconds_of("sweep", str(path)))
        shutil.rmtree(root / "one")
    return alone, swept


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--times", type=int, default=4)
    given = parser.parse_args()
    given.root.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    alone, swept = alone_and_swept(given.root, given.times)
    found = {"run": alone, "sweep of one": swept, "difference of the medians": median(swept) - median(alone)}
    print(json.dumps(found), flush=True)
    for jobs in (2, 1):
        found[f"twelve cells, {jobs} at a time"] = seconds_of("sweep", str(write_study(given.root, f"jobs_{jobs}")), "--jobs", str(jobs))
        print(json.dumps(found), flush=True)
    found["all done already"] = seconds_of("sweep", str(given.root / "jobs_1.yaml"))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
