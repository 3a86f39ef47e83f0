"""Nearest neighbours of every row among all rows, and the symmetric graphs made of them.

Dimension letters: N pool, D feature dimension.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from usb_active.errors import nearest
from usb_active.numerics.arrays import blocks, named
from usb_active.numerics.faiss_import import import_faiss

METRICS = ("cosine", "euclidean")
METHODS = ("auto", "exact", "ivf")
MODES = ("mutual", "union", "sum")

# "auto" takes the approximate index beyond these sizes: exact search is quadratic, and takes minutes from here on.
EXACT_UP_TO = 100_000
EXACT_UP_TO_ON_GPU = 1_000_000
# faiss's search on a GPU stops at this many neighbours.
_GPU_NEIGHBORS = 2048
# The rows that each inverted list is made from.
_TRAINED_PER_LIST = 64
# faiss's search on a GPU looks through this many lists at most.
_GPU_LISTS = 2048
# Cosines in single precision that may be nothing but rounding. An edge of them would make two components one.
_ROUNDING = 1e-6
# How far the similarity to the k-th neighbour may be from that to itself, for it to be a copy: relative to the largest squared length.
_NEARLY_EQUAL = 1e-5


def knn(
    features: ArrayLike, k: int, *, metric: str = "cosine", method: str = "auto"
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k nearest other rows of every row.

    A row is never its own neighbour, whatever copies of it there are. Of more than k copies each has the next ones in their order, on
    both sides, going round: so copies that cannot all be neighbours hang together all the same, from k = 2 on. Computed in single
    precision.

    The search runs on a GPU where faiss has one. Nothing is drawn: the same features give the same neighbours.
    Memory: one copy of the features in single precision, the result, and blocks; and rows that have so many copies.

    Args:
        features: (N, D), finite; may be a memory map: it is read by blocks.
        k: how many neighbours, 1..N-1.
        metric: "cosine", similarity in [-1, 1]; or "euclidean", similarity = minus the squared distance.
        method: "exact" compares all pairs; "ivf" (faiss's inverted file, Jegou et al. 2011) looks through the clusters of the pool whose
            centres are nearest, as many as the square root of their number; "auto" is exact up to 100,000 rows (1,000,000 with a GPU).

    Returns:
        Similarity (N, k) and index (N, k), most similar first.

    Raises:
        ValueError: features that are not finite, for "cosine" of length zero, for "euclidean" so large that squares leave the range of
            single precision (names the rows); k outside 1..N-1; and an unknown metric or method.
    """
    _check_choice("metric", metric, METRICS)
    _check_choice("method", method, METHODS)
    features = np.asarray(features)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"features: expected shape (N, D), got {features.shape}")
    if not isinstance(k, (int, np.integer)) or not 1 <= k < len(features):
        raise ValueError(f"k: {k!r}, expected an integer from 1 to {len(features) - 1}, one less than the rows of features")
    rows = _Rows(features, metric)
    index = _make_index(rows, method, int(k) + 1)
    similarity = np.empty((len(features), k), np.float32)
    neighbors = np.empty((len(features), k), np.int64)
    for idx in blocks(np.arange(len(features)), max(features.shape[1], 64 * k)):
        similarity[idx], neighbors[idx] = _search(index, rows[idx], idx, int(k), metric)
    _share_out_copies(rows, similarity, neighbors)
    return similarity, neighbors


