"""The tables of docs/revival.md, from the finished cells of its studies.

    usb-active sweep revival --jobs 2
    python benchmarks/revival_table.py
    usb-active sweep revival_budget --jobs 2
    python benchmarks/revival_table.py revival_budget
    usb-active sweep revival_mnist --set data_dir=FOLDER --jobs 2
    python benchmarks/revival_table.py revival_mnist --set data_dir=FOLDER

and `revival_trainers` and `revival_m_k` in the same way.

Beside the accuracies: the last training's difference from random's, seed by seed; the largest class among a round's picks; the
redundancy, the share of picks whose nearest pick of the same round (by pixels) is of the same class; and the accuracy of the neighbour
graph of the features after the last training. The last rows are cheap classifiers on the labels that `random` had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import mean
from typing import Any

import numpy as np
from evidence import (
    CHEAP,
    Cell,
    accuracies,
    by_place,
    cheap,
    finished_cells,
    paired,
    pool_of,
    put,
    rule_name,
    table_parser,
    with_interval,
)
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from usb_active import load_artifact
from usb_active.report.tables import table
from usb_active.storage.journal import read_journal
from usb_active.storage.run_dir import RunDir

# The ablations of Table 1, and our extension.
PARTS: dict[str, dict[str, Any]] = {
    "LP+VAG, M = K": {"preselect": {"budgets": 1}},
    "LP+BL, M = all": {"preselect": "all"},
    "VAG+BL": {"labels": "head"},
    "diversity": {"diversity": True},
}
# Shares of virtual labels that are right, in percent: the bounds of the second table's rows.
BOUNDS = (0, 80, 90, 95, 100)
RIGHT = "revival/virtual_label_accuracy"


def place_name(cell: Cell) -> str:
    """How the page calls a cell's rule; in a study over M and k, these."""
    place = cell.place
    if "active.acquisition" in place:
        return rule_name(place["active.acquisition"], PARTS)
    chosen, k = place["active.acquisition.preselect"], place["active.acquisition.k"]
    share = f"{chosen['budgets']} K" if isinstance(chosen, Mapping) else str(chosen)
    return f"M = {share}, k = {k}"


def redundancy(images: NDArray, classes: NDArray) -> float:
    """The share of a round's picks whose nearest other pick is of their class.

    Args:
        images: (B, D) of the picks, B >= 2.
        classes: (B,).
    """
    distances = cdist(images, images)
    np.fill_diagonal(distances, np.inf)
    return float((classes[distances.argmin(axis=1)] == classes).mean())


def rounds(cell: Cell) -> list[NDArray]:
    """Positions in the pool of each round's picks, the first labels left out."""
    rows = [row for row in read_journal(cell.run_path / "labels.csv") if row.status == "labeled"]
    return [np.array([row.index for row in rows if row.cycle == cycle]) for cycle in sorted({row.cycle for row in rows} - {0})]


def picks_of(cell: Cell, images: NDArray, targets: NDArray) -> tuple[float, float]:
    """Largest class among a round's picks in percent of them, and the redundancy in percent; means over the rounds."""
    picks = rounds(cell)
    largest = mean(float(np.bincount(targets[its]).max()) / len(its) for its in picks)
    return 100 * largest, 100 * mean(redundancy(images[its], targets[its]) for its in picks)


def graph_accuracy(cells: Iterable[Cell]) -> str:
    """The share of edges between equal classes in percent, after the last training; "–" where a run has not measured it."""
    newest = [max(cell.run_path.glob("analysis/graph_*.npz"), default=None) for cell in cells]
    if None in newest:
        return "–"
    found = [load_artifact(path.with_suffix("")) for path in newest]
    return with_interval(100 * int(graph["agreeing"]) / int(graph["edges"]) for graph in found)


def rule_table(places: Mapping[str, Mapping[int, Cell]], images: NDArray, targets: NDArray) -> str:
    """A row for each rule, a column for each number of labels, then what its picks are like; the cheap classifiers last.

    Without the rule `random` neither differences from it nor cheap classifiers.
    """
    random = places.get("random", {})
    curves = {rule: {seed: accuracies(cell) for seed, cell in seeds.items()} for rule, seeds in places.items()}
    counts = list(next(iter(next(iter(curves.values())).values())))
    last = {rule: {seed: curve[counts[-1]] for seed, curve in seeds.items()} for rule, seeds in curves.items()}
    rows = []
    for rule, seeds in places.items():
        largest, redundant = zip(*(picks_of(cell, images, targets) for cell in seeds.values()), strict=True)
        rows.append(
            [
                rule,
                *(with_interval(curve[count] for curve in curves[rule].values()) for count in counts),
                *([] if not random else [""] if rule == "random" else [with_interval(paired(last[rule], last["random"]), sign=True)]),
                f"{mean(largest):.0f}",
                f"{mean(redundant):.0f}",
                graph_accuracy(seeds.values()),
                str(len(seeds)),
            ]
        )
    simple = [cheap(cell) for cell in random.values()]
    for name, called in CHEAP.items() if simple else ():
        rows.append([called, *(with_interval(found[name][count] for found in simple) for count in counts), *[""] * 4, str(len(simple))])
    about = [*([f"minus random, {counts[-1]} labels"] if random else []), "largest class (%)", "redundancy (%)", "graph (%)", "seeds"]
    return table(["rule", *(f"{count} labels" for count in counts), *about], rows)


def gains(places: Mapping[str, Mapping[int, Cell]], rule: str) -> list[tuple[float, float]]:
    """Of each round of a rule: how many virtual labels were right, and the next training minus random's with as many labels; percent."""
    found = []
    for seed, cell in places[rule].items():
        if seed in places["random"]:
            reference = accuracies(places["random"][seed])
            lines = [line for line in RunDir.read(cell.run_path).metrics() if RIGHT in line.get("log", {})]
            found += [(100 * line["log"][RIGHT], 100 * line["accuracy"] - reference[line["num_labels"]]) for line in lines]
    return found


def condition_table(places: Mapping[str, Mapping[int, Cell]]) -> str:
    """A row for each range of how many virtual labels were right. Intervals take rounds (their number is in brackets) as independent."""
    found = {rule: gains(places, rule) for rule in places}
    rules = [rule for rule, pairs in found.items() if pairs]
    rows = []
    for low, high in pairwise(BOUNDS):
        of_range = [[gain for right, gain in found[rule] if low <= right < high or right == high == BOUNDS[-1]] for rule in rules]
        entries = [f"{with_interval(values, sign=True)} ({len(values)})" if values else "–" for values in of_range]
        rows.append([f"{low} to {high} %", *entries])
    return table(["virtual labels right", *rules], rows)


def tables_of(algorithm: str, cells: Sequence[Cell], images: NDArray, targets: NDArray) -> list[str]:
    """The tables of one trainer, its name first where the study has several."""
    places = by_place(cells, place_name)
    found = [*([f"**{algorithm}**"] if algorithm else []), rule_table(places, images, targets)]
    return [*found, condition_table(places)] if "random" in places else found


def main() -> None:
    args = table_parser(__doc__, "revival").parse_args()
    cells = finished_cells(args.study, args.overrides)
    images, targets = pool_of(cells[0])
    algorithms = list(dict.fromkeys(cell.place.get("algorithm", "") for cell in cells))
    of_each = [[cell for cell in cells if cell.place.get("algorithm", "") == name] for name in algorithms]
    tables = [part for name, its in zip(algorithms, of_each, strict=True) for part in tables_of(name, its, images, targets)]
    put("\n\n".join(tables) + "\n", args.out)


if __name__ == "__main__":
    main()
