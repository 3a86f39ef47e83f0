"""K-means for AS3L: plain runs by faiss, quick ones for TypiClust, runs seeded and constrained by labelled samples, and what several runs
agree on.

Dimension letters: N pool, L labelled, D feature dimension, K clusters, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix

from usb_active.numerics.arrays import blocks
from usb_active.numerics.kmeans import assign_rows, kmeans_centres, nearest_centres

# The paper names none of these. Iterations: faiss's own number. Starts: with few clusters single runs end in poor local optima
# (digits, 10 clusters: the picks cover 8.75 classes after one start and 9.05 after ten); with many it evens out.
ITERATIONS = 25
STARTS, CLUSTERS_STARTED = 10, 400
# Rows to a centre that the starts look at, at least so many in all; and iterations over all rows that follow the best start.
SAMPLE, LEAST_SAMPLE, REFINEMENTS = 64, 2048, 10
# Of the quick runs: iterations of every start, of the best start after these, and over all rows.
TRIAL, REST, LAST = 8, 12, 5


def kmeans(points: NDArray[np.float32], clusters: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(N,) the nearest of K centres after k-means. Clusters may be empty, as among equal rows.

    The best of several starts (400 / K, 1 … 10) from random rows, on a sample of the pool; then some iterations on all of it.

    Args:
        points: (N, D) from `as_points`.
        clusters: K, 1 … N.
        rng: what draws the sample and the starts.
    """
    starts, sample = _starts(clusters), _sample(points, clusters, rng)
    seed = int(rng.integers(2**31 - 1))
    centres = kmeans_centres(sample, clusters, seed, iterations=ITERATIONS, starts=starts)
    centres = kmeans_centres(points, clusters, seed, iterations=REFINEMENTS, first=centres)
    return nearest_centres(points, centres)[1]


def quick_kmeans(points: NDArray[np.float32], clusters: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(N,) the nearest of K centres after k-means, as `kmeans` but in a fraction of the time. Clusters may be empty, as among equal rows.

    Up to 40 clusters it is `kmeans`: fewer iterations would choose worse among ten starts, and cost little anyway. With more, as many
    starts from random rows of as large a sample, but of 8 iterations; then 12 of the best alone, and 5 on all rows. Each by one matrix
    product in single precision, and none after one that changes nothing. A cluster that has lost its last row goes on from a random row
    of a large one.

    Args:
        points: (N, D) from `as_points`.
        clusters: K, 1 … N.
        rng: what draws the sample and the starts.
    """
    starts = _starts(clusters)
    if starts == STARTS:
        return kmeans(points, clusters, rng)
    sample = _sample(points, clusters, rng)
    centres = [sample[rng.choice(len(sample), clusters, replace=False)] for _ in range(starts)]
    if len(centres) > 1:
        centres = [_lloyd(sample, start, TRIAL, rng) for start in centres]
        centres.sort(key=lambda means: -assign_rows(sample, means)[1])
    means = _lloyd(sample, centres[0], REST if len(centres) > 1 else TRIAL + REST, rng)
    return assign_rows(points, _lloyd(points, means, LAST, rng))[0]


def _starts(clusters: int) -> int:
    return int(np.clip(CLUSTERS_STARTED // clusters, 1, STARTS))


def _sample(points: NDArray[np.float32], clusters: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """The rows that starts look at, in their order."""
    rows = max(SAMPLE * clusters, LEAST_SAMPLE)
    return points if rows >= len(points) else points[np.sort(rng.choice(len(points), rows, replace=False))]


def _lloyd(points: NDArray[np.float32], centres: NDArray, iterations: int, rng: np.random.Generator) -> NDArray:
    """(K, D) centres after so many of Lloyd's iterations, or fewer where nothing changes any more.

    An empty cluster goes on from a row of a large one, or where it is if there are more of them than others.
    """
    assignment = np.full(len(points), -1)
    for _ in range(iterations):
        before, assignment = assignment, assign_rows(points, centres)[0]
        if np.array_equal(before, assignment):
            break
        sums, counts = cluster_sums(points, assignment, len(centres))
        centres = np.divide(sums, counts[:, None], out=np.array(centres, np.float64), where=counts[:, None] > 0)
        empty = np.flatnonzero(counts == 0)
        for cluster, large in zip(empty, np.argsort(-counts, kind="stable"), strict=False):
            if counts[large]:
                centres[cluster] = points[rng.choice(np.flatnonzero(assignment == large))]
    return centres


def constrained_kmeans(
    points: NDArray[np.float32], clusters: int, labeled: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """(N,) clusters of Constrained-KMeans (Basu et al. 2002, Fig. 2), with one seed to a cluster.

    Each of the labelled samples (L,) is the seed of one cluster, its first centre, and stays in it. With K > L the others begin
    at random rows without a label; with K < L a random K of the labelled are seeds, and the others are as free as any sample.
    Rows as near to several centres, such as copies of several seeds, have their tie broken at random.
    """
    size = len(points)
    seeds = rng.permutation(labeled)[:clusters]
    free = rng.choice(np.delete(np.arange(size), labeled), clusters - len(seeds), replace=False)
    centres = points[np.concatenate([seeds, free])].astype(np.float64)
    assignment = np.full(size, -1)
    for _ in range(ITERATIONS):
        before, assignment = assignment, nearest_centres(points, centres)[1]
        assignment[seeds] = np.arange(len(seeds))
        if np.array_equal(before, assignment):
            break
        sums, counts = cluster_sums(points, assignment, clusters)
        # A free cluster that has lost its last sample keeps its centre.
        np.divide(sums, counts[:, None], out=centres, where=counts[:, None] > 0)
    return assignment


def cluster_sums(
    points: NDArray[np.float32], assignment: NDArray[np.int64], clusters: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(K, D) sums over the samples of each cluster, and how many there are (K,)."""
    sums = np.zeros((clusters, points.shape[1]))
    for rows in blocks(np.arange(len(points)), points.shape[1]):
        part = slice(rows[0], rows[-1] + 1)
        ones, starts = np.ones(len(rows), dtype=np.float32), np.arange(len(rows) + 1)
        sums += csc_matrix((ones, assignment[part], starts), shape=(clusters, len(rows))) @ points[part]
    return sums, np.bincount(assignment, minlength=clusters)


def together(assignments: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """(N,) groups 0 … G−1 of the samples that share their cluster in all the clusterings, (N,) each."""
    groups = np.zeros(len(assignments[0]), dtype=np.int64)
    for assignment in assignments:
        groups = np.unique(groups * (assignment.max() + 1) + assignment, return_inverse=True)[1].reshape(-1)
    return groups
