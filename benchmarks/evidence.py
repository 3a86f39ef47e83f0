"""What the evidence tables share: the finished cells of a study, and means with confidence intervals over the seeds.

The runs are made by `usb-active sweep STUDY`. What lies here lays out what `usb-active report` does not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from usb_active.commands.sweep import is_finished
from usb_active.config.study import Cell, read_study
from usb_active.errors import UsageError
from usb_active.numerics.statistics import half_width
from usb_active.storage.run_dir import RunDir

if TYPE_CHECKING:
    from usb_active.contracts.dataset import Dataset
    from usb_active.report.runs import RunRecord

Place = TypeVar("Place", bound=Hashable)

# The cheap classifiers of a run's baselines that tables show, and how pages call them.
CHEAP = {"nearest": "1-NN", "logistic": "logistic regression", "spreading": "label spreading"}


def table_parser(doc: str | None, study: str) -> argparse.ArgumentParser:
    """What the command of every table of a study understands."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", default=study, help=f"as `usb-active sweep` takes it; {study} unless given")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="as the sweep was given it")
    parser.add_argument("--out", type=Path, help="write the tables there instead of printing them")
    return parser


def finished_cells(study: str, overrides: Sequence[str] = ()) -> list[Cell]:
    """The cells of a study that are finished; how many are not is said on stderr.

    Raises:
        SystemExit: no such study, or none of its cells is finished.
    """
    try:
        found = read_study(study, overrides)
    except UsageError as error:
        raise SystemExit(str(error)) from error
    done = [cell for cell in found.cells if is_finished(cell)]
    if not done:
        raise SystemExit(f"no cell of {study} is finished in {found.folder}; `usb-active sweep {study}` makes them")
    if len(done) < len(found.cells):
        print(f"{len(done)} of {len(found.cells)} cells are finished in {found.folder}; the others are left out", file=sys.stderr)
    return done


def by_place(cells: Iterable[Cell], place_of: Callable[[Cell], Place]) -> dict[Place, dict[int, Cell]]:
    """Row of a table → seed → cell, in the order of the cells.

    Raises:
        SystemExit: two cells of one seed have one row: the study is another than the table is for.
    """
    found: dict[Place, dict[int, Cell]] = {}
    for cell in cells:
        other = found.setdefault(place_of(cell), {}).setdefault(cell.seed, cell)
        if other is not cell:
            raise SystemExit(f"{other.name} and {cell.name} are one row of the table ({place_of(cell)}); it is for another study")
    return found


def rule_name(acquisition: str | Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> str:
    """How a page calls a value of `active.acquisition`: its name, and what is not as by default.

    Args:
        parts: how the page calls keys and their values; others are called by key and value.
    """
    if isinstance(acquisition, str):
        return acquisition
    keys = {name: value for name, value in acquisition.items() if name != "name"}
    called = next((part for part, its in parts.items() if its == keys), ", ".join(f"{name} {value}" for name, value in keys.items()))
    return f"{acquisition['name']}, {called}" if called else acquisition["name"]


def put(text: str, out: Path | None) -> None:
    """Print the tables, or write them into a file."""
    if out:
        out.write_text(text, encoding="utf-8")
    else:
        print(text)


def accuracies(cell: Cell, name: str = "accuracy") -> dict[int, float]:
    """Number of labels → accuracy in percent."""
    return {line["num_labels"]: 100 * line[name] for line in RunDir.read(cell.run_path).metrics()}


def with_baselines(cell: Cell) -> tuple[RunRecord, dict[int, dict]]:
    """A finished run, and the entry of the cheap classifiers for each of its cycles, computed where it is not there yet.

    Raises:
        SystemExit: some cannot be had; the line says why.
    """
    from usb_active.report.baselines import run_baselines
    from usb_active.report.galleries import load_dataset
    from usb_active.report.runs import read_runs

    (run,), _ = read_runs([cell.run_path])
    entries, notes = run_baselines(run, partial(load_dataset, trusted=True))
    if notes:
        raise SystemExit("\n".join(notes))
    return run, entries


def cheap(cell: Cell) -> dict[str, dict[int, float]]:
    """Classifier of `CHEAP` → number of labels → accuracy in percent on the labels of a run."""
    run, entries = with_baselines(cell)
    return {name: {line["num_labels"]: 100 * entries[line["cycle"]]["accuracies"][name] for line in run.metrics} for name in CHEAP}


def pixels() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The pixels of digits' pool (N, 64), from 0 to 1, and its classes (N,)."""
    from usb_active.builtin.array_datasets import Digits

    return pixels_of(Digits())


def pool_of(cell: Cell) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The pixels of a finished run's pool (N, D), from 0 to 1, and its classes (N,); all its images have one size."""
    from usb_active.report.galleries import load_dataset

    return pixels_of(load_dataset(RunDir.read(cell.run_path), trusted=True))


def pixels_of(pool: Dataset) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(N, D) pixels from 0 to 1, and (N,) classes."""
    images = np.stack([np.asarray(pool.load(i)) for i in range(len(pool))]).reshape(len(pool), -1)
    return images.astype(np.float32) / images.max(), np.asarray(pool.targets)


def with_interval(values: Iterable[float], digits: int = 1, sign: bool = False) -> str:
    """`81.2 ± 0.5`: the mean and its confidence interval; without one below three seeds, where it says nothing."""
    values = list(values)
    if not values:
        return "–"
    form = f"{'+' if sign else ''}.{digits}f"
    around = f" ± {half_width(values):.{digits}f}" if len(values) > 2 else ""
    return f"{mean(values):{form}}{around}"


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> list[float]:
    """The differences from a reference, seed by seed."""
    return [values[seed] - reference[seed] for seed in values if seed in reference]


def above(
    curves: Mapping[int, Mapping[int, float]], reference: Mapping[int, Mapping[int, float]], counts: Sequence[int], digits: int = 1
) -> str:
    """The difference of the means over some numbers of labels, taken seed by seed, with its interval.

    Args:
        curves: seed → number of labels → accuracy in percent; so is the reference.
    """
    mine, theirs = ({seed: mean(curve[count] for count in counts) for seed, curve in of.items()} for of in (curves, reference))
    return with_interval(paired(mine, theirs), digits=digits, sign=True)
