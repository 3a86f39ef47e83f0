"""Joint label propagation, and the certainty of propagated labels (Siméoni et al., "Rethinking deep active learning", 2021).

Label propagation itself (`propagate`, `diffuse`) is the core's, in `usb_active.numerics.propagation`, and is offered here as well.

Arrays in, arrays out. Dimension letters: N pool, M candidates, L labelled, C classes. Every `affinity` is a symmetric
non-negative graph (N, N) as `usb_active.numerics.neighbors.affinity` makes it, scipy sparse, not normalised; W here is
D^-1/2 affinity D^-1/2.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from usb_active.plugins.jlp.fast_greedy import pick_greedily
from usb_active.plugins.jlp.fast_moderate import TIE

from usb_active.numerics.arrays import SUM_TOLERANCE, check_budget, checked_split, named
from usb_active.numerics.propagation import check_settings, diffuse, label_matrix, left_open, propagate, rows_to_probs
from usb_active.numerics.propagation.graph import Graph

# Beyond it, most of a block would be solved for one by one.
LARGEST_TOL = 1e-2

__all__ = [
    "certainty", "diffuse", "joint_label_propagation", "label_matrix", "left_open", "propagate", "rows_to_probs", "weighted_order",
]  # fmt: skip


def weighted_order(weights: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows with a weight above zero, drawn one after the other without replacement, each next with probability proportional to its weight.

    By exponential clocks: row i rings at rate w_i, and the order of the rings is that law (Efraimidis and Spirakis 2006).

    Args:
        weights: (U,), at least 0.
        rng: what draws them.
    """
    there = np.flatnonzero(weights > 0)
    return there[np.argsort(rng.standard_exponential(len(there)) / weights[there], kind="stable")]


def certainty(probs: ArrayLike) -> NDArray[np.float64]:
    """1 - H(p) / log C, in [0, 1] (equation 10): 1 where one class has it all, 0 where all are equal.

    Args:
        probs: (N, C), rows that sum to one, or zero rows (nodes that no label reaches), whose certainty is 0. With a single class every
            other row is certain.

    Returns:
        (N,) in [0, 1].

    Raises:
        ValueError: rows that are neither (names them).
    """
    probs = np.asarray(probs, np.float64)
    if probs.ndim != 2 or probs.shape[1] < 1:
        raise ValueError(f"probs: expected shape (N, C), got {probs.shape}")
    sums, unreached = probs.sum(axis=1), ~probs.any(axis=1)
    fair = np.isfinite(sums) & (probs >= 0).all(axis=1) & (np.abs(sums - 1) <= SUM_TOLERANCE)
    bad = np.flatnonzero(~fair & ~unreached)
    if len(bad):
        raise ValueError(f"probs: neither a distribution nor zero: {named('row', bad)}")
    if probs.shape[1] == 1:
        return np.where(unreached, 0.0, 1.0)
    logs = np.log(probs, out=np.zeros_like(probs), where=probs > 0)
    scores = 1 + np.einsum("nc,nc->n", probs, logs) / math.log(probs.shape[1])
    return np.where(unreached, 0.0, scores.clip(0, 1))


def joint_label_propagation(
    affinity: sp.sparray | sp.spmatrix,
    labeled: ArrayLike,
    budget: int,
    *,
    candidates: ArrayLike | None = None,
    alpha: float = 0.99,
    tol: float = 1e-6,
    rng: np.random.Generator | None = None,
) -> NDArray[np.int64]:
    """Joint label propagation: again and again the sample least similar to what is labelled or picked (equations 11, 12).

    Similarity is h(delta) = (1 - alpha) (I - alpha W)^-1 delta, delta being 1 for all labelled and picked.

    Exact: the picks are those of solving again, in double precision, for every pick. Values closer than 1e-8, relative, are
    equal, and so are all below (1 - alpha) 1e-9, where a solution is little but rounding; of equals the one that stands first in
    `rng.permutation(candidates)` is picked. So it is with nodes that no label reaches: their similarity is zero, they come first, one
    in each component of the graph.
    How it is fast: see `fast_greedy`. Memory: a few copies of the graph, and for large components about 2 kB per node.

    Args:
        affinity: (N, N), as in `diffuse`.
        labeled: (L,) idx, may be empty.
        budget: how many to pick, 1..M.
        candidates: (M,) idx, by default all others. Nodes that are neither take part in the graph.
        alpha: as in `diffuse`.
        tol: how well the similarities are known from pick to pick, relative, 1e-8..1e-2; the lowest of them, where another is as near
            as that, are then solved for to rounding. It moves work, not picks.
        rng: what draws the order of the candidates, by default `default_rng(0)`.

    Returns:
        idx (budget,) in the order of picking.

    Raises:
        ValueError: affinity and alpha as in `diffuse`; tol outside 1e-8..1e-2; idx out of range, repeated, or both labelled and
            candidate; and a budget outside 1..M.
    """
    check_settings(alpha)
    if not TIE <= tol <= LARGEST_TOL:
        raise ValueError(f"tol: {tol!r}, expected a number from {TIE} to {LARGEST_TOL}")
    graph = Graph(affinity)
    labeled, candidates = checked_split(graph.size, labeled, candidates, "affinity")
    check_budget(budget, len(candidates))
    order = (np.random.default_rng(0) if rng is None else rng).permutation(candidates)
    return pick_greedily(graph, labeled, order, int(budget), alpha, tol)
