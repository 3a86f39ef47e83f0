"""Seconds and peak memory of AS3L and TypiClust, stage by stage, beside one plain k-means of faiss.

Run by hand: python benchmarks/as3l_speed.py [--n 50000 --dim 512 --budget 40 --classes 10 --threads 2 --repeats 1]
A million rows: --n 1000000 --dim 128

Every stage is a process of its own, so that the peak of its resident memory is its own; the stages take turns. Seconds are
medians and exclude imports and loading; those of the processor say more on a busy machine, with one thread. "kmeans" is faiss's on
all rows, 25 iterations, as many clusters as the budget, and the unit of the others; "neighbours" is one exact search of the 20
nearest among N / budget rows, for each of `budget` parts: what TypiClust cannot do without.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

STAGES = ("kmeans", "fine_tune", "select", "prior", "neighbours", "typiclust")
OF_AS3L = ("fine_tune", "select", "prior")


def make_features(n: int, dim: int, classes: int) -> NDArray[np.float32]:
    """As after a ReLU: classes in 16 directions, and noise."""
    rng = np.random.default_rng(0)
    centres = 3 * rng.standard_normal((classes, 16), dtype=np.float32)
    inner = centres[rng.integers(classes, size=n)] + rng.standard_normal((n, 16), dtype=np.float32)
    mixing = rng.standard_normal((16, dim), dtype=np.float32)
    features = inner @ mixing
    for start in range(0, n, 65536):
        block = features[start : start + 65536]
        block += 0.3 * rng.standard_normal(block.shape, dtype=np.float32)
    return np.maximum(features, 0, out=features)


def stage(name: str, features: NDArray, budget: int, classes: int) -> Callable[[], object]:
    """What is measured."""
    import faiss
    from usb_active.plugins.as3l import functional as F

    n, dim = features.shape
    rng = np.random.default_rng(0)
    if name == "kmeans":
        limits = {"min_points_per_centroid": 1, "max_points_per_centroid": n}
        return lambda: faiss.Kmeans(dim, budget, niter=25, seed=1, **limits).train(features)
    if name == "neighbours":
        parts = np.array_split(features, budget)
        return lambda: [faiss.knn(part, part, 21) for part in parts]
    if name == "prior":
        labeled, labels = rng.permutation(n)[:budget], np.arange(budget) % classes
        return lambda: F.prior(features, labeled, labels, classes, rng=rng)
    return lambda: getattr(F, name)(features, budget, rng=rng)


def measure(args: argparse.Namespace) -> None:
    """Print seconds, the processor's seconds and peak memory in bytes of one stage, as JSON."""
    import faiss

    faiss.omp_set_num_threads(args.threads)
    features = np.load(args.features)
    run = stage(args.stage, features, args.budget, args.classes)
    started, processor = time.perf_counter(), time.process_time()
    run()
    print(json.dumps([time.perf_counter() - started, time.process_time() - processor, peak_memory()]))


def peak_memory() -> int:
    """Bytes, of this program alone: getrusage's number includes what the parent had when it made the process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def in_process(args: argparse.Namespace, name: str, path: Path) -> tuple[float, float, int]:
    """(seconds, processor's seconds, bytes) of a stage in a process of its own."""
    keys = {"features": path, "stage": name, **{key: getattr(args, key) for key in ("budget", "classes", "threads")}}
    command = [sys.executable, __file__, *(part for key, value in keys.items() for part in (f"--{key}", str(value)))]
    limits = {f"{library}_NUM_THREADS": str(args.threads) for library in ("OMP", "OPENBLAS", "MKL")}
    done = subprocess.run(command, env={**os.environ, **limits}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return tuple(json.loads(done.stdout))


def table(args: argparse.Namespace) -> None:
    """Measure all stages, and print them; wanted of as3l at 50,000 x 512 is less than 90 s on two cores."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        np.save(path, make_features(args.n, args.dim, args.classes))
        found = {name: [] for name in args.stages}
        for _ in range(args.repeats):
            for name in args.stages:
                found[name].append(in_process(args, name, path))
    size = 4 * args.n * args.dim / 1e9
    shape = f"N = {args.n:,}, D = {args.dim}, {size:.2f} GB of features"
    print(f"{shape}, budget {args.budget}, {args.classes} classes, {args.threads} threads")
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    if set(OF_AS3L) <= set(medians):
        parts = list(zip(*(medians[name] for name in OF_AS3L), strict=True))
        medians["as3l"] = [sum(parts[0]), sum(parts[1]), max(parts[2])]
    unit = medians["kmeans"][1] if "kmeans" in medians else float("nan")
    for name, (seconds, processor, peak) in medians.items():
        print(f"{name:12s} {seconds:8.1f} s, processor {processor:8.1f} s = {processor / unit:6.2f} k-means, peak {peak / 1e9:5.2f} GB")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("n", 50_000), ("dim", 512), ("budget", 40), ("classes", 10), ("threads", 2), ("repeats", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    # For the processes of single stages.
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--features", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    measure(given) if given.stage else table(given)
