"""A coarse picture of a connected graph: neighbourhoods as single nodes, on which all that varies slowly is solved directly.

Smoothed aggregation (Vaněk, Mandel & Brezina 1996): every node belongs to one aggregate; an aggregate's basis vector is the
exact top eigenvector there (deflation by subdomains: Nicolaides 1987), smoothed by products with W. A column of
(I - alpha W)^-1 varies slowly away from its source: the first terms of its series and the coarse part are near it.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numba import get_num_threads
from numpy.typing import NDArray
from usb_active.plugins.jlp.kernels import WIDTH, aggregate, block_product, coarse_matrix, matched

from usb_active.numerics.propagation.graph import Part
from usb_active.numerics.propagation.kernels import threads_for

# Share of its neighbours that must be free for a node to found an aggregate with them.
_FREE_SHARE = 0.6
# More aggregates are put together again: the inverse is dense, 16 MB in single precision.
_MOST = 2000
# One smoothing always. A second one only if the basis still has, beside the graph, at most this share of entries.
_SPARSE_SHARE = 0.25
# Relative to the diagonal's mean: smoothing may leave vectors that almost depend on each other.
_RIDGE = 1e-6
# Threads that have a coarse matrix of their own while it is summed.
_SUMMING = 4


class Coarse:
    """Of a `part` of N nodes. basis: Q (N, K), sparse, whose span holds `top`; inverse: (K, K), (Q^T (I - alpha W) Q)^-1."""

    def __init__(self, part: Part, alpha: float) -> None:
        graph = sp.csr_array((part.data.astype(np.float32), part.indices, part.indptr), shape=(len(part), len(part)))
        self.basis = _basis(graph, part.top)
        self._transposed = self.basis.T.tocsr()
        self.inverse = _inverse(_matrix(part, self.basis, alpha))

    def correct(self, x: NDArray[np.float32], residual: NDArray[np.float32]) -> None:
        """Add to x (N, WIDTH) what brings the part of its residual within the coarse space to zero."""
        within = np.empty((len(self.inverse), WIDTH), np.float32)
        _product(self._transposed, residual, within, 0)
        self._spread(within, x, 1)

    def start(self, nodes: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N, WIDTH): the coarse part of the columns of `nodes`."""
        within = np.zeros((len(self.inverse), WIDTH), np.float32)
        within[:, : len(nodes)] = self.basis[nodes].T.toarray()
        x = np.empty((self.basis.shape[0], WIDTH), np.float32)
        self._spread(within, x, 0)
        return x

    def _spread(self, within: NDArray, x: NDArray, keep: float) -> None:
        _product(self.basis, self.inverse @ within, x, keep)


def _product(matrix: sp.csr_array, x: NDArray, out: NDArray, keep: float) -> None:
    with threads_for(matrix.nnz * WIDTH):
        block_product(matrix.indptr, matrix.indices, matrix.data, x, out, np.float32(keep))


def _basis(graph: sp.csr_array, top: NDArray[np.float64]) -> sp.csr_array:
    """(N, K) in single precision, entries of a row in no order."""
    size = len(top)
    member = aggregate(graph.indptr, graph.indices, graph.data, _FREE_SHARE)
    while member.max() >= _MOST:
        # By twos: their neighbourhoods would be a few dozens, too coarse by far.
        belongs = sp.csr_array((np.ones(size, np.float32), member, np.arange(size + 1, dtype=np.int32)))
        joined = (belongs.T @ (graph @ belongs)).tocsr()
        member = matched(joined.indptr, joined.indices, joined.data)[member]
    unit = top / np.sqrt(np.bincount(member, top**2))[member]
    basis = graph @ sp.csr_array((unit.astype(np.float32), member, np.arange(size + 1, dtype=np.int32)))
    return graph @ basis if _stays_sparse(graph, basis) else basis


def _stays_sparse(graph: sp.csr_array, basis: sp.csr_array) -> bool:
    """Whether another smoothing leaves few entries, judged by some rows."""
    rows = np.linspace(0, graph.shape[0] - 1, 200).astype(int)
    return (graph[rows] @ basis).nnz <= _SPARSE_SHARE * graph[rows].nnz


def _matrix(part: Part, basis: sp.csr_array, alpha: float) -> NDArray[np.float64]:
    sums = np.zeros((min(_SUMMING, get_num_threads()), basis.shape[1], basis.shape[1]))
    with threads_for(part.data.size * WIDTH):
        coarse_matrix(part.indptr, part.indices, part.data, alpha, basis.indptr, basis.indices, basis.data, sums)
    return sums.sum(axis=0)


def _inverse(matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    matrix.flat[:: len(matrix) + 1] += _RIDGE * np.trace(matrix) / len(matrix)
    factor, _ = scipy.linalg.lapack.dpotrf(matrix, lower=0)
    upper, failed = scipy.linalg.lapack.dpotri(factor, lower=0)
    if failed:
        raise ArithmeticError("joint label propagation: the coarse matrix of the graph is singular")
    return np.ascontiguousarray(np.triu(upper) + np.triu(upper, 1).T, dtype=np.float32)
