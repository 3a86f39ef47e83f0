"""The tables of docs/as3l.md: AS3L's selection and prior on digits, and FlexMatch trained with them.

    python benchmarks/as3l_table.py selection                          # no training: 20 seeds, some minutes
    python benchmarks/as3l_table.py trainings --root runs/as3l_table   # FlexMatch, five seeds, about two hours of one CPU core

`trainings` goes on where it stopped; with everything done it only writes the tables. For a seed all trainings start from one SimSiam
network. Analogues of the paper's tables: sampling (Table 4, Fig. 4), prior (Tables 3 and 5), sizes of the clusterings (Table 6).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from evidence import Cell, accuracies, run_cells, with_interval
from numpy.typing import NDArray

from usb_active.report.tables import table

LABELS = (10, 20, 40)
SEEDS = 20
Rng = np.random.Generator


# ------------------------------------------------------------------------------------------ selection and prior
def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The pool's pixels (N, 64), from 0 to 1, and its classes (N,)."""
    from usb_active.array_datasets import Digits

    pool = Digits()
    images = np.stack([pool.load(i) for i in range(len(pool))]).reshape(len(pool), -1)
    return images.astype(np.float32) / images.max(), np.asarray(pool.targets)


def samplers(features: NDArray, targets: NDArray) -> dict[str, Callable[[int, Rng], tuple[NDArray, NDArray]]]:
    """Name → (budget, rng) → the picks, and the features that the prior is made from."""
    from usb_active.plugins.as3l.functional import fine_tune, select, typiclust

    from usb_active.distances import k_center_greedy

    def stratified(budget: int, rng: Rng) -> NDArray:
        classes = np.unique(targets)
        return np.concatenate([rng.choice(np.flatnonzero(targets == c), budget // len(classes), replace=False) for c in classes])

    def tuned(budget: int, rng: Rng) -> tuple[NDArray, NDArray]:
        layer = fine_tune(features, budget, rng=rng)
        return select(layer, budget, rng=rng), layer

    plain: dict[str, Callable[[int, Rng], NDArray]] = {
        "random": lambda budget, rng: rng.choice(len(features), budget, replace=False),
        "stratified": stratified,
        "coreset": lambda budget, rng: k_center_greedy(features, rng.choice(len(features), 1), budget, rng=rng),
        "kmedoids": lambda budget, rng: select(features, budget, clusterings=1, rng=rng),
        "typiclust": lambda budget, rng: typiclust(features, budget, rng=rng),
        **{f"as3l, C = {c}": (lambda budget, rng, c=c: select(features, budget, clusterings=c, rng=rng)) for c in (2, 4, 6, 10)},
    }
    apart = {name: (lambda budget, rng, pick=pick: (pick(budget, rng), features)) for name, pick in plain.items()}
    return {**apart, "as3l, C = 6, fine-tuned": tuned}


def priors(features: NDArray) -> dict[str, Callable[[NDArray, NDArray, NDArray, Rng], NDArray]]:
    """Name → (features, labeled, labels, rng) → (N, C)."""
    from usb_active.plugins.as3l.functional import prior

    from usb_active.neighbors import affinity
    from usb_active.propagation import propagate

    graph = affinity(features, 50, 3.0, "sum")
    sizes = {"K = 10…60": None, "six times K = 10": [10] * 6, "six times K = 60": [60] * 6, "K = 5": [5] * 6}
    made = {
        f"as3l, {name}": (lambda points, labeled, labels, rng, ks=ks: prior(points, labeled, labels, 10, ks=ks, rng=rng))
        for name, ks in sizes.items()
    }
    return {**made, "llgc": lambda points, labeled, labels, rng: propagate(graph, labeled, labels, 10)}


def measure(prior: NDArray, picks: NDArray, targets: NDArray) -> tuple[float, float, float]:
    """Classes covered; accuracy and calibration error, in percent, of the prior on the samples without a label."""
    from usb_active.plugins.as3l.functional import class_coverage, expected_calibration_error, is_correct

    rest = np.delete(np.arange(len(targets)), picks)
    accuracy = 100 * is_correct(prior[rest], targets[rest]).mean()
    return class_coverage(targets[picks], 10), float(accuracy), 100 * expected_calibration_error(prior[rest], targets[rest])


Triple = tuple[float, float, float]
Measured = dict[str, dict[int, Triple]]


def sampling(features: NDArray, targets: NDArray, budget: int, seeds: int) -> Measured:
    """Sampler → seed → what its picks and the prior from them come to."""
    from usb_active.plugins.as3l.functional import prior

    found: Measured = {}
    for name, sample in samplers(features, targets).items():
        for seed in range(seeds):
            rng = np.random.default_rng([seed, budget])
            picks, points = sample(budget, rng)
            found.setdefault(name, {})[seed] = measure(prior(points, picks, targets[picks], 10, rng=rng), picks, targets)
    return found


def by_prior(features: NDArray, targets: NDArray, budget: int, seeds: int) -> Measured:
    """Prior → seed → the same, for the picks of as3l."""
    pick = samplers(features, targets)["as3l, C = 6"]
    found: Measured = {}
    for seed in range(seeds):
        picks, points = pick(budget, np.random.default_rng([seed, budget]))
        for name, make in priors(features).items():
            prior = make(points, picks, targets[picks], np.random.default_rng([seed, budget, 1]))
            found.setdefault(name, {})[seed] = measure(prior, picks, targets)
    return found


def selection_tables(seeds: int) -> str:
    """By sampler and by prior, for each number of labels; the first row is what the others are compared with."""
    features, targets = digits()
    parts = []
    for what in (sampling, by_prior):
        for budget in LABELS:
            found = what(features, targets, budget, seeds)
            first = next(iter(found))
            rows = [row_of(name, found[name], found[first] if name != first else None) for name in found]
            header = [f"{budget} labels", "classes covered", "prior accuracy", f"minus {first}", "ECE"]
            parts.append(table(header, rows))
    return "\n\n".join(parts) + "\n"


def row_of(name: str, measured: dict[int, Triple], reference: dict[int, Triple] | None) -> list[str]:
    """Means with intervals over the seeds."""
    coverage, accuracy, error = zip(*measured.values(), strict=True)
    gain = "" if reference is None else with_interval((measured[s][1] - reference[s][1] for s in measured), sign=True)
    return [name, with_interval(coverage, 2), with_interval(accuracy), gain, with_interval(error)]


# ------------------------------------------------------------------------------------------ trainings
PRETRAIN = {"name": "simsiam", "epochs": 40, "batch_size": 64, "lr": 0.5, "crop": 0.6, "projection_dim": 128, "prediction_dim": 32}
PRIORS: dict[str, Any] = {
    "no prior": None,
    "as3l, remove": {"name": "as3l", "until_iter": 200, "then": "remove"},
    "as3l, update": {"name": "as3l", "until_iter": 200, "then": "update", "update_every": 200},
    "llgc, remove": {"name": "llgc", "until_iter": 200, "then": "remove"},
}
# Key cells: every sampler without a prior and with the paper's; every prior for as3l.
SAMPLERS = ("random", "stratified", "kmedoids", "coreset", "typiclust", "as3l")


def training_cells(seeds: int, root: Path) -> list[Cell]:
    """FlexMatch from one network a seed: the weights that the first run of the seed has pretrained."""
    cells = []
    for seed in range(seeds):
        weights = {"name": "file", "path": str((root / pretraining(seed).name / "pretrain" / "pretrained.pth").resolve())}
        for budget in (10, 40):
            for sampler in SAMPLERS:
                for name, prior in PRIORS.items():
                    if sampler != "as3l" and name not in ("no prior", "as3l, remove"):
                        continue
                    keys = {"active.initial": {"name": sampler, "size": budget}, "active.prior": prior, "active.pretrain": weights}
                    cells.append(Cell((f"{budget} labels", sampler, name), "as3l/digits", keys, seed))
    return cells


def pretraining(seed: int) -> Cell:
    """The run that pretrains for all of a seed."""
    keys = {"active.pretrain": PRETRAIN, "active.initial": {"name": "random", "size": 10}, "active.prior": None, "num_train_iter": 1}
    return Cell(("pretraining",), "as3l/digits", {**keys, "num_eval_iter": 1, "num_log_iter": 1}, seed)


def training_tables(cells: Sequence[Cell], root: Path) -> str:
    """Last and best accuracy (the paper reports the best) by number of labels, sampler and prior."""
    found: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.place, []).append(cell)
    rows = [
        [
            ", ".join(place),
            with_interval(value for cell in of for value in accuracies(cell, root).values()),
            with_interval(value for cell in of for value in accuracies(cell, root, "best_accuracy").values()),
        ]
        for place, of in found.items()
    ]
    return table(["labels, sampling, prior", "last", "best (optimistic)"], rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["selection", "trainings"])
    parser.add_argument("--root", type=Path, default=Path("runs/as3l_table"), help="where the runs are kept")
    parser.add_argument("--seeds", type=int, help="default: 20 for the selection, 5 for trainings")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    if args.what == "selection":
        print(selection_tables(args.seeds or SEEDS))
        return
    seeds = args.seeds or 5
    run_cells([pretraining(seed) for seed in range(seeds)], args.root, args.workers)
    cells = training_cells(seeds, args.root)
    run_cells(cells, args.root, args.workers)
    print(training_tables(cells, args.root))


if __name__ == "__main__":
    main()
