"""Labels spread over a neighbour graph: label spreading (Zhou et al. 2003, "Learning with local and global consistency").

Arrays in, arrays out. Dimension letters: N pool, L labelled, C classes. Every `affinity` is a symmetric non-negative graph
(N, N) as `usb_active.numerics.neighbors.affinity` makes it, scipy sparse, not normalised; W here is D^-1/2 affinity D^-1/2.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from usb_active.errors import nearest
from usb_active.numerics.arrays import check_range, checked_idx, named
from usb_active.numerics.propagation.cg import solve
from usb_active.numerics.propagation.graph import Graph

__all__ = ["WEIGHTINGS", "check_settings", "diffuse", "label_matrix", "left_open", "propagate", "rows_to_probs"]

# How much a label counts: each alike, or the classes alike.
WEIGHTINGS = ("label", "class")


def propagate(
    affinity: sp.sparray | sp.spmatrix,
    labeled: ArrayLike,
    labels: ArrayLike,
    num_classes: int,
    alpha: float = 0.99,
    tol: float = 1e-6,
    start: ArrayLike | None = None,
    weighting: str = "label",
) -> NDArray[np.float64]:
    """Class probabilities of all nodes from the labels of some (Siméoni et al. 2021, equations 8 and 9 with eta).

    Args:
        affinity: (N, N), a graph as `usb_active.numerics.neighbors.affinity` makes it; see `diffuse`.
        labeled: (L,) idx.
        labels: (L,) in 0..C-1, of those.
        num_classes: C.
        alpha: as in `diffuse`.
        tol: as in `diffuse`.
        start: as in `diffuse`.
        weighting: as in `label_matrix`.

    Returns:
        (N, C), whose rows sum to one, but are zero for nodes that no label reaches: of another component of the graph, or so far that no
            more arrives than the residual may be. A class without labels is a zero column. Values below zero, which rounding leaves,
            are clipped.

    Raises:
        ValueError: what `diffuse` raises it for, and idx or labels out of range, repeated, or of different lengths.
    """
    graph = Graph(affinity)
    sources = label_matrix(graph.size, labeled, labels, num_classes, weighting)
    return rows_to_probs(_diffuse(graph, sources, alpha, tol, start), left_open(sources, alpha, tol))


def diffuse(
    affinity: sp.sparray | sp.spmatrix,
    sources: ArrayLike,
    alpha: float = 0.99,
    tol: float = 1e-6,
    start: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """h(Y) = (1 - alpha) (I - alpha W)^-1 Y (Siméoni et al. 2021, equation 9), by conjugate gradient.

    Each column is solved until its residual is at most tol times the norm of Y's column. (The authors' public code stops after 20
    steps, before it has converged at alpha = 0.99.)

    Args:
        affinity: (N, N), square, symmetric, finite, non-negative, with a zero diagonal.
        sources: Y (N, C), finite.
        alpha: in [0, 1).
        tol: in [1e-12, 1).
        start: (N, C), what this function returned for a similar graph or similar sources: it then takes fewer steps.

    Returns:
        (N, C).

    Raises:
        ValueError: an affinity that is not square, symmetric, finite, non-negative, with a zero diagonal; alpha outside [0, 1), tol
            outside [1e-12, 1); and other shapes or values that are not finite.
    """
    return _diffuse(Graph(affinity), sources, alpha, tol, start)


def _diffuse(graph: Graph, sources: ArrayLike, alpha: float, tol: float, start: ArrayLike | None) -> NDArray[np.float64]:
    check_settings(alpha, tol)
    sources = _checked_columns("sources", sources, graph.size)
    if start is not None:
        start = _checked_columns("start", start, graph.size)
        if start.shape != sources.shape:
            raise ValueError(f"start: expected the shape of sources, {sources.shape}, got {start.shape}")
    return solve(graph, (1 - alpha) * sources, alpha, tol, start)


def label_matrix(
    size: int, labeled: ArrayLike, labels: ArrayLike, num_classes: int, weighting: str = "label"
) -> NDArray[np.float64]:
    """Y (N, C): one-hot rows for the labelled, zero rows for the others (equation 8 there).

    Args:
        size: N.
        labeled: (L,) idx.
        labels: (L,) in 0..C-1, of those.
        num_classes: C.
        weighting: "label", every label is a one, as in equation 8: a class counts as much as it has labels, and far from all labels,
            where that is all that counts, the largest class wins. "class": the labels of a class share a one (the public code of the
            authors, `y_pooling='mean'`).

    Raises:
        ValueError: an unknown weighting, idx or labels out of range, repeated, or of different lengths, and fewer than one class.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting: {weighting!r}{nearest(weighting, WEIGHTINGS)}")
    labeled = checked_idx("labeled", labeled)
    check_range("labeled", labeled, size, "affinity")
    labels = np.asarray(labels)
    if labels.shape != labeled.shape or (len(labels) and not np.issubdtype(labels.dtype, np.integer)):
        raise ValueError(f"labels: expected an integer for each of the {len(labeled)} labelled, got {labels.shape} of {labels.dtype}")
    if not isinstance(num_classes, (int, np.integer)) or num_classes < 1:
        raise ValueError(f"num_classes: {num_classes!r}, expected an integer of at least 1")
    bad = labels[(labels < 0) | (labels >= num_classes)]
    if len(bad):
        raise ValueError(f"labels: {bad[0]} is outside 0..{num_classes - 1}")
    matrix = np.zeros((size, num_classes))
    matrix[labeled, labels.astype(np.int64)] = 1
    return matrix / np.maximum(matrix.sum(axis=0), 1) if weighting == "class" else matrix


def left_open(sources: NDArray[np.float64], alpha: float, tol: float) -> float:
    """The largest residual that `diffuse` may leave in a column.

    What is not above it is not known to be there. (What is, is known but for up to 1 / (1 - alpha) times it.)

    Args:
        sources: Y (N, C).
        alpha: as in `diffuse`.
        tol: as in `diffuse`.
    """
    return (1 - alpha) * tol * float(np.linalg.norm(sources, axis=0).max(initial=0))


def rows_to_probs(h: NDArray[np.float64], least: float = 0.0) -> NDArray[np.float64]:
    """eta: rows of h (N, C) divided by their sums, values below zero clipped; rows whose sum is not above `least` are zero."""
    h = np.maximum(h, 0)
    sums = h.sum(axis=1, keepdims=True)
    return np.divide(h, sums, out=np.zeros_like(h), where=sums > least)


def check_settings(alpha: float, tol: float = 1e-6) -> None:
    """ValueError unless 0 <= alpha < 1 and tol can be reached in double precision."""
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha: {alpha!r}, expected a number in [0, 1)")
    if not 1e-12 <= tol < 1:
        raise ValueError(f"tol: {tol!r}, expected a number in [1e-12, 1)")


def _checked_columns(name: str, values: ArrayLike, size: int) -> NDArray[np.float64]:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or len(values) != size:
        raise ValueError(f"{name}: expected shape ({size}, C), one row for each of affinity, got {values.shape}")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise ValueError(f"{name}: not finite in {named('row', bad)}")
    return values
