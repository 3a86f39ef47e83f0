"""From scores to picks, and what is logged of both: shared by the acquisitions here."""

from __future__ import annotations

from collections.abc import Mapping

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
