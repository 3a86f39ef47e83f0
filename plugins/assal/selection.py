"""From scores to picks, and what is logged and kept of both and of the sampler: shared by the acquisitions here and the algorithm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from usb_active import PoolView, top_k


def choose(view: PoolView, budget: int, scores: NDArray, prefix: str, logged: Mapping[str, NDArray]) -> NDArray[np.int64]:
    """(budget,) the candidates of highest score, ties broken at random.

    Args:
        view: the pool.
        budget: how many.
        scores: (P,) of the candidates.
        prefix: of what is logged: `prefix/name` is the mean over the candidates, `prefix/name_of_picks` over the picks.
        logged: (P,) values of the candidates, by name.
    """
    picks = top_k(scores, view.candidates, budget, view.rng)
    picked = np.isin(view.candidates, picks)
    for name, values in logged.items():
        view.log(f"{prefix}/{name}", values.mean())
        view.log(f"{prefix}/{name}_of_picks", values[picked].mean())
    return picks


def keep_epochs(view: PoolView, name: str, accuracies: Sequence[float]) -> None:
    """Keep a sampler's balanced accuracy in each epoch of a training, as the run's artifact `<name>_epochs_<cycle>`.

    Args:
        view: the pool.
        name: whose sampler it is; what two trainings of a cycle have in common would be kept once.
        accuracies: 0 to 1, in the order of the epochs.
    """
    view.artifact(f"{name}_epochs_{view.cycle:03d}", lambda: np.array(accuracies, dtype=np.float64))
