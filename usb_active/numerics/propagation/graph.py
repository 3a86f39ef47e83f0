"""A graph made ready for diffusion: checked, normalised, split into components, its leading eigenvectors known."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from usb_active.numerics.neighbors import inverse_sqrt
from usb_active.numerics.propagation.kernels import (
    components,
    find_asymmetry,
    is_plain,
    product,
    scaled,
    system_column,
    threads_for,
)

# Mirrored weights may differ by rounding, relative to the largest weight.
_SYMMETRY = 1e-6
# With more neighbours of one node than this the search for an order, which takes time by their square, may take longer than it saves.
_MOST_NEIGHBORS = 4096


class Graph:
    """W = D^-1/2 A D^-1/2 of an affinity A (N, N).

    Attributes:
        size: N.
        matrix: W in double precision.
        num_components: how many connected components there are.
        component: (N,) the number of each node's.
        top: (N,) sqrt(degree), of unit length in each component. There it is the eigenvector of W's largest eigenvalue, 1: known
            exactly, and without it the systems converge several times as fast. Zero for an isolated node, whose row of W is zero.
    """

    def __init__(self, affinity: sp.sparray | sp.spmatrix) -> None:
        affinity = checked_affinity(affinity)
        self.size = affinity.shape[0]
        # Sums in single precision would move `top` by more than the residuals that are asked for.
        degree = np.asarray(affinity.astype(np.float64, copy=False).sum(axis=1))
        weights = scaled(affinity.indptr, affinity.indices, affinity.data, inverse_sqrt(degree))
        self.matrix = sp.csr_array((weights, affinity.indices, affinity.indptr), shape=affinity.shape)
        self.num_components, self.component = components(affinity.indptr, affinity.indices)
        volume = np.bincount(self.component, degree)[self.component]
        self.top = np.sqrt(np.divide(degree, volume, out=np.zeros_like(degree), where=volume > 0))
        self._make_tops()

    def _make_tops(self) -> None:
        pointers = np.arange(self.size + 1, dtype=np.int32)
        self._tops = sp.csr_array((self.top, self.component, pointers), shape=(self.size, self.num_components))

    def near_order(self) -> NDArray[np.int64] | None:
        """(N,) the nodes in an order in which neighbours are near each other (reverse Cuthill & McKee 1969); None where a node has so
        many that it is not worth it.
        """
        if np.diff(self.matrix.indptr).max() > _MOST_NEIGHBORS:
            return None
        return sp.csgraph.reverse_cuthill_mckee(self.matrix, symmetric_mode=True).astype(np.int64)

    def reordered(self, order: NDArray[np.int64]) -> Graph:
        """The same graph, whose node number n is this one's `order[n]` (N,)."""
        other = copy.copy(self)
        other.matrix = self.matrix[order][:, order]
        other.component, other.top = self.component[order], self.top[order]
        other._make_tops()
        return other

    def product(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """W x for x (N, B)."""
        # Some columns of an array are in another order in memory.
        x = np.ascontiguousarray(x)
        out = np.empty(x.shape)
        with threads_for(self.matrix.nnz * x.shape[1]):
            product(self.matrix.indptr, self.matrix.indices, self.matrix.data, x, out)
        return out

    def system(self, x: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
        """(I - alpha W) x for x (N, B)."""
        out = self.product(x)
        out *= -alpha
        out += x
        return out

    def system_column(self, x: NDArray[np.float64], alpha: float, out: NDArray[np.float64]) -> None:
        """The same of one column x (N,), into `out` (N,)."""
        with threads_for(self.matrix.nnz):
            system_column(self.matrix.indptr, self.matrix.indices, self.matrix.data, alpha, x, out)

    def project_top(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The part of x (N, B) that lies along `top`, component by component."""
        return self._tops @ (self._tops.T @ x)

    def reached(self, sources: NDArray) -> NDArray[np.bool_]:
        """(N, B): whether a node's component holds a nonzero of sources (N, B)."""
        held = np.zeros((self.num_components, sources.shape[1]), bool)
        row, column = np.nonzero(sources)
        held[self.component[row], column] = True
        return held[self.component]


@dataclass
class Part:
    """A connected part of a graph.

    Attributes:
        indptr: (N + 1,) where the rows of W begin, as CSR.
        indices: (E,) the columns of its entries.
        data: (E,) the entries.
        top: (N,) its exact top eigenvector, of unit length.
    """

    indptr: NDArray[np.int32]
    indices: NDArray[np.int32]
    data: NDArray[np.float64]
    top: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.top)


def checked_affinity(affinity: sp.sparray | sp.spmatrix) -> sp.csr_array:
    """CSR with sorted indices. ValueError unless square, symmetric, finite (its row sums too), non-negative, with a zero diagonal."""
    if not sp.issparse(affinity):
        raise ValueError(f"affinity: expected a scipy sparse array, got {type(affinity).__name__}")
    if affinity.ndim != 2 or affinity.shape[0] != affinity.shape[1] or not affinity.shape[0]:
        raise ValueError(f"affinity: expected shape (N, N), got {affinity.shape}")
    graph = sp.csr_array(affinity)
    if not graph.has_canonical_format or not graph.data.all():
        graph = graph.copy()
        graph.sum_duplicates()
        # A stored zero is no edge, but would be one to scipy's search for components.
        graph.eliminate_zeros()
    tolerance = _SYMMETRY * graph.data.max(initial=0)
    with np.errstate(over="ignore"):
        plain = is_plain(graph.indptr, graph.indices, graph.data, tolerance) and np.isfinite(graph.sum(axis=1)).all()
    if plain:
        return graph
    _check_weights(graph)
    row, column = find_asymmetry(graph.indptr, graph.indices, graph.data, tolerance)
    if row >= 0:
        raise ValueError(
            f"affinity: not symmetric: [{row}, {column}] is {graph[row, column]:.6g}, [{column}, {row}] is {graph[column, row]:.6g}"
        )
    return graph


def _check_weights(graph: sp.csr_array) -> None:
    for bad, what in ((~np.isfinite(graph.data), "not finite"), (graph.data < 0, "negative")):
        if bad.any():
            at = int(np.argmax(bad))
            row = int(np.searchsorted(graph.indptr, at, side="right")) - 1
            raise ValueError(f"affinity: {what}: [{row}, {graph.indices[at]}] is {graph.data[at]}")
    with np.errstate(over="ignore"):
        overflowing = np.flatnonzero(~np.isfinite(graph.sum(axis=1)))
    if len(overflowing):
        raise ValueError(f"affinity: the sum of row {overflowing[0]} is not finite")
    diagonal = np.flatnonzero(graph.diagonal())
    if len(diagonal):
        raise ValueError(f"affinity: the diagonal must be zero, is {graph[diagonal[0], diagonal[0]]:.6g} for node {diagonal[0]}")
