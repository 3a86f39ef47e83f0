"""Seconds and memory of the baseline acquisitions, beside scikit-activeml and scikit-learn where they have the same.

Run by hand: python benchmarks/acquisition.py [--n 50000 --dim 512 --classes 10 --budgets 100 1000 --repeats 3]

Every measurement is a process of its own, so that the peak of its resident memory is its own, and ours and the
reference take turns. Seconds are medians and exclude imports and the loading of the arrays. "Same picks" compares
with a plain loop in double precision (k-center) or a full sort (scores); k-means++ is random and has none.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NUM_LABELED = 100
SCORES = {"entropy": "entropy", "margin": "margin_sampling", "least_confidence": "least_confident"}
METHODS = ("k_center_greedy", "kmeans_plus_plus", *SCORES)


# ------------------------------------------------------------------------------------------------------------- data


def make_features(kind: str, n: int, dim: int, classes: int) -> NDArray[np.float32]:
    """network: as after the last ReLU, classes in 16 directions; tight: 20 narrow clusters a class; gauss: none."""
    rng = np.random.default_rng(0)
    if kind == "gauss":
        return rng.standard_normal((n, dim), dtype=np.float32)
    if kind == "tight":
        centres = 5 * rng.standard_normal((20 * classes, dim), dtype=np.float32)
        noise = 0.3 * rng.standard_normal((n, dim), dtype=np.float32)
        return centres[rng.integers(len(centres), size=n)] + noise
    centres = 3 * rng.standard_normal((classes, 16), dtype=np.float32)
    inner = centres[rng.integers(classes, size=n)] + rng.standard_normal((n, 16), dtype=np.float32)
    noise = 0.3 * rng.standard_normal((n, dim), dtype=np.float32)
    return np.maximum(inner @ rng.standard_normal((16, dim), dtype=np.float32) + noise, 0)


def make_data(folder: Path, args: argparse.Namespace) -> None:
    rng = np.random.default_rng(1)
    np.save(folder / "features.npy", make_features(args.kind, args.n, args.dim, args.classes))
    np.save(folder / "probs.npy", rng.dirichlet(np.full(args.classes, 0.3), size=args.n))
    np.save(folder / "labeled.npy", rng.permutation(args.n)[:NUM_LABELED])


# ---------------------------------------------------------------------------------------- what is measured, by name


def ours(method: str, data: dict[str, NDArray], budget: int) -> Callable[[], NDArray]:
    from usb_active.plugins.baselines import functional as F

    rng = np.random.default_rng(0)
    features, labeled, candidates = data["features"], data["labeled"], data["candidates"]
    if method == "k_center_greedy":
        return lambda: F.k_center_greedy(features, labeled, budget, rng=rng)
    if method == "kmeans_plus_plus":
        return lambda: F.kmeans_plus_plus(features, budget, rng)
    sign = -1 if method == "margin" else 1
    return lambda: F.top_k(sign * getattr(F, method)(data["probs"])[candidates], candidates, budget, rng)


def reference(method: str, data: dict[str, NDArray], budget: int) -> Callable[[], NDArray]:
    features, candidates = data["features"], data["candidates"]
    if method == "kmeans_plus_plus":
        from sklearn.cluster import kmeans_plusplus

        # One trial a step: scikit-learn's default of several is another, greedy, algorithm.
        return lambda: kmeans_plusplus(features, budget, random_state=0, n_local_trials=1)[1]
    from skactiveml.pool import CoreSet, uncertainty_scores
    from skactiveml.utils import simple_batch

    if method == "k_center_greedy":
        labels = np.full(len(features), np.nan)
        labels[data["labeled"]] = 0
        return lambda: CoreSet(random_state=0).query(features, labels, batch_size=budget)
    name, probs = SCORES[method], data["probs"]
    return lambda: candidates[
        simple_batch(uncertainty_scores(probs[candidates], method=name), random_state=0, batch_size=budget)
    ]


def reference_name(method: str) -> str | None:
    """The installed package that has the same method."""
    package, module = ("scikit-activeml", "skactiveml")
    if method == "kmeans_plus_plus":
        package, module = ("scikit-learn", "sklearn")
    if importlib.util.find_spec(module) is None:
        return None
    return f"{package} {importlib.metadata.version(package)}"


def plain_k_center(data: dict[str, NDArray], budget: int) -> list[int]:
    """The loop of the paper in double precision; the picks of a smaller budget are its head."""
    rows = data["features"].astype(np.float64)
    nearest, picks = np.full(len(rows), np.inf), []
    for step in range(NUM_LABELED + budget):
        if step < NUM_LABELED:
            centre = data["labeled"][step]
        else:
            centre = int(nearest.argmax())
            picks.append(centre)
        diff = rows - rows[centre]
        np.minimum(nearest, np.einsum("nd,nd->n", diff, diff), out=nearest)
        nearest[centre] = -1.0
    return picks


def plain_scores(method: str, data: dict[str, NDArray]) -> NDArray[np.float64]:
    probs = data["probs"][data["candidates"]]
    if method == "entropy":
        return -(probs * np.log(np.maximum(probs, 1e-300))).sum(axis=1)
    ordered = np.sort(probs, axis=1)
    return ordered[:, -2] - ordered[:, -1] if method == "margin" else 1 - ordered[:, -1]


# ------------------------------------------------------------------------------------------------------ measurement


def load(folder: Path) -> dict[str, NDArray]:
    data = {name: np.load(folder / f"{name}.npy") for name in ("features", "probs", "labeled")}
    data["candidates"] = np.setdiff1d(np.arange(len(data["features"])), data["labeled"])
    return data


def measure_here(side: str, method: str, budget: int, folder: Path) -> dict:
    """In the child: one call after a small one, which loads libraries and starts threads."""
    make = ours if side == "ours" else reference
    data = load(folder)
    head = {name: values[:400] for name, values in data.items() if name in ("features", "probs")}
    make(method, head | {"labeled": np.arange(5), "candidates": np.arange(5, 400)}, 5)()
    call = make(method, data, budget)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    picks = call()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    # Kilobytes, but bytes on macOS.
    megabytes = peak / (2**20 if sys.platform == "darwin" else 2**10)
    return {"seconds": seconds, "megabytes": megabytes, "picks": np.asarray(picks).tolist()}


def measure(side: str, method: str, budget: int, folder: Path) -> dict:
    command = [sys.executable, __file__, "--child", side, method, str(budget), str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_both(method: str, budget: int, folder: Path, args: argparse.Namespace) -> tuple[dict, dict | None]:
    mine, other = [], []
    for repeat in range(args.repeats):
        mine.append(measure("ours", method, budget, folder))
        if repeat < args.reference_repeats and reference_name(method):
            other.append(measure("reference", method, budget, folder))
    return middle(mine), middle(other) if other else None


def middle(results: list[dict]) -> dict:
    return sorted(results, key=lambda result: result["seconds"])[len(results) // 2]


def same_picks(method: str, picks: list[int], data: dict[str, NDArray], plain: list[int] | None) -> str:
    if method == "kmeans_plus_plus" or (method == "k_center_greedy" and plain is None):
        return "–"
    if method == "k_center_greedy":
        return "yes" if picks == plain[: len(picks)] else "NO"
    candidates, scores = data["candidates"], plain_scores(method, data)
    return "yes" if picks == candidates[np.argsort(-scores, kind="stable")[: len(picks)]].tolist() else "NO"


# ------------------------------------------------------------------------------------------------------------ table


def row(method: str, budget: int, mine: dict, other: dict | None, same: str) -> str:
    cells = [method, str(budget), f"{mine['seconds']:.3f}", f"{mine['megabytes']:.0f}"]
    if other is None:
        cells += ["scikit-activeml is not installed", "–", "–", "–"]
    else:
        ratio = other["seconds"] / mine["seconds"]
        cells += [reference_name(method) or "", f"{other['seconds']:.3f}", f"{other['megabytes']:.0f}", f"{ratio:.1f}"]
    return "| " + " | ".join([*cells, same]) + " |"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--budgets", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--reference-repeats", type=int, default=1, help="of the slow side")
    parser.add_argument("--kind", choices=["network", "tight", "gauss"], default="network", help="of features")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--no-check", action="store_true", help="leave out the plain loop of k-center (minutes)")
    return parser.parse_args()


def main() -> None:
    args = parse()
    print(f"N={args.n} D={args.dim} C={args.classes} L={NUM_LABELED}, features: {args.kind}, CPUs: {os.cpu_count()}\n")
    columns = "method | budget | s | peak extra MB | reference | its s | its MB | ratio | same picks as plain"
    print(f"| {columns} |\n|{'---|' * 9}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder, args)
        data = load(folder)
        plain = None
        if "k_center_greedy" in args.methods and not args.no_check:
            plain = plain_k_center(data, max(args.budgets))
        for method in args.methods:
            for budget in args.budgets:
                mine, other = measure_both(method, budget, folder, args)
                print(row(method, budget, mine, other, same_picks(method, mine["picks"], data, plain)), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        side, method, budget, folder = sys.argv[2:]
        print(json.dumps(measure_here(side, method, int(budget), Path(folder))))
    else:
        main()
