"""Seconds and memory of graphs, label propagation and joint label propagation (jLP); the last two also beside scipy.

Run by hand: python benchmarks/graph.py growth [--sizes 10000 50000 200000 --kinds smooth --modes mutual --budgets 100 1000]
             python benchmarks/graph.py jlp [--sizes 50000 --kinds smooth clustered manifold --modes mutual sum --budgets 100 1000]
             python benchmarks/graph.py spread [--sizes 5000 50000 --kinds smooth --modes mutual --repeats 5]

growth: neighbours (exact up to --exact-up-to, and approximate with its recall), affinity, propagation of 10 classes, jLP.
jlp: beside one scipy conjugate gradient from scratch for every pick (tolerance 1e-6), in the same process, in turns. Of its
picks at most --reference-picks are solved, evenly spread along ours, and the seconds extrapolated: "agree" counts the solved
ones whose minimum is our pick.
spread: `diffuse` of one class and of ten beside scipy's conjugate gradient, column by column, of the same W, alpha and tolerance, in the
same process, in turns: medians of both clocks. Both begin with the affinity: ours checks it and finds its components, both normalise it.

Every measurement is a process of its own, so that the peak of its resident memory (imports and arrays included) is its own.
Loops are compiled by a small run before. On a machine that does other work too, only the ratios mean anything;
NUMBA_NUM_THREADS=1 compares one core with one core.
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
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

K = 50
ALPHA = 0.99
NUM_LABELED = 100
KINDS = ("smooth", "clustered", "manifold")
# A solution from scratch is right to about its tolerance: within this, relative, two values are one.
AGREE = 2e-6


def make_features(kind: str, n: int, dim: int) -> NDArray[np.float32]:
    """smooth: ten overlapping classes, as after a ReLU; clustered: 200 tight clusters; manifold: a torus of dimension two."""
    rng = np.random.default_rng(0)
    if kind == "clustered":
        centres = 5 * rng.standard_normal((200, dim), np.float32)
        return centres[rng.integers(200, size=n)] + 0.3 * rng.standard_normal((n, dim), np.float32)
    if kind == "manifold":
        angles = rng.uniform(0, 2 * np.pi, (n, 2))
        return np.cos(angles @ rng.integers(-3, 4, (2, dim)) + rng.uniform(0, 2 * np.pi, dim)).astype(np.float32)
    inner = 3 * rng.standard_normal((10, 16))[rng.integers(10, size=n)] + 1.5 * rng.standard_normal((n, 16))
    noise = 0.3 * rng.standard_normal((n, dim))
    return np.maximum(inner @ rng.standard_normal((16, dim)) + noise, 0).astype(np.float32) + np.float32(1e-3)


# ------------------------------------------------------------------------------------------- measured in a child


def seconds_of(call) -> tuple[float, object]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def child_knn(folder: Path, method: str) -> dict:
    from usb_active.numerics.neighbors import knn

    features = np.load(folder / "features.npy")
    seconds, (_, index) = seconds_of(lambda: knn(features, K, method=method))
    found = {"seconds": seconds}
    if method == "ivf":
        found["recall"] = recall(features, index)
    return found


def recall(features: NDArray, index: NDArray, sample: int = 500) -> float:
    """Share of the true neighbours that were found, for some rows."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    rows = np.linspace(0, len(features) - 1, sample).astype(int)
    hits = 0
    for row in rows:
        cosine = unit @ unit[row]
        cosine[row] = -np.inf
        hits += len(np.intersect1d(np.argpartition(-cosine, K)[:K], index[row]))
    return hits / (sample * K)


def child_affinity(folder: Path, mode: str) -> dict:
    from usb_active.numerics.neighbors import affinity

    features = np.load(folder / "features.npy")
    seconds, graph = seconds_of(lambda: affinity(features, K, mode=mode))
    sp.save_npz(folder / f"{mode}.npz", graph, compressed=False)
    return {"seconds": seconds, "edges": int(graph.nnz), "components": int(sp.csgraph.connected_components(graph)[0])}


def load(folder: Path, mode: str) -> tuple[sp.csr_array, NDArray]:
    graph = sp.load_npz(folder / f"{mode}.npz")
    return graph, np.random.default_rng(0).permutation(graph.shape[0])[:NUM_LABELED]


def child_propagate(folder: Path, mode: str) -> dict:
    from usb_active.plugins.jlp.functional import propagate

    graph, labeled = load(folder, mode)
    labels = np.arange(NUM_LABELED) % 10
    propagate(small_graph(), [0, 1], [0, 1], 10)
    return {"seconds": seconds_of(lambda: propagate(graph, labeled, labels, 10))[0]}