def _share_out_copies(rows: _Rows, similarity: NDArray[np.float32], neighbors: NDArray[np.int64]) -> None:
    """Neighbours, in place, of rows with more than k exact copies: faiss would give all of them the first ones."""
    k = neighbors.shape[1]
    suspects = np.flatnonzero(similarity[:, -1] >= rows.nearly_equal)
    parts = [idx[(rows[idx] == rows[neighbors[idx, -1]]).all(axis=1)] for idx in blocks(suspects, rows.dim)]
    copies = np.concatenate(parts) if parts else suspects
    if not len(copies):
        return
    group_of = np.unique(rows[copies], axis=0, return_inverse=True)[1].reshape(-1)
    order = np.argsort(group_of, kind="stable")
    groups = np.split(copies[order], np.flatnonzero(np.diff(group_of[order])) + 1)
    # One step to either side, two, …; with an odd k one more to the right.
    steps = np.array([step for size in range(1, k // 2 + 2) for step in (size, -size)])[:k]
    for group in groups:
        if len(group) > k + 1:
            neighbors[group] = group[(np.arange(len(group))[:, None] + steps) % len(group)]
            similarity[group] = 1 if rows.metric == "cosine" else 0


def affinity(
    features: ArrayLike, k: int = 50, gamma: float = 3, mode: str = "mutual", method: str = "auto"
) -> sp.csr_array:
    """Symmetric graph of nearest neighbours with weights max(cos, 0)^gamma (Iscen et al. 2019, section 4).

    Cosines up to 1e-6 count as zero: in single precision they may be rounding, and would join what is not joined.

    Args:
        features: (N, D), as in `knn`.
        k: how many neighbours of each, 1..N-1.
        gamma: above 0.
        mode: when an edge joins i and j. "mutual": each is among the other's k nearest (reciprocal neighbours, Siméoni et al. 2021,
            section VI); "union": one is among the other's; "sum": the same edges as union, but W = A + A^T counts reciprocal ones
            twice (the public code of both papers, which also keeps negative weights).
        method: as in `knn`.

    Returns:
        W (N, N) in double precision with a zero diagonal.

    Raises:
        ValueError: what `knn` raises it for, an unknown mode, and a gamma that is not above 0 or not finite.
    """
    _check_choice("mode", mode, MODES)
    if not gamma > 0 or not math.isfinite(gamma):
        raise ValueError(f"gamma: {gamma!r}, expected a number above 0")
    similarity, index = knn(features, k, method=method)
    size = len(index)
    weights = np.where(similarity > _ROUNDING, similarity, 0).astype(np.float64).ravel() ** gamma
    dtype = np.int32 if index.size < 2**30 else np.int64
    pointers = np.arange(0, index.size + 1, k, dtype=dtype)
    directed = sp.csr_array((weights, index.ravel().astype(dtype), pointers), shape=(size, size))
    directed.eliminate_zeros()
    directed.sort_indices()
    return _symmetric(directed, mode)


def _symmetric(directed: sp.csr_array, mode: str) -> sp.csr_array:
    reverse = directed.T.tocsr()
    if mode == "mutual":
        graph = directed.minimum(reverse)
    else:
        graph = directed.maximum(reverse) if mode == "union" else directed + reverse
    graph = sp.csr_array(graph)
    graph.eliminate_zeros()
    graph.sort_indices()
    return graph


def normalize(affinity: sp.sparray | sp.spmatrix) -> sp.csr_array:
    """D^-1/2 W D^-1/2 of a symmetric non-negative W (N, N), with D the row sums (Zhou et al. 2003).

    Args:
        affinity: W.

    Returns:
        (N, N), in double precision whatever comes in, since the systems solved with it are ill-conditioned. Isolated nodes stay zero
            rows.
    """
    graph = sp.csr_array(affinity, dtype=np.float64, copy=True)
    scale = inverse_sqrt(graph.sum(axis=1))
    graph.data *= np.repeat(scale, np.diff(graph.indptr))
    graph.data *= scale[graph.indices]
    return graph


def inverse_sqrt(degree: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,): 1 / sqrt(degree), and 0 for isolated nodes."""
    return np.divide(1.0, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}: unknown value {value!r}{nearest(value, known)}")


class _Rows:
    """The rows as they are compared: single precision; unit length (cosine) or relative to the mean (euclidean)."""

    def __init__(self, features: NDArray, metric: str) -> None:
        self.features = features
        self.metric = metric
        self.mean = np.zeros(features.shape[1])
        for idx in blocks(np.arange(len(features)), features.shape[1]):
            rows = self._block(idx)
            self._check(rows, idx)
            self.mean += (rows / len(features)).sum(axis=0)
        self.nearly_equal = 1 - _NEARLY_EQUAL if metric == "cosine" else -_NEARLY_EQUAL * self.dim * self._checked_peak() ** 2

    def __len__(self) -> int:
        return len(self.features)

    @property
    def dim(self) -> int:
        return self.features.shape[1]

    def __getitem__(self, idx: NDArray) -> NDArray[np.float32]:
        rows = self._block(idx)
        if self.metric == "cosine":
            # Scaled first: the squares of very large or very small values leave the range of floats.
            rows /= np.abs(rows).max(axis=1, keepdims=True)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        else:
            # |x|^2 + |y|^2 - 2xy loses digits where rows are far from the origin and close to each other.
            rows -= self.mean
        return np.ascontiguousarray(rows, np.float32)

    def _block(self, idx: NDArray) -> NDArray[np.float64]:
        consecutive = bool((np.diff(idx) == 1).all())
        return np.array(self.features[idx[0] : idx[-1] + 1] if consecutive else self.features[idx], np.float64)

    def _check(self, rows: NDArray, idx: NDArray) -> None:
        bad = idx[~np.isfinite(rows).all(axis=1)]
        if len(bad):
            raise ValueError(f"features: not finite in {named('row', bad)}")
        zero = idx[~rows.any(axis=1)]
        if len(zero) and self.metric == "cosine":
            raise ValueError(f"features: all zero, so without a direction, in {named('row', zero)}")

    def _checked_peak(self) -> float:
        """The largest absolute value relative to the mean."""
        peak, limit = 0.0, math.sqrt(np.finfo(np.float32).max / self.dim) / 4
        for idx in blocks(np.arange(len(self)), self.dim):
            rows = self._block(idx)
            far = idx[np.abs(rows).max(axis=1) > limit]
            if len(far):
                raise ValueError(f"features: above {limit:.0e}, so that squared distances overflow, in {named('row', far)}")
            peak = max(peak, float(np.abs(rows - self.mean).max()))
        return peak


def _make_index(rows: _Rows, method: str, count: int) -> Any:
    """A faiss index that holds all rows, for searches of `count` neighbours."""
    faiss = import_faiss()
    gpu = faiss.get_num_gpus() > 0 and count <= _GPU_NEIGHBORS
    if method == "auto":
        method = "exact" if len(rows) <= (EXACT_UP_TO_ON_GPU if gpu else EXACT_UP_TO) else "ivf"
    measure = faiss.METRIC_INNER_PRODUCT if rows.metric == "cosine" else faiss.METRIC_L2
    index = flat = faiss.IndexFlat(rows.dim, measure)
    if method == "ivf":
        lists = min(max(1, int(4 * math.sqrt(len(rows)))), max(1, len(rows) // 39), _GPU_LISTS if gpu else len(rows))
        index = faiss.IndexIVFFlat(flat, rows.dim, lists, measure)
        # A share of the lists would make the search quadratic; the square root of their number keeps the recall (benchmarks/graph.py).
        index.nprobe = math.ceil(math.sqrt(lists))
    if gpu:
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    if method == "ivf":
        # Evenly spread rows, not random ones: nothing is drawn. faiss's own k-means has a fixed seed.
        index.train(rows[np.linspace(0, len(rows) - 1, min(len(rows), _TRAINED_PER_LIST * lists)).astype(np.int64)])
    for idx in blocks(np.arange(len(rows)), rows.dim):
        index.add(rows[idx])
    return index


def _search(index: Any, queries: NDArray[np.float32], idx: NDArray, k: int, metric: str) -> tuple[NDArray, NDArray]:
    """Similarity (B, k) and neighbours (B, k) of the rows `idx`, themselves left out."""
    values, found = index.search(queries, k + 1)
    missing = np.flatnonzero(found[:, -1] < 0)
    if len(missing):
        values[missing], found[missing] = _search_wider(index, queries[missing], k + 1)
    own = found == idx[:, None]
    # A row with more than k copies may not be among its own nearest: then the last one goes.
    own[~own.any(axis=1), -1] = True
    values, found = values[~own].reshape(-1, k), found[~own].reshape(-1, k)
    return (np.clip(values, -1, 1) if metric == "cosine" else -np.maximum(values, 0)), found


def _search_wider(index: Any, queries: NDArray[np.float32], count: int) -> tuple[NDArray, NDArray]:
    """Search more and more of the lists, until they hold `count` rows for every query."""
    probed = index.nprobe
    try:
        while True:
            index.nprobe = min(2 * index.nprobe, index.nlist)
            values, found = index.search(queries, count)
            if index.nprobe == index.nlist or (found >= 0).all():
                return values, found
    finally:
        index.nprobe = probed
