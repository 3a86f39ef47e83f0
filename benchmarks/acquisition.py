"""Seconds and memory of the baseline acquisitions, beside scikit-activeml or scikit-learn.

Run by hand (minutes): python benchmarks/acquisition.py [--n 50000 --dim 512 --budgets 100 1000 --repeats 3]
                       python benchmarks/acquisition.py --agree --n 1500 --dim 32 --budgets 50

Every measurement is a process of its own, so that the peak of its resident memory is its own; ours and the
reference take turns. Seconds are medians and exclude imports and the loading of the arrays; on a machine that does other work too,
--processor counts the processor's, with OMP_NUM_THREADS=1. "Same picks" compares with a plain loop in double precision (k-center, cdal)
or a full sort (scores); k-means++ and badge have none, being random, nor have the rules for few labels: those that a peer has too,
--agree compares with it (acquisition_agreement.py). What scikit-activeml does differently is said in acquisition_peers.py; its MaxHerding
and ProbCover hold all pairs (4 N² bytes and more), so measure them with --n 5000 or so.
"""

from __future__ import annotations

import argparse
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
from acquisition_agreement import agreement
from acquisition_peers import SCORES, matrix_head, reference, reference_name
from numpy.typing import NDArray

NUM_LABELED = 100
# Their picks are compared with plain loops in tests/plugins/low_budget, on small pools.
# "max_herding_anew" computes all gains again for every pick, by blocks.
# "dcom_with_radius" finds the radius of labelled samples too; "bait_beyond" has twice the dimensions that are exact without being asked.
LOW_BUDGET = (
    "max_herding", "max_herding_anew", "u_herding", "prob_cover", "dcom", "dcom_with_radius", "power_margin", "clue", "drop_query", "bait",
    "bait_beyond",
)  # fmt: skip
METHODS = ("k_center_greedy", "kmeans_plus_plus", *SCORES, "badge", "cdal", "typiclust", *LOW_BUDGET)
RANDOM = ("kmeans_plus_plus", "badge", "typiclust", *LOW_BUDGET)


# ------------------------------------------------------------------------------------------------------- data


def make_features(kind: str, n: int, dim: int, classes: int) -> NDArray[np.float32]:
    """network: as after a ReLU, classes in 16 directions; tight: 20 narrow clusters a class; gauss: none."""
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


def make_data(folder: Path, kind: str, n: int, dim: int, classes: int) -> None:
    rng = np.random.default_rng(1)
    np.save(folder / "features.npy", make_features(kind, n, dim, classes))
    np.save(folder / "probs.npy", rng.dirichlet(np.full(classes, 0.3), size=n))
    np.save(folder / "labeled.npy", rng.permutation(n)[:NUM_LABELED])


# ---------------------------------------------------------------------------------- what is measured, by name


def ours(method: str, data: dict[str, NDArray], budget: int) -> Callable[[], NDArray]:
    from usb_active.plugins.baselines import functional as F

    rng = np.random.default_rng(0)
    features, labeled, candidates = data["features"], data["labeled"], data["candidates"]
    if method == "k_center_greedy":
        return lambda: F.k_center_greedy(features, labeled, budget, rng=rng)
    if method == "kmeans_plus_plus":
        return lambda: F.kmeans_plus_plus(features, budget, rng)
    if method == "badge":
        from usb_active.plugins.baselines.badge import badge

        return lambda: badge(features, data["probs"], budget, rng, candidates=candidates)
    if method == "cdal":
        from usb_active.plugins.baselines.cdal import cdal

        return lambda: cdal(data["probs"], labeled, budget, rng)
    if method == "typiclust":
        from usb_active.plugins.as3l.functional import typiclust

        return lambda: typiclust(features, budget, labeled=labeled, candidates=candidates, rng=rng)
    if method in LOW_BUDGET:
        return low_budget(method, data, budget)
    sign = -1 if method == "margin" else 1
    return lambda: F.top_k(sign * getattr(F, method)(data["probs"])[candidates], candidates, budget, rng)