def child_jlp(folder: Path, mode: str, budget: str, reference_picks: str) -> dict:
    from usb_active.plugins.jlp.functional import joint_label_propagation

    graph, labeled = load(folder, mode)
    # A component of each size: all loops get compiled.
    joint_label_propagation(sp.block_diag([small_graph(), small_graph(3000)]).tocsr(), [0, 1], 50)
    seconds, picks = seconds_of(lambda: joint_label_propagation(graph, labeled, int(budget)))
    found = {"seconds": seconds, "megabytes": peak_megabytes()}
    if int(reference_picks):
        found |= reference(graph, labeled, picks, int(reference_picks))
        found["again"] = seconds_of(lambda: joint_label_propagation(graph, labeled, int(budget)))[0]
    return found


def small_graph(n: int = 300) -> sp.csr_array:
    from usb_active.numerics.neighbors import affinity

    return affinity(np.random.default_rng(0).standard_normal((n, 8)), K, mode="sum")


def reference(graph: sp.csr_array, labeled: NDArray, picks: NDArray, count: int) -> dict:
    """Solve from scratch for some of the picks, given all before; seconds for all of them by proportion."""
    from usb_active.numerics.neighbors import normalize

    start = time.perf_counter()
    matrix = sp.eye_array(graph.shape[0], format="csr") - ALPHA * normalize(graph)
    setup = time.perf_counter() - start
    at = np.unique(np.linspace(0, len(picks) - 1, min(count, len(picks))).astype(int))
    total, agree = 0.0, 0
    for step in at:
        sources = np.zeros(len(graph.indptr) - 1)
        sources[labeled] = sources[picks[:step]] = 1
        start = time.perf_counter()
        h = sp.linalg.cg(matrix, sources, rtol=1e-6)[0]
        values = np.where(sources > 0, np.inf, h)
        lowest = values.min()
        total += time.perf_counter() - start
        agree += bool(values[picks[step]] <= lowest + AGREE * abs(lowest) or values[picks[step]] == 0)
    return {"reference": setup + total * len(picks) / len(at), "solved": len(at), "agree": agree}


def child_spread(folder: Path, mode: str, classes: str, repeats: str) -> dict:
    """Ours and scipy's, in turns; the largest residual of each relative to its column, and their largest difference."""
    from usb_active.numerics.neighbors import normalize
    from usb_active.numerics.propagation import diffuse, label_matrix

    graph, labeled = load(folder, mode)
    size = graph.shape[0]
    sources = label_matrix(size, labeled, np.arange(NUM_LABELED) % int(classes), int(classes))

    def scipys() -> NDArray:
        matrix = sp.eye_array(size, format="csr") - ALPHA * normalize(graph)
        return np.stack([sp.linalg.cg(matrix, column, rtol=1e-6)[0] for column in (1 - ALPHA) * sources.T], axis=1)

    calls = {"ours": lambda: diffuse(graph, sources, ALPHA, 1e-6), "scipy": scipys}
    results = {name: call() for name, call in calls.items()}
    found = {f"{name} {clock}": [] for name in calls for clock in ("s", "processor")}
    for _ in range(int(repeats)):
        for name, call in calls.items():
            processor = time.process_time()
            found[f"{name} s"].append(seconds_of(call)[0])
            found[f"{name} processor"].append(time.process_time() - processor)
    matrix = sp.eye_array(size, format="csr") - ALPHA * normalize(graph)
    norms = (1 - ALPHA) * np.linalg.norm(sources, axis=0)
    residuals = {
        f"{name} residual": float((np.linalg.norm((1 - ALPHA) * sources - matrix @ h, axis=0) / norms).max()) for name, h in results.items()
    }
    return {name: float(np.median(values)) for name, values in found.items()} | residuals


def peak_megabytes() -> float:
    # Kilobytes, but bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


CHILDREN = {"knn": child_knn, "affinity": child_affinity, "propagate": child_propagate, "jlp": child_jlp, "spread": child_spread}


