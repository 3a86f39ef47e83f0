"""Seconds and memory of REVIVAL's selection by its parts, and of its graph network's training beside plain epochs over the whole graph.

Run by hand: python benchmarks/revival_speed.py [select|training] [--n 50000 --dim 512 --budget 100 --epochs 50]

select: neighbours apart, since another index than the exact one may take their place. The peak of resident memory includes imports and
the features themselves.
training: the same weights to begin with; "largest difference" is that of the losses of an epoch, relative. A plain epoch is one product
with the graph per layer, forward and backward, as in the method's text, on the same sparse kernel. In seconds of the processor: on a
machine that does other work too, those of the clock mean nothing (and with one thread: OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import scipy.sparse as sp
import torch
from acquisition import NUM_LABELED, make_features
from usb_active.plugins.revival import functional as F
from usb_active.plugins.revival import graph as graphs
from usb_active.plugins.revival.backends import aggregator
from usb_active.plugins.revival.propagator import initial_weights, train

from usb_active.numerics.arrays import unit_rows


class Watch:
    """Prints how long each step took, in seconds of the clock and of the processor, and what memory has peaked at."""

    def __init__(self) -> None:
        self.total = 0.0

    def __call__(self, name, call, counts: bool = True):
        clock, processor = time.perf_counter(), time.process_time()
        result = call()
        seconds = time.perf_counter() - clock
        self.total += seconds * counts
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name:32s} {seconds:8.2f} s {time.process_time() - processor:8.2f} CPU s  peak {peak:5.2f} GB", flush=True)
        return result


def data(args: argparse.Namespace):
    features = make_features("network", args.n, args.dim, args.classes)
    rng = np.random.default_rng(1)
    labeled = rng.permutation(args.n)[:NUM_LABELED]
    return features, labeled, rng.integers(args.classes, size=NUM_LABELED)


def made_graph(watch: Watch, features, k: int):
    """The graph of `neighbor_graph`, with the search for neighbours timed apart."""
    found = watch("neighbours", lambda: graphs.knn(features, k - 1), counts=False)
    kept, graphs.knn = graphs.knn, lambda *_, **__: found
    try:
        return watch("graph of them", lambda: F.neighbor_graph(features, k))
    finally:
        graphs.knn = kept


def time_select(args: argparse.Namespace, watch: Watch, features, rows, labeled, labels, matrix) -> None:
    rng, settings = np.random.default_rng(0), F.GcnSettings()
    weights = initial_weights(args.dim, settings.hidden, args.classes, rng)
    propagator = watch(f"training, {settings.epochs} epochs", lambda: train(matrix, rows, labeled, labels, weights, settings))
    probs = watch("virtual labels", propagator.probs)
    moved = watch("adversarial pushes", lambda: F.adversarial_divergence(propagator, rng=rng))
    candidates = np.delete(np.arange(args.n), labeled)
    count = F.num_preselected("auto", args.budget, args.n, len(candidates))
    for diversity in (False, True):
        watch(
            f"limitator, diversity: {diversity}",
            lambda diversity=diversity: F.limit(
                probs, moved[candidates], features, args.budget, candidates, count, diversity=diversity, rng=rng
            ),
        )
    print(f"all but data and neighbours: {watch.total:.1f} s, {torch.get_num_threads()} threads")


def plain_losses(matrix: sp.csr_array, features, labeled, labels, weights, settings) -> list[float]:
    """Epochs over the whole graph."""
    first, second = (weight.clone().requires_grad_() for weight in weights)
    x, aggregate = torch.as_tensor(features), aggregator(matrix)
    optimizer = torch.optim.Adam([{"params": [first], "weight_decay": settings.weight_decay}, {"params": [second]}], lr=settings.lr)
    losses = []
    for _ in range(settings.epochs):
        logits = aggregate(aggregate(x @ first).relu() @ second)[torch.as_tensor(labeled)]
        loss = torch.nn.functional.cross_entropy(logits, torch.as_tensor(labels), reduction="sum")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def time_training(args: argparse.Namespace, rows, labeled, labels, matrix) -> None:
    settings = F.GcnSettings(epochs=args.epochs)
    weights = initial_weights(args.dim, settings.hidden, args.classes, np.random.default_rng(0))
    near = graphs.reached(matrix, labeled)
    print(f"{len(near)} nodes within one step of a label, {len(graphs.reached(matrix, near))} within two, of {args.n}")
    ours, plain = [], []
    # The first optimizer of a process makes torch import its compiler: seconds.
    train(matrix, rows, labeled, labels, weights, F.GcnSettings(epochs=1))
    for _ in range(args.repeats):
        start = time.process_time()
        found = train(matrix, rows, labeled, labels, weights, settings)
        middle = time.process_time()
        expected = plain_losses(matrix, rows, labeled, labels, weights, settings)
        ours.append((middle - start) / args.epochs)
        plain.append((time.process_time() - middle) / args.epochs)
        print(f"an epoch {1e3 * ours[-1]:.1f} ms, with its share of what comes before; plain {1e3 * plain[-1]:.1f} ms", flush=True)
    difference = np.max(np.abs(np.array(found.losses) / expected - 1))
    print(f"{np.median(plain) / np.median(ours):.1f} times as fast; largest difference of a loss {difference:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["select", "training", "both"], default="both")
    for name, default in {"n": 50_000, "dim": 512, "classes": 10, "budget": 100, "k": 20, "epochs": 50, "repeats": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    watch = Watch()
    features, labeled, labels = watch("data", lambda: data(args), counts=False)
    graph = made_graph(watch, features, args.k)
    matrix = watch("convolution matrix", lambda: F.convolution_matrix(graph))
    rows = watch("unit features", lambda: unit_rows(features))
    if args.what != "training":
        time_select(args, watch, features, rows, labeled, labels, matrix)
    if args.what != "select":
        time_training(args, rows, labeled, labels, matrix)


if __name__ == "__main__":
    main()
