"""The tables of docs/as3l.md: AS3L's selection and prior on digits, and FlexMatch trained with them.

    usb-active sweep as3l --jobs 2
    python benchmarks/as3l_table.py                  # all but the oracles'; some minutes
    python benchmarks/as3l_table.py --only pixels    # what needs no training

    usb-active sweep as3l_oracle --jobs 2
    python benchmarks/as3l_table.py as3l_oracle --only oracle    # how good a prior must be to help

The trainings are the study `as3l`. For a seed all of them start from one SimSiam network.
Analogues of the paper's tables: trainings by sampling (Table 1) and by prior (Table 3); without training, on pixels and on the
features of those networks, sampling (Tables 4 and 5, Fig. 4) and the sizes of the clusterings (Table 6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from evidence import Cell, accuracies, by_place, finished_cells, paired, pixels, put, table_parser, with_interval
from numpy.typing import NDArray
from usb_active.plugins.as3l.functional import (
    class_coverage,
    expected_calibration_error,
    fine_tune,
    is_correct,
    prior,
    select,
    typiclust,
)  # fmt: skip
from usb_active.plugins.baselines.acquisitions import Stratified

from usb_active.numerics.greedy import k_center_greedy
from usb_active.numerics.neighbors import affinity
from usb_active.numerics.propagation import propagate
from usb_active.report.tables import table
from usb_active.storage.run_dir import RunDir

LABELS = (10, 20, 40)
PARTS = ("trainings", "pixels", "learned")
# Of a study of its own.
ORACLE = "oracle"
# Of a training of the study, and how often that the longer one is.
STEPS, TIMES = 600, {5: "five"}
# Of selections on pixels; of those on a network's features, so many for each network.
DRAWS, DRAWS_A_NETWORK = 20, 4
Rng = np.random.Generator
Pick = Callable[[NDArray, int, Rng], NDArray]

# ------------------------------------------------------------------------------------------ selection and prior
CLUSTERINGS = (2, 4, 6, 10)
TUNED = ("kmedoids", "as3l")
SIZES = {
    "K = 10…60": (10, 20, 30, 40, 50, 60),
    "K = 10, six times": (10,) * 6,
    "K = 10, and 60 five times": (10,) + (60,) * 5,
    "K = 5, six times": (5,) * 6,
}


class Points(NamedTuple):
    """Features (N, D) and their neighbour graph; the same for all seeds on pixels."""

    features: NDArray[np.float32]
    graph: Any


def make_points(features: NDArray) -> Points:
    """With LLGC's graph: k = 50, cos³, A + Aᵀ."""
    return Points(features, affinity(features, 50, 3.0, "sum"))


def samplers(targets: NDArray) -> dict[str, Pick]:
    """Name → (features, budget, rng) → the picks."""

    def stratified(features: NDArray, budget: int, rng: Rng) -> NDArray:
        quotas = Stratified().quotas(np.bincount(targets), budget, rng)
        return np.concatenate([rng.choice(np.flatnonzero(targets == c), quota, replace=False) for c, quota in enumerate(quotas)])

    def several(features: NDArray, budget: int, rng: Rng, clusterings: int) -> NDArray:
        return select(features, budget, clusterings=clusterings, rng=rng)

    return {
        "random": lambda features, budget, rng: rng.choice(len(features), budget, replace=False),
        "stratified": stratified,
        "coreset": lambda features, budget, rng: k_center_greedy(features, rng.choice(len(features), 1), budget, rng=rng),
        "typiclust": lambda features, budget, rng: typiclust(features, budget, rng=rng),
        "kmedoids": partial(several, clusterings=1),
        **{f"as3l, C = {count}": partial(several, clusterings=count) for count in CLUSTERINGS},
    }


class Measured(NamedTuple):
    """Classes among the picks; in percent, on the samples without a label, accuracy and calibration error of a prior, and
    accuracy of LLGC's."""

    coverage: float
    accuracy: float
    ece: float
    llgc: float


def mean_of(measured: Sequence[Measured]) -> Measured:
    return Measured(*(float(np.mean(values)) for values in zip(*measured, strict=True)))


