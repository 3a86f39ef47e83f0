"""Pictures of what was picked, cycle by cycle."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from usb_active.errors import UsageError, name_some, reason_of
from usb_active.report.runs import RunRecord
from usb_active.storage.audit_file import read_audit
from usb_active.storage.durable import atomic_write
from usb_active.storage.journal_checks import asked_cycles
from usb_active.storage.run_dir import RunDir

if TYPE_CHECKING:
    from usb_active.contracts.dataset import Dataset

GALLERY_SIZE, GALLERY_COLUMNS = 50, 10


def draw_galleries(run: RunRecord, dataset_of: Callable[[RunDir], Dataset], out: Path) -> tuple[list[Path], list[str]]:
    """The galleries that could be drawn, and a line with the reason for those that could not."""
    try:
        dataset = dataset_of(run.directory)
    except Exception as error:  # a dataset may be anyone's code; the report says why its pictures are missing
        return [], [f"The gallery is left out: the dataset is not available: {reason_of(error)}"]
    drawn, lines = [], []
    # Those that there are: the one after the last training may be waiting for its answers.
    for cycle in asked_cycles(run.path):
        try:
            drawn.append(gallery(run.directory, dataset, cycle, out))
        except Exception as error:  # as above
            lines.append(f"The gallery of cycle {cycle} is left out: {reason_of(error)}")
    return drawn, lines


def gallery(run: RunDir, dataset: Dataset, cycle: int, out: Path) -> Path:
    """Draw the first 50 picks of a cycle, best first, with their labels, as `out`/gallery_cycle_NNN.png.

    Raises:
        UsageError: the cycle has no query, or the dataset has lost a sample that was picked.
    """
    from matplotlib.figure import Figure

    query = run.query(cycle)
    if query is None:
        raise UsageError(f"{run.path}: cycle {cycle} has no query")
    picked = np.flatnonzero(~np.isin(query.idx, read_audit(run))).tolist()
    keys = [query.keys[at] for at in picked[:GALLERY_SIZE]]
    positions = _positions(dataset, keys)
    captions = _captions(run, query.idx[picked[: len(keys)]])
    height = max(1, math.ceil(len(keys) / GALLERY_COLUMNS))
    figure = Figure(figsize=(GALLERY_COLUMNS * 1.1, height * 1.35 + 0.5), dpi=120, layout="constrained")
    shown = f", the first {len(keys)}" if len(keys) < len(picked) else ""
    title = f"Cycle {cycle}, {query.acquisition}: {len(picked)} picked{shown}"
    figure.suptitle(title, fontsize=11, parse_math=False)
    grid = figure.subplots(height, GALLERY_COLUMNS, squeeze=False)
    for place, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if place < len(keys):
            _draw_sample(axes, dataset.load(positions[keys[place]]), captions[place])
    path = out / f"gallery_cycle_{cycle:03d}.png"
    atomic_write(path, partial(figure.savefig, format="png"))
    return path


def _positions(dataset: Dataset, keys: Sequence[str]) -> dict[str, int]:
    """Where the dataset, which may have grown or lost samples since, holds these keys."""
    wanted = set(keys)
    positions = {key: i for i, key in enumerate(dataset.keys) if key in wanted}
    missing = [key for key in keys if key not in positions]
    if missing:
        raise UsageError(f"dataset '{dataset.name}' no longer has the samples {name_some(missing)}")
    return positions


def _captions(run: RunDir, idx: Iterable[int]) -> list[str]:
    # The last row of an index counts: a later row is a correction.
    answers = {row.index: row.label if row.status == "labeled" else f"({row.status})" for row in run.rows()}
    texts = [answers.get(int(i), "(no answer yet)") for i in idx]
    return [text if len(text) <= 15 else f"{text[:14]}…" for text in texts]


def _draw_sample(axes: Any, sample: Any, caption: str) -> None:
    if hasattr(sample, "convert"):
        sample = sample.convert("L" if sample.mode in ("1", "L") else "RGB")
    pixels = np.asarray(sample)
    colors = {"cmap": "gray", "vmin": 0, "vmax": 255} if pixels.ndim == 2 else {}
    axes.imshow(pixels, interpolation="nearest" if max(pixels.shape[:2]) < 100 else "antialiased", **colors)
    axes.text(0.5, -0.05, caption, transform=axes.transAxes, ha="center", va="top", fontsize=8, parse_math=False)


def load_dataset(run: RunDir, *, trusted: bool = False) -> Dataset:
    """The dataset of a run, from its own configuration. UsageError when that names plugins that are not installed, unless `trusted`."""
    from usb_active.config.settings import load_yaml_config
    from usb_active.config.trust import check_plugins

    check_plugins(run.path, run.config.get("plugins"), trusted)
    config = load_yaml_config(run.path / "config.yaml", [])
    # After the configuration has been checked: this brings torch.
    from usb_active.loop.setup import build_dataset

    return build_dataset(config, run)
