"""Seconds and peak memory of VAAL's and SRAAL's training and picking, on made images in memory.

Run by hand: python benchmarks/assal_speed.py [--n 50000 --size 32 --labeled 5000 --budget 2500 --threads 2 --batches 0]

An epoch is one pass over the unlabelled pool, by the acquisition's defaults (--set KEY=NUMBER for others); a selection has `epochs` of
them. With --batches only so many are trained on, after one that is not timed, and scaled to the epoch: batches cost the same. "images"
is what is done once: the eval view of both pools into memory (raw images are in memory already, nothing is read or decoded). "picking" is
the score of every candidate, and the lowest. "step by step" is an epoch whose images are made anew for every batch, as for pools that are
too large to be kept. Each method is a process of its own, so that the peak of its resident memory is its own. Seconds of the processor
say more on a busy machine, with one thread.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np

METHODS = ("vaal", "sraal")
WARM = 1
CLASSES = 10

T = TypeVar("T")


def peak_memory() -> int:
    """Bytes, of this program alone: getrusage's number includes what the parent had when it made the process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def timed(name: str, call: Callable[[], T], scale: float = 1.0) -> T:
    """Print how long a call took, times `scale`, and what memory has peaked at."""
    clock, processor = time.perf_counter(), time.process_time()
    result = call()
    seconds, busy = time.perf_counter() - clock, time.process_time() - processor
    times = f"{scale * seconds:10.1f} s {scale * busy:10.1f} s of the processor"
    print(f"{name:34s} {times}  peak {peak_memory() / 1e9:5.2f} GB", flush=True)
    return result


def made_view(args: argparse.Namespace, folder: Path) -> Any:
    """A pool in the middle of a run: images (N, size, size, 3) of noise around ten patterns, and a task model that knows little."""
    import torch

    from usb_active import PoolView
    from usb_active.contracts.dataset import Dataset
    from usb_active.pool.pool import Pool
    from usb_active.pool.view import ViewSource
    from usb_active.usb.networks import small_cnn

    rng = np.random.default_rng(0)

    class Made(Dataset):
        name = "made"

        def prepare(self) -> None:
            self.targets = rng.integers(CLASSES, size=args.n)
            shape = (args.size, args.size, 3)
            patterns = rng.integers(60, 196, (CLASSES, *shape), dtype=np.uint8)
            self.images = patterns[self.targets]
            for image in self.images:
                image += rng.integers(60, size=shape, dtype=np.uint8)
            self.keys, self.queryable = range(args.n), np.ones(args.n, dtype=bool)
            self.class_names = tuple(map(str, range(CLASSES)))
            self.img_size, self.in_channels = args.size, 3
            self.views = SimpleNamespace(eval=lambda image: torch.from_numpy(image).permute(2, 0, 1).float().div_(64).sub_(2))

        def load(self, index: int) -> np.ndarray:
            return self.images[index]

    data = Made()
    pool, labeled = Pool(data.queryable), rng.permutation(args.n)[: args.labeled]
    pool.set_labels(labeled, data.targets[labeled], 0)
    net = small_cnn(CLASSES, args.size, 3, width=4)
    source = ViewSource(
        dataset=data, pool=pool, run_path=folder, seed=0, device=torch.device("cpu"), model=lambda: net, batch_size=256, num_workers=0,
        simulated=True, pretrained_features=lambda: None,
    )  # fmt: skip
    view = PoolView(source, 1, "acquisition", frozenset({"probs"}), None)
    view.prepare()
    return view


def trained(training: Any, batches: int) -> None:
    """The first `batches` of an epoch."""
    made = training._pairs
    training._pairs = lambda total: itertools.islice(made(total), batches)
    training.train_epoch()
    training._pairs = made


def measure(args: argparse.Namespace) -> None:
    """One method, in this process."""
    import torch
    from usb_active.plugins.assal import samplers

    from usb_active import top_k
    from usb_active.testing.contract import made

    torch.set_num_threads(args.threads)
    keys = {name: float(value) if "." in value or "e-" in value else int(value) for name, value in (one.split("=") for one in args.set)}
    with tempfile.TemporaryDirectory() as folder:
        view = made_view(args, Path(folder))
        plugin = made("acquisition", {"name": args.method, **keys})
        print(f"{args.method}: {plugin.config.model_dump()}")
        training = plugin._training(view)
        timed("images", lambda: training._kept)
        total = math.ceil(len(view.unlabeled) / plugin.config.batch_size)
        count = min(args.batches or total, total)
        # The first optimizer of a process makes torch import its compiler: seconds.
        trained(training, WARM)
        timed(f"epoch, by {count} of {total} batches", lambda: trained(training, count), total / count)
        timed("picking", lambda: top_k(-training.scores(view.candidates), view.candidates, args.budget, view.rng))
        if training._kept is not None:
            samplers.MOST_KEPT = 0
            del training._kept
            timed("epoch, step by step", lambda: trained(training, count), total / count)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {"n": 50_000, "size": 32, "labeled": 5_000, "budget": 2_500, "threads": 2, "batches": 0}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=NUMBER", help="a key of the acquisition")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    # For the processes of single methods.
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.method:
        measure(args)
        return
    print(f"N = {args.n:,} of {args.size} pixels, {args.labeled:,} labelled, {args.threads} threads", flush=True)
    limits = {f"{library}_NUM_THREADS": str(args.threads) for library in ("OMP", "OPENBLAS", "MKL")}
    for method in args.methods:
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--method", method], env={**os.environ, **limits}, check=True)


if __name__ == "__main__":
    main()