def measure(points: Points, spread: NDArray, picks: NDArray, targets: NDArray) -> Measured:
    """What these picks and the prior `spread` (N, 10) made from them come to."""
    rest = np.delete(np.arange(len(targets)), picks)
    by_graph = propagate(points.graph, picks, targets[picks], 10)
    accuracy, llgc = (100 * float(is_correct(probs[rest], targets[rest]).mean()) for probs in (spread, by_graph))
    return Measured(class_coverage(targets[picks], 10), accuracy, 100 * expected_calibration_error(spread[rest], targets[rest]), llgc)


Found = dict[str, dict[int, Measured]]
Part = Callable[[Points, NDArray, int, int], dict[str, Measured]]


def by_sampling(points: Points, targets: NDArray, budget: int, seed: int) -> dict[str, Measured]:
    """Sampler → measured. Those that are fine-tuned choose and spread on the features after their layer."""
    pick_by, found = samplers(targets), {}
    plain = {name: (points.features, pick) for name, pick in pick_by.items()}
    tuned = {f"{name}, fine-tuned": (layer_of(points, budget, name, seed), pick_by[name]) for name in pick_by if name.startswith(TUNED)}
    for name, (features, pick) in (plain | tuned).items():
        rng = np.random.default_rng([seed, budget])
        picks = pick(features, budget, rng)
        found[name] = measure(points, prior(features, picks, targets[picks], 10, rng=rng), picks, targets)
    return found


def layer_of(points: Points, budget: int, name: str, seed: int) -> NDArray:
    """The features after the linear layer of as many clusterings as a sampler has (K-medoids': six)."""
    clusterings = int(name.rpartition(" ")[2]) if "C = " in name else 6
    return fine_tune(points.features, budget, clusterings=clusterings, rng=np.random.default_rng([seed, budget, 1]))


def by_sizes(points: Points, targets: NDArray, budget: int, seed: int) -> dict[str, Measured]:
    """Sizes of the clusterings → measured, for the picks of as3l, all on the fine-tuned features."""
    name = "as3l, C = 6"
    features = layer_of(points, budget, name, seed)
    picks = samplers(targets)[name](features, budget, np.random.default_rng([seed, budget]))
    spreads = {
        name: prior(features, picks, targets[picks], 10, ks=ks, rng=np.random.default_rng([seed, budget, 2])) for name, ks in SIZES.items()
    }
    return {name: measure(points, spread, picks, targets) for name, spread in spreads.items()}


def repeated(part: Part, networks: Sequence[Points], draws: int, targets: NDArray, budget: int) -> Found:
    """Name → unit → measured. On one set of features a draw is a unit; on several, each is one, with the mean of its draws."""
    found: Found = {}
    for number, points in enumerate(networks):
        made = [part(points, targets, budget, draws * number + draw) for draw in range(draws)]
        for name in made[0]:
            values = [of[name] for of in made]
            units = {number: mean_of(values)} if len(networks) > 1 else dict(enumerate(values))
            found.setdefault(name, {}).update(units)
    return found


def selection_tables(networks: Sequence[Points], draws: int, targets: NDArray) -> str:
    """By sampling and by sizes, for each number of labels; the first row is what the others are compared with."""
    parts = []
    for part in (by_sampling, by_sizes):
        for budget in LABELS:
            found = repeated(part, networks, draws, targets, budget)
            first = next(iter(found))
            header = [f"{budget} labels", "classes covered", "prior accuracy", f"minus {first}", "ECE", "llgc accuracy"]
            parts.append(table(header, [selection_row(name, found[name], found[first]) for name in found]))
    return "\n\n".join(parts) + "\n"


