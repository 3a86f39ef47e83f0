"""K-means, by faiss on the CPU: what several methods cluster with.

Dimension letters: N rows, D feature dimension, K clusters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from usb_active.numerics.faiss_import import import_faiss


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
