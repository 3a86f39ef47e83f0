"""A sweep that is killed at random ends as one that is left alone, and trains nothing twice.

    python benchmarks/sweep_kills.py --root sweep_kills --kills 5 --seed 0

Twelve tiny runs on digits (2 rules × 2 budgets × 3 seeds), once undisturbed and once killed: SIGKILL to the sweep alone (its runs go on
without it), SIGKILL to the sweep and its runs, or Ctrl-C. Each time the same command is given again at once. Then every file of every run
is compared bit for bit, and every training that was over at a kill must have the same line, with its times, at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

TESTS = Path(__file__).resolve().parent.parent / "tests"
KINDS = ("sweep", "all", "interrupt")


def write_study(root: Path, name: str) -> Path:
    """The study of this proof, and its base."""
    sys.path.insert(0, str(TESTS))
    import run_helpers

    data = run_helpers.settings(root, active={"baselines": False})
    for key in ("save_dir", "save_name", "seed"):
        del data[key]
    run_helpers.write_yaml(root / "base.yaml", data)
    study = {
        "base": "base.yaml",
        "matrix": {"active.acquisition": ["random", "margin"], "active.budget": [5, 10]},
        "seeds": 3,
        "save_dir": str(root),
        "name": name,
    }
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    return path


def start(path: Path, jobs: int) -> subprocess.Popen:
    """The command, with its lines on this program's output."""
    return subprocess.Popen([sys.executable, "-m", "usb_active", "sweep", str(path), "--jobs", str(jobs)], start_new_session=True)


def children(pid: int) -> list[int]:
    """The processes that this one has started (Linux)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def end(process: subprocess.Popen, kind: str) -> None:
    """Kill a sweep in one of three ways, and wait for its end."""
    if kind == "interrupt":
        process.send_signal(signal.SIGINT)
    else:
        others = children(process.pid) if kind == "all" else []
        process.kill()
        for pid in others:
            os.kill(pid, signal.SIGKILL)
    print(f"--- {kind}: exit code {process.wait(120)}", flush=True)


def metrics_of(root: Path, name: str) -> dict[str, list[str]]:
    """The lines of metrics.jsonl of every cell so far."""
    return {path.parent.name: path.read_text().splitlines() for path in (root / name).glob("*/metrics.jsonl")}


def killed_sweep(root: Path, path: Path, jobs: int, kills: int, seconds: float, rng: random.Random) -> list[str]:
    """Kill a sweep so often, and let it end; what was trained twice, a line each."""
    seen: list[dict[str, list[str]]] = []
    for number in range(kills):
        process = start(path, jobs)
        wait = rng.uniform(2, 2 * seconds / (kills + 1))
        try:
            print(f"--- ended before its kill: exit code {process.wait(wait)}", flush=True)
        except subprocess.TimeoutExpired:
            print(f"--- after {wait:.1f} s", flush=True)
            end(process, KINDS[number % len(KINDS)])
        seen.append(metrics_of(root, path.stem))
    code = start(path, jobs).wait()
    last = metrics_of(root, path.stem)
    wrong = [] if code == 0 else [f"exit code {code}"]
    for moment in seen:
        wrong += [f"{cell}: trained again" for cell, lines in moment.items() if last[cell][: len(lines)] != lines]
    print(f"--- at the kills {[sum(map(len, moment.values())) for moment in seen]} trainings were over", flush=True)
    return wrong


def main(argv: list[str] | None = None) -> int:
    """1 where anything is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    given.root.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    began = time.monotonic()
    code = start(write_study(given.root, "undisturbed"), given.jobs).wait()
    seconds = time.monotonic() - began
    print(f"--- undisturbed: exit code {code}, {seconds:.0f} s", flush=True)
    wrong = killed_sweep(given.root, write_study(given.root, "killed"), given.jobs, given.kills, seconds, random.Random(given.seed))
    from run_comparison import compare

    files = entries = 0
    for reference in sorted((given.root / "undisturbed").glob("*seed=*")):
        found = compare(given.root / "killed" / reference.name, reference)
        files, entries = files + found.files, entries + found.checkpoint_entries + found.other_entries
        # The two studies lie in two folders.
        differences = [line for line in found.differences if not line.startswith("config.yaml: save_dir: ")]
        wrong += [f"{reference.name}: {line}" for line in differences]
    print(json.dumps({"files": files, "entries": entries, "wrong": wrong}, indent=1))
    return int(bool(wrong) or code != 0)


if __name__ == "__main__":
    sys.exit(main())
