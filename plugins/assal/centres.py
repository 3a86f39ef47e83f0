"""Samples nearest to the centres of k-means: ASSAL's choice at a cold start, as a function of arrays.

Dimension letters: N pool, M candidates, L labelled, D feature dimension, K clusters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from usb_active.numerics.arrays import check_count
from usb_active.numerics.greedy import checked_pool
from usb_active.numerics.kmeans import kmeans_centres, nearest_centres
from usb_active.numerics.spaces import EuclideanSpace


def nearest_to_centres(
    features: ArrayLike,
    budget: int,
    *,
    labeled: ArrayLike = (),
    candidates: ArrayLike | None = None,
    iterations: int = 25,
    starts: int = 10,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """The candidates nearest to the centres of k-means on the whole pool, those of the largest clusters first.

    K is L + budget. A labelled sample stands for the centre that is nearest to it, which is then not asked about again; so at least
    `budget` centres are left. All samples take part in the clustering, also those that cannot be queried. Where one candidate is
    nearest to two centres, the nearer centre has it, and the other takes the nearest that is left. Equals are in random order.

    Args:
        features: (N, D), finite.
        budget: how many to pick, 1 … M.
        labeled: (L,) idx.
        candidates: (M,) idx, by default all others.
        iterations: of k-means.
        starts: of which the best is taken.
        rng: what draws the first centres, and the order of equals.

    Returns:
        idx (budget,), the largest cluster's first.

    Raises:
        ValueError: features that are not finite (names the rows), idx that are out of range, repeated, or both labelled and candidate, a
            budget outside 1 … M, and `iterations` or `starts` below 1.
    """
    features, labeled, candidates = checked_pool(features, labeled, candidates, budget)
    check_count("iterations", iterations)
    check_count("starts", starts)
    # Around their mean and scaled, so that single precision tells them apart; names rows that are not finite.
    points = np.ascontiguousarray(EuclideanSpace(features).centred(np.arange(len(features)))[:, :-1])
    seed = int(rng.integers(2**31 - 1))
    centres = kmeans_centres(points, len(labeled) + budget, seed, iterations=iterations, starts=starts)
    sizes = np.bincount(nearest_centres(points, centres)[1], minlength=len(centres))
    # Of what is labelled the centres are done with.
    order = rng.permutation(np.delete(np.arange(len(centres)), nearest_centres(points[labeled], centres)[1] if len(labeled) else []))
    open_centres = order[np.argsort(-sizes[order], kind="stable")][:budget]
    return _one_each(points, centres[open_centres], rng.permutation(candidates))


def _one_each(points: NDArray[np.float32], centres: NDArray[np.float32], candidates: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each centre a candidate of its own, the nearest that no nearer centre has taken."""
    picks = np.full(len(centres), -1)
    while (waiting := np.flatnonzero(picks < 0)).size:
        distance, at = nearest_centres(centres[waiting], points[candidates])
        nearest_first = np.argsort(distance, kind="stable")
        taken, first = np.unique(at[nearest_first], return_index=True)
        picks[waiting[nearest_first[first]]] = candidates[taken]
        candidates = np.delete(candidates, taken)
    return picks
