"""The best of a score, with ties drawn."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from usb_active.numerics.arrays import check_budget, checked_idx, named


def top_k(
    scores: ArrayLike, candidates: ArrayLike, budget: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The candidates with the highest scores, highest first; equal scores come in random order.

    No full sort: O(M). A pool may stand in the order of its classes, so ties broken by position would favour some of them.

    Args:
        scores: (M,), one per candidate, finite.
        candidates: (M,) idx.
        budget: how many to pick, 1..M.
        rng: what draws the order of equal scores.

    Returns:
        idx (budget,).

    Raises:
        ValueError: lengths that differ, repeated idx, a budget outside 1..M, and scores that are not finite (names the samples).
    """
    candidates = checked_idx("candidates", candidates)
    scores = np.asarray(scores)
    if scores.shape != candidates.shape:
        raise ValueError(
            f"scores: expected one score per candidate, shape {candidates.shape}, got {scores.shape}; "
            "scores of the whole pool want scores[candidates]"
        )
    check_budget(budget, len(candidates))
    bad = candidates[~np.isfinite(scores)]
    if len(bad):
        raise ValueError(f"scores: not finite for {named('sample', bad)}")
    order = rng.permutation(len(candidates))
    return candidates[order[leading(scores[order], budget)]]


def leading(values: NDArray, count: int) -> NDArray[np.int64]:
    """Positions of the `count` largest values, largest first, equal ones by position, without a full sort."""
    threshold = np.partition(values, len(values) - count)[len(values) - count]
    above = np.flatnonzero(values > threshold)
    level = np.flatnonzero(values == threshold)[: count - len(above)]
    return np.concatenate([above[np.argsort(-values[above], kind="stable")], level])
