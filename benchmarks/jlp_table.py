"""The tables of docs/jlp.md: supervised against SEMI, with and without PRE, by rule, on digits with ten balanced labels.

SEMI comes twice: by Eq. 8, where every label counts alike, and with classes that count alike, as in the authors' code.

    python benchmarks/jlp_table.py --root runs/jlp_table      # digits, five seeds

The same command resumes where it stopped; with everything done it only writes the tables. For a seed, all start from the same
ten samples; ceal is not combined with SEMI, as in the paper. The second table is what it looks for: how much SEMI, PRE and a rule
gain, each with the others as they are. The third needs no training: label propagation alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from evidence import Cell, accuracies, paired, put, run_cells, table_parser, with_interval
from numpy.typing import NDArray

from usb_active.numerics.neighbors import affinity
from usb_active.numerics.propagation import WEIGHTINGS, propagate
from usb_active.report.tables import table

RULES = ("random", "coreset", "ceal", "jlp")
SUPERVISED = {"lp_semi": False, "epoch": 200}
PRE = {"active.pretrain": {"name": "deepcluster", "epochs": 40, "batch_size": 16, "lr": 0.1}}
# What the authors' code does; Eq. 8 lets a class count as much as it has labels.
ALIKE = {"lp_weighting": "class"}
TRAININGS: dict[str, dict[str, Any]] = {
    "supervised": SUPERVISED,
    "+ PRE": {**SUPERVISED, **PRE},
    "+ SEMI": {},
    "+ PRE + SEMI": PRE,
    "+ SEMI, classes alike": ALIKE,
    "+ PRE + SEMI, classes alike": {**PRE, **ALIKE},
}
GAINS = (
    ("supervised", "+ SEMI"), ("+ PRE", "+ PRE + SEMI"), ("supervised", "+ SEMI, classes alike"),
    ("+ PRE", "+ PRE + SEMI, classes alike"), ("+ SEMI", "+ SEMI, classes alike"), ("supervised", "+ PRE"),
    ("+ SEMI", "+ PRE + SEMI"), ("+ SEMI, classes alike", "+ PRE + SEMI, classes alike"),
)  # fmt: skip


def cells(seeds: int) -> list[Cell]:
    """All runs, seeds outermost."""
    return [
        Cell((training, rule), "jlp/digits", {**keys, "active.acquisition": rule}, seed)
        for seed in range(seeds)
        for training, keys in TRAININGS.items()
        for rule in RULES
        if not (rule == "ceal" and keys.get("lp_semi", True))
    ]


Curves = dict[tuple[str, str], dict[int, dict[int, float]]]


def accuracy_table(curves: Curves) -> str:
    """A row for each training and rule, a column for each number of labels."""
    counts = sorted({count for seeds in curves.values() for curve in seeds.values() for count in curve})
    rows = [
        [f"{training}, {rule}", *(with_interval(curve[count] for curve in seeds.values()) for count in counts)]
        for (training, rule), seeds in curves.items()
    ]
    return table(["training, rule", *(f"{count} labels" for count in counts)], rows)


def means(curves: Curves, place: tuple[str, str]) -> dict[int, float]:
    """Seed → mean accuracy over the rounds after the first."""
    return {seed: mean(list(curve.values())[1:]) for seed, curve in curves[place].items()}


def gain_table(curves: Curves) -> str:
    """What each part gains, seed by seed, in the mean over the rounds that a rule had a part in."""
    rows = []
    for rule in RULES:
        for base, more in GAINS:
            if (base, rule) in curves and (more, rule) in curves:
                gain = paired(means(curves, (more, rule)), means(curves, (base, rule)))
                rows.append([f"{more} over {base}, {rule}", with_interval(gain, sign=True)])
    for training in TRAININGS:
        for rule in RULES[1:]:
            if (training, rule) in curves:
                gain = paired(means(curves, (training, rule)), means(curves, (training, "random")))
                rows.append([f"{rule} over random, {training}", with_interval(gain, sign=True)])
    return table(["gain, percentage points", "mean over rounds"], rows)


def propagation_table(draws: int = 20) -> str:
    """No training: accuracy of the labels that are propagated over the graph of pixels, by how many there are of each class."""
    from as3l_table import pixels

    features, truth = pixels()
    graph = affinity(features, 50)
    rows = []
    for count, alike in ((10, True), (20, True), (20, False), (50, True), (50, False)):
        found: dict[str, list[float]] = {name: [] for name in WEIGHTINGS}
        for draw in range(draws):
            rng = np.random.default_rng([draw, count])
            labeled = by_class(truth, count // 10 if alike else 1, rng)
            if not alike:
                others = np.setdiff1d(np.arange(len(truth)), labeled)
                labeled = np.append(labeled, rng.choice(others, count - len(labeled), replace=False))
            rest = np.setdiff1d(np.arange(len(truth)), labeled)
            for name, values in found.items():
                probs = propagate(graph, labeled, truth[labeled], 10, weighting=name)
                values.append(100 * float((probs.argmax(axis=1) == truth)[rest].mean()))
        how = f"{count // 10} of each class" if alike else f"1 of each class and {count - 10} at random"
        rows.append([f"{count} labels, {how}", *map(with_interval, found.values())])
    return table(["propagation alone", "labels alike (Eq. 8)", "classes alike"], rows)


def by_class(truth: NDArray, each: int, rng: np.random.Generator) -> NDArray:
    """So many samples of every class."""
    return np.concatenate([rng.choice(np.flatnonzero(truth == c), each, replace=False) for c in np.unique(truth)])


def tables(found: Sequence[Cell], root: Path) -> str:
    """The Markdown of all three."""
    curves: Curves = {}
    for cell in found:
        curves.setdefault((cell.place[0], cell.place[1]), {})[cell.seed] = accuracies(cell, root)
    return f"{accuracy_table(curves)}\n\n{gain_table(curves)}\n\n{propagation_table()}\n"


def main() -> None:
    args = table_parser(__doc__).parse_args()
    found = cells(args.seeds)
    run_cells(found, args.root, args.workers)
    put(tables(found, args.root), args.out)


if __name__ == "__main__":
    main()
