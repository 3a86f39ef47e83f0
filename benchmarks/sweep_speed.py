"""What a sweep costs beside its runs, and what two at a time save.

    python benchmarks/sweep_speed.py --root sweep_speed
    python benchmarks/sweep_speed.py --root sweep_speed --only twelve --times 1 --steps 300    # on a quiet machine

- one: `usb-active run` and a sweep of that one cell, alternating, so that other work on the machine falls on both.
- twelve: twelve cells (2 rules × 2 budgets × 3 seeds of the study of sweep_kills.py) with `--jobs 2` and one after the other (`--jobs 1`),
  alternating; then the same command again, when all of them are done.

Prints one JSON object, in seconds, and the machine's cores and load at the beginning: on a busy one two at a time save little.
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
from typing import Any

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


def twelve(root: Path, times: int, steps: int) -> dict[str, Any]:
    """Seconds of twelve cells, two at a time and one after the other; and when all of them are done."""
    found: dict[int, list[float]] = {2: [], 1: []}
    length = [f"--set=num_train_iter={steps}", f"--set=num_eval_iter={steps}", f"--set=num_log_iter={steps}"]
    for number in range(times):
        for jobs, seconds in found.items():
            study = str(write_study(root, f"jobs_{jobs}_{number}"))
            seconds.append(seconds_of("sweep", study, "--jobs", str(jobs), *length))
            print(f"twelve cells, {jobs} at a time: {seconds[-1]:.1f} s", file=sys.stderr, flush=True)
    two, one = median(found[2]), median(found[1])
    done = seconds_of("sweep", study, *length)
    seconds = {"twelve, 2 at a time": found[2], "twelve, one after the other": found[1]}
    return {**seconds, "ratio of the medians": two / one, "all done already": done}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a folder for the runs; a new one")
    parser.add_argument("--only", choices=("one", "twelve"), help="one part of it")
    parser.add_argument("--times", type=int, default=2, help="how often each is measured")
    parser.add_argument("--steps", type=int, default=12, help="of each of the two trainings of each of the twelve cells")
    given = parser.parse_args()
    if given.root.exists() and any(given.root.iterdir()):
        # What is done there already would take no time.
        parser.error(f"--root: {given.root} is not empty")
    given.root.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    found: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}
    if given.only != "twelve":
        alone, swept = alone_and_swept(given.root, given.times)
        found |= {"run": alone, "sweep of one": swept, "difference of the medians": median(swept) - median(alone)}
    if given.only != "one":
        found |= twelve(given.root, given.times, given.steps)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
