"""Where batches are made: in the training's own thread, by a thread that is one batch ahead, or by worker processes.

    OMP_NUM_THREADS=1 python benchmarks/loading_speed.py
    OMP_NUM_THREADS=1 python benchmarks/loading_speed.py --folder FOLDER

Wall-clock milliseconds of a step of FlexMatch with small_cnn on one thread, medians over turns, and the memory that a training and its
workers hold (Linux). Every way is a process of its own; they wait for their turn. `--folder`: images of
train/<class>/*, decoded in every step, in place of an array of random images. With N workers USB has N for the labelled stream and 2 N for
the unlabelled.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from training_overhead import POOL, RandomImages, active, configuration, steps

from usb_active.builtin.image_folder import ImageFolder

# What is compared: a name, and the workers.
WAYS = {"own thread": 0, "one batch ahead": 0, "1 worker": 1, "2 workers": 2}
SIZES = ((16, 2), (64, 7))


def run_of(way: str, folder: str, sizes: tuple[int, int], images: Path | None, width: int) -> Iterator[None]:
    """A training that makes its batches in this way, step by step."""
    data = configuration(folder, *sizes, WAYS[way], 100_000, width=width)
    if images is not None:
        data |= {"dataset": {"name": "image_folder", "verify": False}, "data_dir": str(images), "img_size": 32}
    for kind in (RandomImages, ImageFolder):
        kind.loads_in_threads = way == "one batch ahead"
    return steps(active(data))


def advance(run: Iterator[None], count: int) -> float:
    """Seconds a step."""
    started = time.perf_counter()
    for _ in range(count):
        next(run)
    return (time.perf_counter() - started) / count


def memory() -> float:
    """MB that this process and its children hold, what several share counted once (their PSS)."""
    pids = [os.getpid(), *(int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())]
    lines = (line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines())
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def serve(arguments: argparse.Namespace) -> None:
    """One way: for every line that is read, the seconds of a step and the memory are printed."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            run = run_of(arguments.way, folder, SIZES[arguments.size], arguments.folder, arguments.width)
            advance(run, 5)
        print("ready", flush=True)
        for _ in sys.stdin:
            # Workers have been waiting with full queues: what they made meanwhile is used up first.
            advance(run, 1 + 4 * WAYS[arguments.way])
            print(advance(run, arguments.steps), memory(), flush=True)
        run.close()


def measure(size: int, arguments: argparse.Namespace) -> dict[str, list[list[float]]]:
    """Way → of every turn the seconds of a step and the memory, taken in turns."""
    command = [sys.executable, "-W", "ignore", __file__, "--size", str(size), "--width", str(arguments.width)]
    command += ["--steps", str(arguments.steps if size == 0 else max(2, arguments.steps // 5))]
    command += ["--folder", str(arguments.folder)] if arguments.folder else []
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with contextlib.ExitStack() as stack:
        runs = {way: stack.enter_context(subprocess.Popen([*command, "--way", way], **pipes)) for way in WAYS}
        found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        for run in runs.values():
            while (line := run.stdout.readline()) != "ready\n":
                if not line:
                    raise SystemExit("a training ended early; start it by itself with --way and --size to see why")
        for turn in range(arguments.turns):
            for way in list(runs)[:: 1 if turn % 2 else -1]:
                print(file=runs[way].stdin, flush=True)
                found[way].append([float(number) for number in runs[way].stdout.readline().split()])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20, help="steps a turn")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        serve(arguments)
        return
    import torch

    what = arguments.folder.name if arguments.folder else f"{POOL} random images"
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {what}, small_cnn of width {arguments.width}\n")
    print("| batch / uratio | batches by | ms a step | MB |\n|---|---|---|---|")
    for size, sizes in enumerate(SIZES):
        for way, turns in measure(size, arguments).items():
            seconds, megabytes = zip(*turns, strict=True)
            print(f"| {sizes[0]} / {sizes[1]} | {way} | {1000 * statistics.median(seconds):.1f} | {max(megabytes):.0f} |", flush=True)


if __name__ == "__main__":
    main()
