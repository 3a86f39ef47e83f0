"""What the evidence tables share: many seeded runs, each resumable, and means with confidence intervals over the seeds.

A *cell* is one run. Its directory is named after it, so that the same command resumes where it stopped: finished cells are only
read, and one that was interrupted is resumed by the run's own means. Cells run in `workers` processes, one after the other in each.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from usb_active.numerics.statistics import half_width
from usb_active.storage.run_dir import RunDir


@dataclass(frozen=True)
class Cell:
    """One run of a table: its place there, and a YAML with what is put over it. `seed` is put over it as well."""

    place: tuple[str, ...]
    config: str
    overrides: Mapping[str, Any]
    seed: int

    @property
    def name(self) -> str:
        """The name of the run directory."""
        words = "-".join(self.place)
        return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in words) + f"-{self.seed}"


# ------------------------------------------------------------------------------------------ the command
def table_parser(doc: str | None, *, needs_root: bool = True) -> argparse.ArgumentParser:
    """What the command of every table understands."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=needs_root, help="where the runs are kept")
    parser.add_argument("--seeds", type=_at_least_one, default=5)
    parser.add_argument("--workers", type=_at_least_one, default=1)
    parser.add_argument("--out", type=Path, help="write the tables there instead of printing them")
    return parser


def _at_least_one(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}; at least 1")
    return int(text)


def put(text: str, out: Path | None) -> None:
    """Print the tables, or write them into a file."""
    if out:
        out.write_text(text, encoding="utf-8")
    else:
        print(text)


# ------------------------------------------------------------------------------------------ running
def run_cells(cells: Sequence[Cell], root: Path, workers: int) -> None:
    """Run what is not finished yet, below `root`. Says what went wrong at the end, with exit code 1: nothing else is lost by it."""
    waiting = [cell for cell in cells if not finished(cell, root)]
    print(f"{len(cells)} runs, {len(waiting)} to do, in {root}", flush=True)
    if not waiting:
        return
    failures = []
    # Not forked: torch's threads and a fork do not go together.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(run_cell, cell, root): cell for cell in waiting}
        for count, future in enumerate(as_completed(futures), start=1):
            error = future.exception()
            if error is not None:
                failures.append(f"{futures[future].name}: {type(error).__name__}: {error}")
            print(f"[{count}/{len(waiting)}] {futures[future].name}{' FAILED' if error else ''}", flush=True)
    if failures:
        sys.exit("\n".join(failures))


def run_cell(cell: Cell, root: Path) -> None:
    """Train one cell, or resume it. The CPU seconds of it, selections and evaluations included, are kept beside its run."""
    from usb_active.config.settings import load_yaml_config
    from usb_active.usb.launcher import make_algorithm

    logging.disable(logging.INFO)
    before = cpu_seconds(cell, root)
    began = time.process_time()
    make_algorithm(load_yaml_config(cell.config, overrides(cell, root))).train()
    _seconds_file(cell, root).write_text(f"{before + time.process_time() - began:.2f}\n", encoding="utf-8")


def cpu_seconds(cell: Cell, root: Path) -> float:
    """CPU seconds of a cell's run, all its threads together; 0 where they were not kept. What was killed before its end is not in it."""
    path = _seconds_file(cell, root)
    return float(path.read_text(encoding="utf-8")) if path.exists() else 0.0


def _seconds_file(cell: Cell, root: Path) -> Path:
    return root / f"{cell.name}.cpu_seconds"


def finished(cell: Cell, root: Path) -> bool:
    """Whether all trainings of this cell's configuration are done."""
    from usb_active.config.settings import load_yaml_config

    path = root / cell.name
    if not (path / "config.yaml").exists():
        return False
    cycles = load_yaml_config(cell.config, overrides(cell, root)).active.cycles
    return len(RunDir.read(path).metrics()) == cycles + 1


def overrides(cell: Cell, root: Path) -> list[str]:
    """What is put over a cell's YAML, as `key=value` texts."""
    values = {**cell.overrides, "seed": cell.seed, "save_dir": str(root), "save_name": cell.name}
    # A scalar's document ends with a line of dots.
    texts = {key: yaml.safe_dump(value, default_flow_style=True).strip().removesuffix("\n...") for key, value in values.items()}
    return [f"{key}={text}" for key, text in texts.items()]


# ------------------------------------------------------------------------------------------ reading
def accuracies(cell: Cell, root: Path, name: str = "accuracy") -> dict[int, float]:
    """Number of labels → accuracy in percent."""
    return {line["num_labels"]: 100 * line[name] for line in RunDir.read(root / cell.name).metrics()}


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
