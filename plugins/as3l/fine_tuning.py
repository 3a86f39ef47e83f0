"""AS3L's linear layer on frozen features, which draws samples towards their cluster centres (§3.2.1, Eq. 1).

Dimension letters: N pool, D feature dimension, K clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from usb_active.plugins.as3l.clustering import cluster_sums, kmeans

from usb_active.numerics.arrays import blocks, check_count, named
from usb_active.numerics.kmeans import as_points

# An epoch of N samples is as many steps as it has batches of this size.
BATCH_SIZE = 256


@dataclass(frozen=True)
class LinearLayer:
    """x ↦ (x − centre) W: `weight` (D, D) and `centre` (D,), in double precision."""

    weight: NDArray[np.float64]
    centre: NDArray[np.float64]

    def __call__(self, features: ArrayLike) -> NDArray[np.float32]:
        """(N, D) of features (N, D), which may be a memory map. ValueError, naming rows, for what leaves single precision."""
        features = np.asarray(features)
        out = np.empty(features.shape, dtype=np.float32)
        for rows in blocks(np.arange(len(features)), features.shape[1]):
            part = slice(rows[0], rows[-1] + 1)
            block = (features[part] - self.centre) @ self.weight
            far = rows[~(np.abs(block) <= np.finfo(np.float32).max).all(axis=1)]
            if len(far):
                raise ValueError(f"features: beyond single precision after the layer, in {named('row', far)}")
            out[part] = block
        return out


def fine_tune(
    features: ArrayLike, num_clusters: int, *, clusterings: int = 6, epochs: int = 40, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Features after AS3L's linear layer, (N, D): samples of stable clusters move closer together. See `fit_layer`."""
    return fit_layer(features, num_clusters, clusterings=clusterings, epochs=epochs, rng=rng)(features)


def fit_layer(
    features: ArrayLike, num_clusters: int, *, clusterings: int = 6, epochs: int = 40, rng: np.random.Generator
) -> LinearLayer:
    """The D → D layer that minimises 1/(C·N) Σ_i Σ_j |f_fine,i − f_center,i,j|² (Eq. 1) over C runs of k-means.

    The paper leaves optimiser, learning rate, batch and start open. Here: gradient descent from the identity, on features
    about their mean, `epochs` times N / 256 steps (rounded up), each 1 / the largest eigenvalue λ of the features' covariance A.
    Both are means over the data, so the steps need no pass over it: with B the covariance between clusters, averaged over the
    runs, W_t = W* + (I − A/λ)^t (I − W*) where A·W* = B. That is what SGD with batches of 256 does on average, without its
    noise; more epochs come ever nearer to W*, the least squares solution.

    Args:
        features: (N, D), finite.
        num_clusters: K of every run, 1 … N. The paper gives it for the selection only, as the budget; ours is the selection's.

    Raises:
        ValueError: features of another shape or not finite (names the rows); K, C or epochs out of range.
    """
    points = as_points(features)
    check_count("num_clusters", num_clusters, len(points), "samples")
    check_count("clusterings", clusterings)
    check_count("epochs", epochs)
    within = _covariance(points)
    between = sum(_between(points, kmeans(points, num_clusters, rng), num_clusters) for _ in range(clusterings)) / clusterings
    weight = _descend(within, between, epochs * -(-len(points) // BATCH_SIZE))
    return LinearLayer(weight, np.mean(features, axis=0, dtype=np.float64))


def _covariance(points: NDArray[np.float32]) -> NDArray[np.float64]:
    total = np.zeros((points.shape[1],) * 2)
    for rows in blocks(np.arange(len(points)), points.shape[1]):
        block = points[rows[0] : rows[-1] + 1].astype(np.float64)
        total += block.T @ block
    return total / len(points)


def _between(points: NDArray[np.float32], assignment: NDArray[np.int64], clusters: int) -> NDArray[np.float64]:
    """(D, D) 1/N Σ_i x_i c_iᵀ, c_i the mean of the cluster of x_i."""
    sums, counts = cluster_sums(points, assignment, clusters)
    return (sums / np.maximum(counts, 1)[:, None]).T @ sums / len(points)


def _descend(covariance: NDArray[np.float64], between: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """W after so many steps W ← W − (A·W − B)/λ from the identity, in the eigenvectors of A."""
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0.0)
    if values[-1] == 0:
        return np.eye(len(values))
    shrunk = 1 - values / values[-1]
    left = shrunk**steps
    # (1 − left) / values is the sum of the first `steps` powers of `shrunk`, over the largest value; also where a value is 0.
    reach = np.where(values > 0, (1 - left) / np.where(values > 0, values, 1), steps / values[-1])
    target = vectors.T @ between @ vectors
    return vectors @ (np.diag(left) + reach[:, None] * target) @ vectors.T
