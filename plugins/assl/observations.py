"""The files in which an analysis keeps what it observed, and what they come to. U unlabelled samples, T + 1 observations of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from usb_active.plugins.assl.analysis_functional import rank_correlation
from usb_active.plugins.assl.functional import temporal_instability

from usb_active import UsageError, load_artifact


def pool_name(cycle: int) -> str:
    """(U,) the dataset indices of what is observed in a cycle."""
    return f"cycle_{cycle:03d}_unlabeled"


def step_name(cycle: int, step: int) -> str:
    """An observation after this many steps: `labels`, `uncertainty` and `confident`, each (U,)."""
    return f"cycle_{cycle:03d}_step_{step:08d}"


def training_name(cycle: int) -> str:
    """What was watched of a cycle's training, each (N,), and its `num_train_iter`; only a training that has ended has it."""
    return f"cycle_{cycle:03d}_training"


@dataclass(frozen=True)
class Cycle:
    """What the observations of one cycle come to.

    Attributes:
        number: the cycle.
        steps: those after which it was observed.
        correlations: (T,) Spearman's correlation of the uncertainty at each step and the one before; None where undefined.
        overall: that of the uncertainty at the last step and the first; None where undefined, as with fewer than two steps.
        instability: (U,) Eq. 2.
        uncertainty: (U,) at the last observation.
        confident: (U,) the share of the observations in which a sample's largest probability was above the threshold.
        watched: of the same samples, each (U,): `changes`, `visits`, and the moving averages `uncertainty`, `inconsistency`, as
            far as they were watched.
    """

    number: int
    steps: tuple[int, ...]
    correlations: tuple[float | None, ...]
    overall: float | None
    instability: NDArray[np.int64]
    uncertainty: NDArray[np.float32]
    confident: NDArray[np.float64]
    watched: dict[str, NDArray]


def read_cycles(folder: Path, interval: int) -> list[Cycle]:
    """Every cycle whose training has ended. UsageError when a file of it is gone or damaged (names it)."""
    names = (re.fullmatch(r"cycle_(\d+)_training\.npz", path.name) for path in folder.glob("cycle_*_training.npz"))
    return [_read_cycle(folder, number, interval) for number in sorted(int(name[1]) for name in names if name)]


def _read_cycle(folder: Path, number: int, interval: int) -> Cycle:
    training = dict(_load(folder / training_name(number)))
    steps = tuple(range(interval, int(training.pop("num_train_iter")) + 1, interval))
    if not steps:
        return Cycle(number, (), (), None, np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0), {})
    idx = np.asarray(_load(folder / pool_name(number)))
    instability, confident, correlations = np.zeros(len(idx), dtype=np.int64), np.zeros(len(idx)), []
    first = before = None
    for step in steps:
        now = _load(folder / step_name(number, step))
        confident += now["confident"]
        if before is not None:
            # Two at a time: many observations of a large pool need not fit into memory.
            instability += temporal_instability(np.stack([before["labels"], now["labels"]]))
            correlations.append(rank_correlation(before["uncertainty"], now["uncertainty"]))
        first, before = now if first is None else first, now
    watched = {name: values[idx] for name, values in training.items()}
    overall = rank_correlation(first["uncertainty"], before["uncertainty"]) if len(steps) > 1 else None
    return Cycle(number, steps, tuple(correlations), overall, instability, before["uncertainty"], confident / len(steps), watched)


def _load(path: Path):
    found = load_artifact(path)
    if found is None:
        raise UsageError(f"{path} is gone: the observations of this cycle are incomplete; restore it from a copy")
    return found
