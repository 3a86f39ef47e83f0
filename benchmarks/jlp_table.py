"""The tables of docs/jlp.md, from the finished cells of the study `jlp`: supervised against SEMI, with and without PRE, by rule.

    usb-active sweep jlp --jobs 2
    python benchmarks/jlp_table.py

SEMI comes twice: by Eq. 8, where every label counts alike, and with classes that count alike, as in the authors' code. For a seed, all
start from the same ten samples. The second table is what the study looks for: how much SEMI, PRE and a rule gain, each with the others as
they are. The third needs no training: label propagation alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
from evidence import Cell, accuracies, by_place, finished_cells, paired, pixels, put, table_parser, with_interval
from numpy.typing import NDArray

from usb_active.numerics.neighbors import affinity
from usb_active.numerics.propagation import WEIGHTINGS, propagate
from usb_active.report.tables import table

RULES = ("random", "coreset", "ceal", "jlp")
ALIKE = ", classes alike"
TRAININGS = ("supervised", "+ PRE", "+ SEMI", "+ PRE + SEMI", f"+ SEMI{ALIKE}", f"+ PRE + SEMI{ALIKE}")
GAINS = (
    ("supervised", "+ SEMI"), ("+ PRE", "+ PRE + SEMI"), ("supervised", f"+ SEMI{ALIKE}"), ("+ PRE", f"+ PRE + SEMI{ALIKE}"),
    ("+ SEMI", f"+ SEMI{ALIKE}"), ("supervised", "+ PRE"), ("+ SEMI", "+ PRE + SEMI"), (f"+ SEMI{ALIKE}", f"+ PRE + SEMI{ALIKE}"),
)  # fmt: skip


def training_name(place: Mapping[str, Any]) -> str:
    """How the page calls a training of the study; one of TRAININGS."""
    parts = [name for name, is_there in (("+ PRE", place["active.pretrain"]), ("+ SEMI", place["lp_semi"])) if is_there]
    # Without SEMI nothing is weighted.
    return (" ".join(parts) or "supervised") + (ALIKE if place["lp_semi"] and place["lp_weighting"] == "class" else "")


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


# Numbers of labels, and whether every class has as many.
SHARES = ((10, True), (20, True), (20, False), (50, True), (50, False))


def propagation_table(
    features: NDArray, truth: NDArray, shares: Sequence[tuple[int, bool]] = SHARES, each: int = 1, draws: int = 20
) -> str:
    """No training: accuracy of the labels that are propagated over the graph of some features, by how many there are of each class.

    Args:
        features: (N, D).
        truth: (N,) the ten classes.
        shares: numbers of labels, a multiple of ten, and whether classes have as many; else `each` of a class, and the rest at random.
        draws: of the labels; the values are means over them.
    """
    graph = affinity(features, 50)
    rows = []
    for count, alike in shares:
        found: dict[str, list[float]] = {name: [] for name in WEIGHTINGS}
        for draw in range(draws):
            rng = np.random.default_rng([draw, count])
            labeled = by_class(truth, count // 10 if alike else each, rng)
            if not alike:
                others = np.setdiff1d(np.arange(len(truth)), labeled)
                labeled = np.append(labeled, rng.choice(others, count - len(labeled), replace=False))
            rest = np.setdiff1d(np.arange(len(truth)), labeled)
            for name, values in found.items():
                probs = propagate(graph, labeled, truth[labeled], 10, weighting=name)
                values.append(100 * float((probs.argmax(axis=1) == truth)[rest].mean()))
        how = f"{count // 10} of each class" if alike else f"{each} of each class and {count - 10 * each} at random"
        rows.append([f"{count} labels, {how}", *map(with_interval, found.values())])
    return table(["propagation alone", "labels alike (Eq. 8)", "classes alike"], rows)


def by_class(truth: NDArray, each: int, rng: np.random.Generator) -> NDArray:
    """So many samples of every class."""
    return np.concatenate([rng.choice(np.flatnonzero(truth == c), each, replace=False) for c in np.unique(truth)])


def tables(cells: Iterable[Cell]) -> str:
    """The Markdown of all three."""
    found = by_place(cells, lambda cell: (training_name(cell.place), cell.place["active.acquisition"]))
    # Whatever else a study has comes last.
    order = dict.fromkeys([*((training, rule) for training in TRAININGS for rule in RULES), *found])
    curves = {place: {seed: accuracies(cell) for seed, cell in found[place].items()} for place in order if place in found}
    return f"{accuracy_table(curves)}\n\n{gain_table(curves)}\n\n{propagation_table(*pixels())}\n"


def main() -> None:
    args = table_parser(__doc__, "jlp").parse_args()
    put(tables(finished_cells(args.study, args.overrides)), args.out)


if __name__ == "__main__":
    main()