def measure(name: str, folder: Path, *arguments: object) -> dict:
    command = [sys.executable, __file__, "--child", name, str(folder), *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def make_data(folder: Path, kind: str, n: int, dim: int) -> None:
    """In a child: a process inherits its parent's peak of memory."""
    subprocess.run([sys.executable, __file__, "--data", str(folder), kind, str(n), str(dim)], check=True)


# ------------------------------------------------------------------------------------------------------ tables


def print_row(*cells: object) -> None:
    print("| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells) + " |", flush=True)


def print_head(*columns: str) -> None:
    print_row(*columns)
    print("|" + "---|" * len(columns), flush=True)


def pools(args: argparse.Namespace) -> Iterator[tuple[str, int, Path]]:
    """Every kind of features in every size, with a folder that has them while it is looked at."""
    for kind, n in product(args.kinds, args.sizes):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_data(folder, kind, n, args.dim)
            yield kind, n, folder


def graphs(args: argparse.Namespace) -> Iterator[tuple[str, int, Path, str]]:
    """Every graph of these, made."""
    for kind, n, folder in pools(args):
        for mode in args.modes:
            measure("affinity", folder, mode)
            yield kind, n, folder, mode


def growth(args: argparse.Namespace) -> None:
    print_head("kind", "N", "what", "s", "peak MB", "also")
    for kind, n, folder in pools(args):
        for method in ("exact", "ivf"):
            if method == "ivf" or n <= args.exact_up_to:
                found = measure("knn", folder, method)
                print_row(kind, n, f"knn {method}", found["seconds"], found["megabytes"], f"recall {found.get('recall', 1):.3f}")
        for mode in args.modes:
            found = measure("affinity", folder, mode)
            also = f"{found['edges']} entries, {found['components']} components"
            print_row(kind, n, f"affinity {mode}", found["seconds"], found["megabytes"], also)
            found = measure("propagate", folder, mode)
            print_row(kind, n, f"propagate {mode}, C=10", found["seconds"], found["megabytes"], "")
            for budget in args.budgets:
                found = measure("jlp", folder, mode, budget, 0)
                print_row(kind, n, f"jLP {mode}, b={budget}", found["seconds"], found["megabytes"], "")


def compare(args: argparse.Namespace) -> None:
    print_head("kind", "N", "mode", "b", "s", "again s", "peak MB", "plain loop s", "ratio", "solved", "agree")
    for kind, n, folder, mode in graphs(args):
        for budget in args.budgets:
            found = measure("jlp", folder, mode, budget, args.reference_picks)
            mine = (found["seconds"] + found["again"]) / 2
            print_row(
                kind, n, mode, budget, found["seconds"], found["again"], found["megabytes"],
                found["reference"], found["reference"] / mine, found["solved"], found["agree"],
            )  # fmt: skip


def spread(args: argparse.Namespace) -> None:
    clocks = ("s", "its s", "ratio", "processor s", "its processor s", "ratio", "residual", "its residual")
    print_head("kind", "N", "mode", "C", *clocks)
    for kind, n, folder, mode in graphs(args):
        for classes in (1, 10):
            found = measure("spread", folder, mode, classes, args.repeats)
            cells = []
            for clock in ("s", "processor"):
                mine, other = found[f"ours {clock}"], found[f"scipy {clock}"]
                cells += [mine, other, other / mine]
            print_row(kind, n, mode, classes, *cells, found["ours residual"], found["scipy residual"])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["growth", "jlp", "spread"])
    parser.add_argument("--sizes", type=int, nargs="+", help="default: 10000 50000 200000 (growth), 50000 (jlp), 5000 50000 (spread)")
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--kinds", choices=KINDS, nargs="+", help="of features; default: smooth, all (jlp)")
    parser.add_argument("--modes", nargs="+", help="of graphs; default: mutual, mutual sum (jlp)")
    parser.add_argument("--budgets", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--reference-picks", type=int, default=100, help="solved by the plain loop, at most")
    parser.add_argument("--repeats", type=int, default=5, help="of spread: turns")
    parser.add_argument("--exact-up-to", type=int, default=50_000, help="N for the exact neighbours in growth")
    args = parser.parse_args()
    args.sizes = args.sizes or {"growth": [10_000, 50_000, 200_000], "jlp": [50_000], "spread": [5_000, 50_000]}[args.what]
    args.kinds = args.kinds or (KINDS if args.what == "jlp" else ["smooth"])
    args.modes = args.modes or (["mutual", "sum"] if args.what == "jlp" else ["mutual"])
    return args


def main() -> None:
    args = parse()
    threads = os.environ.get("NUMBA_NUM_THREADS", "all")
    print(f"D={args.dim} k={K} alpha={ALPHA} L={NUM_LABELED}, CPUs: {os.cpu_count()}, threads: {threads}, load: {os.getloadavg()[0]:.1f}\n")
    {"growth": growth, "jlp": compare, "spread": spread}[args.what](args)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        name, folder, *arguments = sys.argv[2:]
        found = CHILDREN[name](Path(folder), *arguments)
        print(json.dumps({"megabytes": peak_megabytes()} | found))
    elif sys.argv[1:2] == ["--data"]:
        folder, kind, n, dim = sys.argv[2:]
        np.save(Path(folder) / "features.npy", make_features(kind, int(n), int(dim)))
    else:
        main()
