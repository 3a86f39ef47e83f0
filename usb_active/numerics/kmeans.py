"""K-means, by faiss on the CPU: what several methods cluster with.

Dimension letters: N rows, D feature dimension, K clusters.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from usb_active.numerics.arrays import blocks, named, nonfinite_rows
from usb_active.numerics.faiss_import import import_faiss

# Products of rows and centres that are held at once: they stay in a processor's cache.
_PRODUCTS = 1 << 19


def kmeans_centres(
    rows: NDArray[np.float32], clusters: int, seed: int, *, iterations: int, starts: int = 1, first: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """(K, D) centres after so many iterations over all rows; of several starts, the best.

    A cluster that loses its last row takes half of a large one; it may end empty all the same, as among equal rows.

    Args:
        rows: (N, D), finite, contiguous. Not checked: that is done where features come in.
        clusters: K, 1 … N.
        seed: of the first centres, K of the rows; taken modulo 2^31.
        iterations: over all rows, of each start.
        starts: how often it starts from other first centres.
        first: (K, D) centres to begin from, in their place.
    """
    limits = {"min_points_per_centroid": 1, "max_points_per_centroid": len(rows)}
    means = import_faiss().Kmeans(rows.shape[1], clusters, niter=iterations, nredo=starts, seed=seed % 2**31, **limits)
    means.train(rows, init_centroids=first)
    return means.centroids


def nearest_centres(rows: NDArray[np.float32], centres: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Squared distance (N,) of every row to the nearest of the centres (K, D), and which one it is (N,)."""
    squared, found = import_faiss().knn(rows, np.ascontiguousarray(centres, dtype=np.float32), 1)
    return squared[:, 0], found[:, 0].astype(np.int64)


def assign_rows(rows: NDArray[np.float32], centres: ArrayLike) -> tuple[NDArray[np.int64], float]:
    """Which of the centres (K, D) is nearest to each row (N,), by one matrix product in single precision; and how good they are.

    Of nearly equal distances rounding decides. It takes about a quarter of the time of
    `nearest_centres`, which gives the distances too.

    Args:
        rows: (N, D), finite, as near to the origin as `as_points` has them.
        centres: (K, D), finite.

    Returns:
        The nearest (N,), and half the sum over the rows of |x|^2 - |x - c|^2: the larger, the smaller the sum of squared distances.
    """
    transposed = np.ascontiguousarray(np.asarray(centres).T, dtype=np.float32)
    half_norms = np.einsum("dk,dk->k", transposed, transposed) / 2
    nearest, gain = np.empty(len(rows), dtype=np.int64), 0.0
    step = max(1, _PRODUCTS // transposed.shape[1])
    for at in range(0, len(rows), step):
        scores = rows[at : at + step] @ transposed
        scores -= half_norms
        found = scores.argmax(axis=1)
        nearest[at : at + step] = found
        gain += float(scores[np.arange(len(found)), found].sum(dtype=np.float64))
    return nearest, gain


def as_points(features: ArrayLike) -> NDArray[np.float32]:
    """The features (N, D) about their mean and scaled by a power of two, which changes no cluster: so products in single
    precision lose the fewest digits, and no square overflows.

    Raises:
        ValueError: another shape, or not finite (names the rows).
    """
    features = np.asarray(features)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"features: expected shape (N, D), got {features.shape}")
    mean, peak = np.zeros(features.shape[1]), 0.0
    for block in _parts(features):
        mean += (block / len(features)).sum(axis=0)
        peak = max(peak, float(np.abs(block).max()))
    scale = np.ldexp(1.0, -int(np.clip(np.frexp(peak)[1], -1000, 1000)))
    points, start = np.empty(features.shape, dtype=np.float32), 0
    for block in _parts(features):
        points[start : start + len(block)] = block * scale - mean * scale
        start += len(block)
    return points


def _parts(features: NDArray) -> Iterator[NDArray[np.float64]]:
    """All rows in double precision, by blocks, if they are finite."""
    for rows in blocks(np.arange(len(features)), features.shape[1]):
        block = features[rows[0] : rows[-1] + 1].astype(np.float64)
        if not np.isfinite(block).all():
            # Those of the whole array, not of this block alone.
            raise ValueError(f"features: not finite in {named('row', nonfinite_rows(features))}")
        yield block
