"""Weighted k-means, and a sample for each centre.

Dimension letters: N rows, D feature dimension, K clusters.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from usb_active.environment.compiling import prepare_compiling
from usb_active.numerics.kmeans import assign_rows
from usb_active.numerics.spaces import square_norms

_ROUNDS = 100  # of Lloyd's iteration, at most


def weighted_kmeans(
    points: NDArray[np.float32], weights: NDArray[np.float64], clusters: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Centres (K, D) that lower the weighted sum of squared distances, and the nearest of each row (N,).

    From seeds of k-means++ (weights times squared distances), by Lloyd's iteration until nothing changes, or a hundred times. A cluster
    without weight keeps its centre.

    Args:
        points: (N, D) from `as_points`.
        weights: (N,), at least 0.
        clusters: K, 1..N.
        rng: what draws the seeds.
    """
    centres = points[_seeds(points, weights, clusters, rng)].astype(np.float64)
    assignment = np.full(len(points), -1)
    for _ in range(_ROUNDS):
        before, assignment = assignment, assign_rows(points, centres)[0]
        if np.array_equal(before, assignment):
            break
        sums, mass = np.zeros_like(centres), np.bincount(assignment, weights, clusters)
        _add_rows(points, weights, assignment, sums)
        np.divide(sums, mass[:, None], out=centres, where=mass[:, None] > 0)
    return centres, assignment


def _seeds(points: NDArray[np.float32], weights: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows drawn by weight times squared distance to the nearest drawn before; uniformly from the others where that is zero."""
    seeds, nearest = np.empty(count, np.int64), np.ones(len(points))
    for step in range(count):
        chances = weights * nearest
        chances[seeds[:step]] = 0
        total = chances.cumsum()
        if total[-1] > 0:
            seeds[step] = min(np.searchsorted(total, rng.random() * total[-1], side="right"), np.flatnonzero(chances)[-1])
        else:
            seeds[step] = rng.choice(np.delete(np.arange(len(points)), seeds[:step]))
        squared = _squared_to(points, points[seeds[step]])
        nearest = squared if step == 0 else np.minimum(nearest, squared)
    return seeds


def nearest_samples(points: NDArray[np.float32], centres: NDArray[np.float64], mass: NDArray[np.float64]) -> NDArray[np.int64]:
    """(K,) distinct rows: each centre's nearest that none before it has taken; the centre with the largest mass (K,) first.

    Distances in double precision; of equals the first row, so that rows in random order give a fair choice.
    """
    taken, out = np.zeros(len(points), bool), np.empty(len(centres), np.int64)
    norms = square_norms(points).astype(np.float64)
    # Of |x|^2 + |c|^2 - 2xc in single precision: Higham 2002, section 3.1.
    slack = 4 * (points.shape[1] + 4) * 2.0**-24
    for place, k in enumerate(np.argsort(-mass, kind="stable")):
        own = float(centres[k] @ centres[k])
        rough = norms + own - 2 * (points @ centres[k].astype(np.float32))
        error = slack * (norms + own)
        limit = (rough + error)[~taken].min()
        near = np.flatnonzero(~taken & (rough - error <= limit))
        out[place] = near[np.argmin(_squared_to(points[near], centres[k]))]
        taken[out[place]] = True
    return out


prepare_compiling(nearest_samples, "the loops of clue and drop_query")


@njit(cache=True, nogil=True, fastmath={"contract"})
def _add_rows(points, weights, assignment, sums):
    """Every row times its weight, added to the sum (K, D) of its cluster, in double precision."""
    for n in range(len(points)):
        weight, row, total = weights[n], points[n], sums[assignment[n]]
        for d in range(len(row)):
            total[d] += weight * row[d]


def _squared_to(points: NDArray[np.float32], centre: NDArray) -> NDArray[np.float64]:
    """(N,) squared distances of rows to a centre (D,), in double precision."""
    return _squares(points, centre.astype(np.float64))


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _squares(points, centre):
    out = np.empty(len(points))
    for n in range(len(points)):
        row, total = points[n], 0.0
        for d in range(len(row)):
            difference = row[d] - centre[d]
            total += difference * difference
        out[n] = total
    return out