def low_budget(method: str, data: dict[str, NDArray], budget: int) -> Callable[[], NDArray]:
    from usb_active.plugins.low_budget import functional as F

    features, probs, labeled, candidates = (data[name] for name in ("features", "probs", "labeled", "candidates"))
    rng = np.random.default_rng(0)
    classes = probs.shape[1]
    labels = probs[labeled].argmax(axis=1)
    head = matrix_head(features.shape[1], classes)
    calls = {
        "power_margin": lambda: F.power_margin(probs, budget, rng, candidates=candidates),
        # As many dimensions as are exact without being told to: 128 with 10 classes.
        "bait": lambda: F.bait(features, probs, labeled, budget, rng, projection=max(1, 1280 // classes)),
        "bait_beyond": lambda: F.bait(features, probs, labeled, budget, rng, projection=max(1, 2560 // classes)),
        "clue": lambda: F.clue(features, probs, budget, rng, candidates=candidates),
        "drop_query": lambda: F.drop_query(features, lambda x: (x @ head).argmax(axis=1), budget, rng, candidates=candidates).idx,
        "dcom": lambda: F.dcom(features, probs, labeled, labels, budget, rng, delta=0.5).idx,
        "dcom_with_radius": lambda: F.dcom(
            features, probs, labeled, labels, budget, rng, delta=F.purity_radius(features, classes, rng)
        ).idx,
        "prob_cover": lambda: F.prob_cover(features, labeled, budget, rng, delta=F.purity_radius(features, classes, rng)).idx,
        "max_herding": lambda: F.max_herding(features, labeled, budget, rng),
        "max_herding_anew": lambda: herding_anew(features, labeled, candidates, budget),
        "u_herding": lambda: F.u_herding(features, probs, labeled, budget, rng),
    }
    return calls[method]


def herding_anew(features: NDArray, labeled: NDArray, candidates: NDArray, budget: int) -> NDArray:
    rows = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    kernel = lambda idx: np.exp(2 * (rows @ rows[idx].T) - 2)  # noqa: E731 — called often
    covered, picks = kernel(labeled).max(axis=1), []
    for _ in range(budget):
        blocks = (candidates[at : at + 1024] for at in range(0, len(candidates), 1024))
        gains = np.concatenate([np.maximum(kernel(idx) - covered[:, None], 0).sum(axis=0, dtype=np.float64) for idx in blocks])
        picks.append(candidates[gains.argmax()])
        covered = np.maximum(covered, kernel(picks[-1:])[:, 0])
    return np.array(picks)


def plain(method: str, data: dict[str, NDArray], budget: int) -> Callable[[], NDArray]:
    if method == "k_center_greedy":
        return lambda: plain_k_center(data["features"].astype(np.float64), data["labeled"], budget)
    if method == "cdal":
        return lambda: plain_cdal(np.maximum(data["probs"], 2.0**-23), data["labeled"], budget)
    candidates = data["candidates"]
    scores = plain_scores(method, data["probs"][candidates])
    return lambda: candidates[np.argsort(-scores, kind="stable")[:budget]]


def plain_k_center(rows: NDArray[np.float64], labeled: NDArray, budget: int) -> NDArray:
    nearest, centres = np.full(len(rows), np.inf), list(labeled)
    for step in range(len(labeled) + budget):
        if step == len(centres):
            centres.append(nearest.argmax())
        diff = rows - rows[centres[step]]
        np.minimum(nearest, np.einsum("nd,nd->n", diff, diff), out=nearest)
        nearest[centres[step]] = -1.0
    return np.array(centres[len(labeled) :])


def plain_cdal(probs: NDArray[np.float64], labeled: NDArray, budget: int) -> NDArray:
    nearest, centres, logs = np.full(len(probs), np.inf), list(labeled), np.log(probs)
    for step in range(len(labeled) + budget):
        if step == len(centres):
            centres.append(nearest.argmax())
        distances = 0.5 * ((probs - probs[centres[step]]) * (logs - logs[centres[step]])).sum(axis=1)
        np.minimum(nearest, distances, out=nearest)
        nearest[centres[step]] = -1.0
    return np.array(centres[len(labeled) :])


def plain_scores(method: str, probs: NDArray[np.float64]) -> NDArray[np.float64]:
    if method == "entropy":
        return -(probs * np.log(np.maximum(probs, 1e-300))).sum(axis=1)
    ordered = np.sort(probs, axis=1)
    return ordered[:, -2] - ordered[:, -1] if method == "margin" else 1 - ordered[:, -1]


# ------------------------------------------------------------------------------------------------ measurement


def load(folder: Path) -> dict[str, NDArray]:
    data = {name: np.load(folder / f"{name}.npy") for name in ("features", "probs", "labeled")}
    data["candidates"] = np.setdiff1d(np.arange(len(data["features"])), data["labeled"])
    return data


def measure_here(side: str, method: str, budget: int, folder: Path, processor: bool) -> dict:
    """In the child: one call after a small one, which loads libraries and starts threads."""
    make = {"ours": ours, "reference": reference, "plain": plain}[side]
    data = load(folder)
    head = {name: values[:400] for name, values in data.items() if name in ("features", "probs")}
    make(method, head | {"labeled": np.arange(5), "candidates": np.arange(5, 400)}, 5)()
    call = make(method, data, budget)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock = time.process_time if processor else time.perf_counter
    start = clock()
    picks = call()
    seconds = clock() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    # Kilobytes, but bytes on macOS.
    megabytes = peak / (2**20 if sys.platform == "darwin" else 2**10)
    return {"seconds": seconds, "megabytes": megabytes, "picks": np.asarray(picks).tolist()}


def measure(side: str, method: str, budget: int, folder: Path, processor: bool = False) -> dict:
    command = [sys.executable, __file__, "--child", side, method, str(budget), str(folder), "processor" if processor else "wall"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def make_data_apart(folder: Path, args: argparse.Namespace) -> None:
    """In a child, like all that needs memory: a process inherits its parent's peak."""
    command = [
        sys.executable,
        __file__,
        "--data",
        str(folder),
        args.kind,
        *map(str, (args.n, args.dim, args.classes)),
    ]
    subprocess.run(command, check=True)


def measure_both(method: str, budget: int, folder: Path, args: argparse.Namespace) -> tuple[dict, dict | None]:
    mine, other = [], []
    for repeat in range(args.repeats):
        mine.append(measure("ours", method, budget, folder, args.processor))
        if repeat < args.reference_repeats and reference_name(method):
            other.append(measure("reference", method, budget, folder, args.processor))
    return middle(mine), middle(other) if other else None


def middle(results: list[dict]) -> dict:
    return sorted(results, key=lambda result: result["seconds"])[len(results) // 2]


def plain_picks(method: str, folder: Path, args: argparse.Namespace) -> list[int] | None:
    """For the largest budget; those of a smaller one are its head."""
    if method in RANDOM or (method in ("k_center_greedy", "cdal") and args.no_check):
        return None
    return measure("plain", method, max(args.budgets), folder)["picks"]


# ------------------------------------------------------------------------------------------------------ table


def row(method: str, budget: int, mine: dict, other: dict | None, expected: list[int] | None) -> str:
    cells = [method, str(budget), f"{mine['seconds']:.3f}", f"{mine['megabytes']:.0f}"]
    if other is None:
        cells += [reference_name(method) or "not installed", "–", "–", "–"]
    else:
        ratio = other["seconds"] / mine["seconds"]
        cells += [
            str(reference_name(method)),
            f"{other['seconds']:.3f}",
            f"{other['megabytes']:.0f}",
            f"{ratio:.1f}",
        ]
    same = "–" if expected is None else "yes" if mine["picks"] == expected[:budget] else "NO"
    return "| " + " | ".join([*cells, same]) + " |"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--budgets", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--reference-repeats", type=int, default=1, help="0 leaves the slow side out")
    parser.add_argument("--kind", choices=["network", "tight", "gauss"], default="network", help="of features")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--processor", action="store_true", help="its seconds in place of the clock's")
    parser.add_argument("--agree", action="store_true", help="in place of time: are the picks the peer's, or as good?")
    parser.add_argument("--seeds", type=int, default=10, help="with --agree")
    parser.add_argument("--no-check", action="store_true", help="leave out the plain loop of k-center (minutes)")
    return parser.parse_args()


def agree(args: argparse.Namespace) -> None:
    columns = "method | budget | seeds | same picks | measure of the picks | ours | peer | ours / peer | within noise"
    print(f"| {columns} |\n|{'---|' * 9}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        make_data_apart(Path(name), args)
        data = load(Path(name))
        for budget in args.budgets:
            for cells in agreement(data, budget, args.seeds):
                print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    args = parse()
    sizes = f"N={args.n} D={args.dim} C={args.classes} L={NUM_LABELED}"
    print(f"{sizes}, features: {args.kind}, CPUs: {os.cpu_count()}\n")
    if args.agree:
        agree(args)
        return
    columns = "method | budget | s | peak extra MB | reference | its s | its MB | ratio | same picks as plain"
    print(f"| {columns} |\n|{'---|' * 9}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data_apart(folder, args)
        for method in args.methods:
            expected = plain_picks(method, folder, args)
            for budget in args.budgets:
                mine, other = measure_both(method, budget, folder, args)
                print(row(method, budget, mine, other, expected), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        side, method, budget, folder, clock = sys.argv[2:]
        print(json.dumps(measure_here(side, method, int(budget), Path(folder), clock == "processor")))
    elif sys.argv[1:2] == ["--data"]:
        folder, kind, *sizes = sys.argv[2:]
        make_data(Path(folder), kind, *map(int, sizes))
    else:
        main()