def selection_row(name: str, measured: Mapping[int, Measured], reference: Mapping[int, Measured]) -> list[str]:
    """Means with intervals over the units."""
    accuracy, first = ({seed: found.accuracy for seed, found in of.items()} for of in (measured, reference))
    gain = "" if measured is reference else with_interval(paired(accuracy, first), sign=True)
    of = measured.values()
    return [
        name, with_interval((found.coverage for found in of), 2), with_interval(accuracy.values()), gain,
        with_interval(found.ece for found in of), with_interval(found.llgc for found in of),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------ trainings
def place_name(cell: Cell) -> tuple[str, str, str]:
    """How the page calls a cell's labels, sampling and prior."""
    initial, given = cell.place["active.initial"], cell.place["active.prior"]
    if cell.config.usb["algorithm"] == "linear_evaluation":
        guide = "linear evaluation"
    else:
        guide = "no prior" if given is None else f"{_called(given)}, {given['then']}"
    times = cell.config.usb["num_train_iter"] // STEPS
    return f"{initial['size']} labels", _called(initial), guide + (f", {TIMES.get(times, times)} times as long" if times > 1 else "")


def _called(block: Mapping[str, Any]) -> str:
    share = f" {100 * block['correct']:g} %" if "correct" in block else ""
    return block["name"] + share + ("" if block.get("fine_tune", True) else " not fine-tuned")


def training_table(cells: Iterable[Cell]) -> str:
    """Last and best accuracy (the paper reports the best) by number of labels, sampling and prior; and their gains, seed by seed."""
    found = by_place(cells, place_name)
    last, best = ({place: _only(seeds, name) for place, seeds in found.items()} for name in ("accuracy", "best_accuracy"))
    rows = []
    for place in sorted(last, key=lambda place: int(place[0].split()[0])):
        references = [last.get((place[0], sampler, "no prior"), last[place]) for sampler in (place[1], "stratified")]
        gains = ["" if of is last[place] else with_interval(paired(last[place], of), sign=True) for of in references]
        rows.append([", ".join(place), with_interval(last[place].values()), *gains, with_interval(best[place].values())])
    return table(["labels, sampling, prior", "last", "minus no prior", "minus stratified, no prior", "best (optimistic)"], rows) + "\n"


def oracle_table(cells: Iterable[Cell]) -> str:
    """By prior: how many of its rows were right, last and best accuracy of the training, and its gain, seed by seed."""
    found = by_place(cells, place_name)
    last, best = ({place: _only(seeds, name) for place, seeds in found.items()} for name in ("accuracy", "best_accuracy"))
    rows = []
    for place, seeds in found.items():
        logs = [RunDir.read(cell.run_path).metrics()[0].get("log", {}) for cell in seeds.values()]
        right = with_interval(100 * log["prior_accuracy"] for log in logs if "prior_accuracy" in log)
        reference = (*place[:2], "no prior")
        gain = with_interval(paired(last[place], last.get(reference, {})), sign=True) if place != reference else ""
        rows.append([", ".join(place), right, with_interval(last[place].values()), gain, with_interval(best[place].values())])
    return table(["labels, sampling, prior", "prior right (%)", "last", "minus no prior", "best (optimistic)"], rows) + "\n"


def _only(seeds: Mapping[int, Cell], name: str) -> dict[int, float]:
    """Seed → a metric of the one training."""
    return {seed: next(iter(accuracies(cell, name).values())) for seed, cell in seeds.items()}


# ------------------------------------------------------------------------------------------ the command
def learned(cells: Iterable[Cell]) -> list[Points]:
    """The features of each seed's pretraining, which every run has that has chosen by them."""
    found: dict[int, Path] = {}
    for cell in cells:
        for path in (cell.run_path / "pretrain").glob("backbone_features_*.npy"):
            found.setdefault(cell.seed, path)
    return [make_points(np.load(found[seed], allow_pickle=False)) for seed in sorted(found)]


def main() -> None:
    parser = table_parser(__doc__, "as3l")
    parser.add_argument("--only", choices=(*PARTS, ORACLE), help="one part of it")
    args = parser.parse_args()
    parts = [args.only] if args.only else PARTS
    cells = [] if parts == ["pixels"] else finished_cells(args.study, args.overrides)
    features, targets = pixels()
    made = {
        "trainings": lambda: training_table(cells),
        ORACLE: lambda: oracle_table(cells),
        "pixels": lambda: selection_tables([make_points(features)], DRAWS, targets),
        "learned": lambda: selection_tables(learned(cells), DRAWS_A_NETWORK, targets),
    }
    put("\n".join(f"## {part}\n\n{made[part]()}" for part in parts), args.out)


if __name__ == "__main__":
    main()
