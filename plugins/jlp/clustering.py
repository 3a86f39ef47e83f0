"""What DeepCluster does beside training: features prepared and clustered, samples drawn evenly from clusters, clusterings compared.

Caron, Bojanowski, Joulin and Douze, "Deep Clustering for Unsupervised Learning of Visual Features", ECCV 2018.
Dimension letters: N pool, D feature dimension, K clusters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from usb_active.numerics.arrays import blocks, checked_features, named
from usb_active.numerics.kmeans import kmeans_centres, nearest_centres

# A direction whose variance is this small beside the largest holds nothing but rounding; whitening would make it a feature.
_NOTHING = 1e-10
# Squared, and summed over thousands of dimensions, this is within single precision; faiss ends the process beyond.
_LARGEST = 1e16


def project(features: ArrayLike, dim: int, whiten: bool) -> NDArray[np.float32]:
    """The leading principal components of centred features (PCA), in order of their variance.

    Args:
        features: (N, D), finite.
        dim: how many components, 1 … D.
        whiten: scale each to unit variance (of divisor N).

    Returns:
        (N, dim); fewer columns where the features vary in fewer directions than `dim`. Computed in double precision.

    Raises:
        ValueError: another shape, not finite (names the rows), `dim` out of its range, or rows that are all the same.
    """
    features = _checked(features)
    if not 1 <= dim <= features.shape[1]:
        raise ValueError(f"dim: {dim}; must be 1 to the {features.shape[1]} dimensions of the features")
    mean = np.mean(features, axis=0, dtype=np.float64)
    covariance = np.zeros((features.shape[1],) * 2)
    for rows in blocks(np.arange(len(features)), features.shape[1]):
        centred = features[rows] - mean
        covariance += centred.T @ centred
    variances, directions = np.linalg.eigh(covariance / len(features))
    # The mean itself is rounded: what is left of equal rows is some units of the last place, squared.
    floor = max(_NOTHING * variances[-1], (1e-12 * np.abs(mean).max()) ** 2)
    kept = np.flatnonzero(variances > floor)[::-1][:dim]
    if not len(kept):
        raise ValueError("features: all rows are the same; there is nothing to cluster")
    scale = 1 / np.sqrt(variances[kept]) if whiten else 1.0
    out = np.empty((len(features), len(kept)), np.float32)
    for rows in blocks(np.arange(len(features)), features.shape[1]):
        out[rows] = (features[rows] - mean) @ (directions[:, kept] * scale)
    return out


def kmeans(features: ArrayLike, clusters: int, iterations: int, seed: int) -> NDArray[np.int64]:
    """(N,) the nearest of `clusters` centres in 0 … K−1, after so many iterations of k-means over all rows. Some may be empty.

    Args:
        features: (N, D), finite.
        clusters: K, at most N.
        seed: of the first centres, which are K of the rows.

    Raises:
        ValueError: another shape, not finite (names the rows), or more clusters than rows.
    """
    features = np.ascontiguousarray(_checked(features), dtype=np.float32)
    if not 1 <= clusters <= len(features):
        raise ValueError(f"clusters: {clusters}; must be 1 to the {len(features)} samples")
    return nearest_centres(features, kmeans_centres(features, clusters, seed, iterations=iterations))[1]


def without_empty(assignment: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """(N,) the clusters renumbered, in their order, so that none of 0 … K'−1 is empty; and K'."""
    found, renumbered = np.unique(assignment, return_inverse=True)
    return renumbered.reshape(-1).astype(np.int64), len(found)


def uniform_sampling(assignment: NDArray[np.int64], size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(size,) idx in random order, every cluster equally often (section 3.3, "trivial parametrization").

    Cluster counts differ by one at most, and so do those of the samples of a cluster: a small cluster is repeated as a
    whole before any of its samples comes once more, where the authors' code draws with replacement.

    Args:
        assignment: (N,) clusters as integers; numbers that do not occur are no clusters.
    """
    clusters, members = _members(assignment)
    quota = np.full(clusters, size // clusters)
    quota[rng.permutation(clusters)[: size % clusters]] += 1
    drawn = [_repeated(of, count, rng) for of, count in zip(members, quota, strict=True)]
    return rng.permutation(np.concatenate(drawn))


def _members(assignment: NDArray[np.int64]) -> tuple[int, list[NDArray[np.int64]]]:
    """How many clusters have samples, and the idx of each one's."""
    if not len(assignment):
        raise ValueError("assignment: empty; there is no sample to draw")
    by_cluster = np.argsort(assignment, kind="stable")
    starts = np.flatnonzero(np.diff(assignment[by_cluster])) + 1
    return len(starts) + 1, np.split(by_cluster, starts)


def _repeated(idx: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(count,): all of idx as often as it goes, the rest drawn without replacement."""
    turns, rest = divmod(count, len(idx))
    return np.concatenate([np.tile(idx, turns), rng.choice(idx, rest, replace=False)])


def agreement(one: NDArray[np.int64], other: NDArray[np.int64]) -> tuple[float, float]:
    """How alike two clusterings (N,) of the same samples are, whatever the clusters are called.

    Returns:
        nmi: mutual information over the geometric mean of the entropies, as in the paper; 1 for two clusterings
            that are both a single cluster.
        kept: the share of samples in the same cluster under the best one-to-one matching of clusters.
    """
    (one, rows), (other, columns) = without_empty(one), without_empty(other)
    table = np.zeros((rows, columns))
    np.add.at(table, (one, other), 1)
    return _nmi(table / len(one)), float(table[linear_sum_assignment(table, maximize=True)].sum() / len(one))


def _nmi(joint: NDArray[np.float64]) -> float:
    left, right = joint.sum(axis=1), joint.sum(axis=0)
    there = joint > 0
    information = float((joint[there] * np.log(joint[there] / np.outer(left, right)[there])).sum())
    entropies = [float(-(side * np.log(side)).sum()) for side in (left, right)]
    if entropies[0] == entropies[1] == 0:
        return 1.0
    scale = float(np.sqrt(entropies[0] * entropies[1]))
    return min(1.0, max(0.0, information / scale)) if scale > 0 else 0.0


def _checked(features: ArrayLike) -> NDArray:
    features = checked_features(features)
    far = np.flatnonzero(np.maximum(features.max(axis=1), -features.min(axis=1)) > _LARGEST)
    if len(far):
        raise ValueError(f"features: above {_LARGEST:.0e}, so that squares overflow in single precision, in {named('row', far)}")
    return features
