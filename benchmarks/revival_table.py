"""The tables of docs/revival.md, from the finished cells of the studies `revival` and `revival_budget`.

    usb-active sweep revival --jobs 2
    python benchmarks/revival_table.py
    usb-active sweep revival_budget --jobs 2
    python benchmarks/revival_table.py revival_budget

Beside the accuracies: the last training's difference from random's, seed by seed; the largest class among a round's picks; the
redundancy, the share of picks whose nearest pick of the same round (by pixels) is of the same class; and the accuracy of the neighbour
graph of the features after the last training. The last rows are cheap classifiers on the labels that `random` had.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import partial
from statistics import mean
from typing import Any

import numpy as np
from evidence import Cell, accuracies, by_place, finished_cells, paired, put, table_parser, with_interval
from numpy.typing import NDArray

from usb_active import load_artifact
from usb_active.report.tables import table
from usb_active.storage.run_dir import RunDir

CHEAP = {"nearest": "1-NN", "logistic": "logistic regression", "spreading": "label spreading"}


def rule_name(acquisition: str | Mapping[str, Any]) -> str:
    """How the page calls a value of `active.acquisition`: the name, and keys that are not as by default."""
    if isinstance(acquisition, str):
        return acquisition
    keys = {name: value for name, value in acquisition.items() if name != "name"}
    named = {"LP+VAG, M = K": {"preselect": {"budgets": 1}}, "LP+BL, M = all": {"preselect": "all"}, "VAG+BL": {"labels": "head"}}
    named |= {"diversity": {"diversity": True}}
    part = next((part for part, its in named.items() if its == keys), ", ".join(f"{name} {value}" for name, value in keys.items()))
    return f"{acquisition['name']}, {part}"


def redundancy(images: NDArray, classes: NDArray) -> float:
    """The share of a round's picks whose nearest other pick is of their class.

    Args:
        images: (B, D) of the picks, B >= 2.
        classes: (B,).
    """
    squares = (images**2).sum(axis=1)
    distances = squares[:, None] + squares - 2 * images @ images.T
    np.fill_diagonal(distances, np.inf)
    return float((classes[distances.argmin(axis=1)] == classes).mean())


def rounds(cell: Cell) -> list[NDArray]:
    """Positions in the pool of each round's picks, the first labels left out."""
    with open(cell.run_path / "labels.csv", encoding="utf-8", newline="") as file:
        lines = [(int(line["cycle"]), int(line["index"])) for line in csv.DictReader(file) if line["status"] == "labeled"]
    return [np.array([index for its, index in lines if its == cycle]) for cycle in sorted({cycle for cycle, _ in lines} - {0})]


def picks_of(cell: Cell, images: NDArray, targets: NDArray) -> tuple[float, float]:
    """Largest class among a round's picks in percent of them, and the redundancy in percent; means over the rounds."""
    picks = rounds(cell)
    largest = mean(float(np.bincount(targets[its]).max()) / len(its) for its in picks)
    return 100 * largest, 100 * mean(redundancy(images[its], targets[its]) for its in picks)


def graph_accuracy(cell: Cell) -> float:
    """The share of edges between equal classes in percent, after the last training."""
    found = load_artifact(max(cell.run_path.glob("analysis/graph_*.npz")).with_suffix(""))
    return 100 * int(found["agreeing"]) / int(found["edges"])


def cheap(cell: Cell) -> dict[str, dict[int, float]]:
    """Classifier → number of labels → accuracy in percent on the labels of a run."""
    from usb_active.report.baselines import run_baselines
    from usb_active.report.galleries import load_dataset
    from usb_active.report.runs import read_runs

    (run,), _ = read_runs([cell.run_path])
    entries, notes = run_baselines(run, partial(load_dataset, trusted=True))
    if notes:
        raise SystemExit("\n".join(notes))
    lines = RunDir.read(cell.run_path).metrics()
    return {name: {line["num_labels"]: 100 * entries[line["cycle"]]["accuracies"][name] for line in lines} for name in CHEAP}


def rule_table(places: Mapping[str, Mapping[int, Cell]], images: NDArray, targets: NDArray) -> str:
    """A row for each rule, a column for each number of labels, then what its picks are like; the cheap classifiers last."""
    curves = {rule: {seed: accuracies(cell) for seed, cell in seeds.items()} for rule, seeds in places.items()}
    counts = list(next(iter(curves["random"].values())))
    last = {rule: {seed: curve[counts[-1]] for seed, curve in seeds.items()} for rule, seeds in curves.items()}
    rows = []
    for rule, seeds in places.items():
        largest, redundant = zip(*(picks_of(cell, images, targets) for cell in seeds.values()), strict=True)
        rows.append(
            [
                rule,
                *(with_interval(curve[count] for curve in curves[rule].values()) for count in counts),
                "" if rule == "random" else with_interval(paired(last[rule], last["random"]), sign=True),
                f"{mean(largest):.0f}",
                f"{mean(redundant):.0f}",
                with_interval(map(graph_accuracy, seeds.values())),
                str(len(seeds)),
            ]
        )
    simple = [cheap(cell) for cell in places["random"].values()]
    for name, called in CHEAP.items():
        rows.append([called, *(with_interval(found[name][count] for found in simple) for count in counts), *[""] * 4, str(len(simple))])
    about = [f"minus random, {counts[-1]} labels", "largest class (%)", "redundancy (%)", "graph (%)", "seeds"]
    return table(["rule", *(f"{count} labels" for count in counts), *about], rows)


def main() -> None:
    args = table_parser(__doc__, "revival").parse_args()
    from as3l_table import pixels

    images, targets = pixels()
    places = by_place(finished_cells(args.study, args.overrides), lambda cell: rule_name(cell.place["active.acquisition"]))
    put(rule_table(places, images, targets) + "\n", args.out)


if __name__ == "__main__":
    main()
