"""The tables of docs/assal.md, from the finished cells of the studies `assal`, `assal_supervised` and `assal_mnist`.

    usb-active sweep assal --jobs 2
    python benchmarks/assal_table.py
    usb-active sweep assal_supervised --jobs 2
    python benchmarks/assal_table.py assal_supervised
    usb-active sweep assal_mnist --jobs 2 --set data_dir=FOLDER
    python benchmarks/assal_table.py assal_mnist --set data_dir=FOLDER

Beside the accuracies: the differences from random labels under the same start (where the study has those, else under the usual one),
seed by seed, of the last training and of the mean over the trainings after the first; and the balanced accuracy of the sampler that the
rule chose by, the mean over the rounds (50 % is chance). Rules without a sampler have that of ASSAL's trainer, which they did not choose
by, in brackets. The last rows are cheap classifiers on the labels that `random` had. The second table has the balanced accuracy of each
sampler in the course of its training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import mean

import numpy as np
from evidence import CHEAP, Cell, above, accuracies, by_place, cheap, finished_cells, put, rule_name, table_parser, with_interval
from numpy.typing import NDArray

from usb_active import load_artifact
from usb_active.report.tables import table
from usb_active.storage.run_dir import RunDir

# Keys that are for a small pool; all rules that train an autoencoder have them, so no row says so.
SIZES = ("epochs", "latent", "width", "lr")
# How rows of ASSAL beside another trainer are called.
PARTS = {"beside": {"beside": True}, "beside, with its entropy": {"beside": True, "score": "sampler_entropy"}}
# What a row is unless it says otherwise, and how it says so.
STARTS = {"active.pretrain": "pretrained by", "active.initial": "first labels by", "assal_target": "h_U"}
USUAL = (None, "balanced", "rotation")
# After which shares of its epochs a sampler is shown; 0 is the first epoch.
PARTS_OF_TRAINING = (0, 0.25, 0.5, 0.75, 1)


def place_name(cell: Cell) -> str:
    """How the page calls a cell: its rule, and what of start and target is not as usual."""
    rule = cell.place["active.acquisition"]
    if isinstance(rule, Mapping):
        rule = {key: value for key, value in rule.items() if key not in SIZES}
    return ", ".join([rule_name(rule, PARTS), *_unusual(cell)])


def reference_name(cell: Cell) -> str:
    """The row of random labels that a cell is compared with: that of its own start and target."""
    return ", ".join(["random", *_unusual(cell)])


def _unusual(cell: Cell) -> list[str]:
    values = [cell.place.get(key) for key in STARTS]
    names = [value.get("name") if isinstance(value, Mapping) else value for value in values]
    return [f"{said} {name}" for said, name in zip(STARTS.values(), names, strict=True) if name not in USUAL]


def sampler_accuracy(cell: Cell) -> tuple[float | None, bool]:
    """Balanced accuracy of a run's sampler in percent, mean over the rounds, and whether the rule chose by it; None without one."""
    logs = [line.get("log") or {} for line in RunDir.read(cell.run_path).metrics()]
    rule = cell.config.active.acquisition.name
    for key, its in ((f"{rule}/balanced_accuracy", True), ("assal/sampler_accuracy", rule == "assal")):
        values = [100 * log[key] for log in logs if key in log]
        if values:
            return mean(values), its
    return None, False


def rule_table(places: Mapping[str, Mapping[int, Cell]]) -> str:
    """A row for each rule, a column for each number of labels, what it is above random, and its sampler; the cheap classifiers last."""
    curves = {rule: {seed: accuracies(cell) for seed, cell in seeds.items()} for rule, seeds in places.items()}
    counts = list(next(iter(curves["random"].values())))
    rows = []
    for rule, seeds in places.items():
        other = curves.get(reference_name(next(iter(seeds.values()))), curves["random"])
        gains = ["", ""] if other is curves[rule] else [above(curves[rule], other, among) for among in (counts[-1:], counts[1:])]
        scores = [with_interval(curve[count] for curve in curves[rule].values()) for count in counts]
        rows.append([rule, *scores, *gains, _samplers(seeds.values()), str(len(seeds))])
    simple = [cheap(cell) for cell in places["random"].values()]
    for name, called in CHEAP.items():
        rows.append([called, *(with_interval(found[name][count] for found in simple) for count in counts), *[""] * 3, str(len(simple))])
    after = f"{counts[1]}–{counts[-1]}"
    about = [f"minus random, {counts[-1]} labels", f"minus random, mean of {after}", "sampler (%)", "seeds"]
    return table(["rule", *(f"{count} labels" for count in counts), *about], rows)


def _samplers(cells: Iterable[Cell]) -> str:
    found = [sampler_accuracy(cell) for cell in cells]
    values = [value for value, _ in found if value is not None]
    text = with_interval(values)
    return text if not values or all(its for _, its in found) else f"({text})"


def epochs_of(cell: Cell) -> list[NDArray[np.float64]]:
    """Balanced accuracy in percent by epoch of the sampler that a run chose by, for each of its rounds; none without a sampler."""
    rule, folder = cell.config.active.acquisition.name, cell.run_path / "artifacts"
    found = [folder / f"{name}_epochs_{cycle:03d}" for name in (rule, f"{rule}_training") for cycle in range(cell.trainings)]
    kept = [100 * values for path in found if (values := load_artifact(path)) is not None]
    # The last training's sampler chooses nothing.
    return kept[: cell.trainings - 1]


def epoch_table(places: Mapping[str, Mapping[int, Cell]]) -> str:
    """A row for each rule that has a sampler: its balanced accuracy after parts of the epochs, mean over the rounds."""
    rows = []
    for rule, seeds in places.items():
        runs = [np.mean(rounds, axis=0) for cell in seeds.values() if (rounds := epochs_of(cell))]
        if runs:
            count = len(runs[0])
            at = [max(1, round(part * count)) for part in PARTS_OF_TRAINING]
            rows.append([rule, str(count), *(with_interval(values[epoch - 1] for values in runs) for epoch in at), str(len(runs))])
    parts = [f"{part:.0%}" if part else "first" for part in PARTS_OF_TRAINING]
    return table(["sampler (%)", "epochs", *parts, "seeds"], rows)


def main() -> None:
    args = table_parser(__doc__, "assal").parse_args()
    places = by_place(finished_cells(args.study, args.overrides), place_name)
    put(f"{rule_table(places)}\n\n{epoch_table(places)}\n", args.out)


if __name__ == "__main__":
    main()
