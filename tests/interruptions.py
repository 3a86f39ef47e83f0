"""Random signals to `usb-active run` with workers: the exit code, what was said, and whether a process is left.

    python tests/interruptions.py 24 --signal INT --workers 2

Each try starts a run of its own process group and sends the signal to the whole group, as a terminal does, after a random time
between the start and a bit beyond the time that a whole run takes. Prints a line for each try, and the counts.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import run_helpers

LINES = {"INT": "usb-active: interrupted; ", "TERM": "usb-active: terminated; ", "HUP": "usb-active: the terminal has gone (SIGHUP); "}
# Before this the interpreter itself is starting, and no handler of ours can be there.
FIRST = 0.6


def settings(folder: Path, workers: int) -> dict:
    """A tiny run, most of whose time is spent with workers, and in starting them."""
    block = {"validation": 0.5, "cycles": 2}
    return run_helpers.settings(folder, active=block, num_workers=workers, num_train_iter=40, num_eval_iter=10, epoch=2)


def attempt(folder: Path, workers: int, name: str, seconds: float | None) -> tuple[int, list[str], int, float]:
    """Exit code, lines of stderr, processes left, seconds from the signal to the end (None: no signal, seconds of the whole)."""
    yaml = run_helpers.write_yaml(folder / "run.yaml", settings(folder, workers))
    with open(folder / "err", "w+") as err:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "usb_active", "run", str(yaml)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=err,
        )  # fmt: skip
        started = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        sent = time.monotonic()
        if process.poll() is None:
            os.killpg(process.pid, getattr(signal, f"SIG{name}"))
        process.wait(120)
        ended = time.monotonic()
        time.sleep(0.2)
        left = members(process.pid)
        err.seek(0)
        lines = [line for line in err.read().splitlines() if line.strip()]
    return process.returncode, lines, left, ended - (started if seconds is None else sent)


def members(group: int) -> int:
    """How many processes of a process group there are."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            found += int(fields[2]) == group and fields[0] != "Z"
    return found


def main(argv: list[str] | None = None) -> int:
    """1 where any try was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tries", type=int)
    parser.add_argument("--signal", choices=list(LINES), default="INT")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    rng, counts = random.Random(given.seed), collections.Counter()
    expected = 128 + getattr(signal, f"SIG{given.signal}")
    with tempfile.TemporaryDirectory() as root:
        whole = attempt(_folder(root, "whole"), given.workers, given.signal, None)[3]
        print(f"a whole run: {whole:.1f} s", flush=True)
        for number in range(given.tries):
            seconds = rng.uniform(FIRST, 1.02 * whole)
            code, lines, left, took = attempt(_folder(root, str(number)), given.workers, given.signal, seconds)
            said = len(lines) == 1 and lines[0].startswith(LINES[given.signal])
            good = left == 0 and (code == expected and said or code == 0 and not lines)
            kind = ("finished before it" if code == 0 else "as it should be") if good else f"WRONG: exit {code}, {left} left"
            counts[kind] += 1
            print(f"{seconds:6.1f} s: exit {code}, {len(lines)} line(s), {left} left, ended after {took:.1f} s: {kind}", flush=True)
            if not good:
                print("\n".join(f"    {line}" for line in lines[-12:]), flush=True)
    print(dict(counts))
    return int(any(kind.startswith("WRONG") for kind in counts))


def _folder(root: str, name: str) -> Path:
    folder = Path(root) / name
    folder.mkdir()
    return folder


if __name__ == "__main__":
    sys.exit(main())
