"""Baseline acquisitions as functions of arrays: uncertainty scores, top k, k-center, k-means++.

Dimension letters: N pool, M candidates, L labelled, C classes, D feature dimension. Every `idx` is a position
in the arrays that span the pool (`features`, `probs`), never a position among the candidates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from usb_active.numerics.arrays import entropy, score_rows
from usb_active.numerics.greedy import k_center_greedy, kmeans_plus_plus
from usb_active.numerics.ranking import top_k

__all__ = ["entropy", "k_center_greedy", "kmeans_plus_plus", "least_confidence", "margin", "top_k"]


def margin(probs: ArrayLike) -> NDArray[np.float64]:
    """Difference of the two largest probabilities: low = uncertain (Scheffer et al. 2001).

    Args:
        probs: (N, C), C >= 2, rows summing to one.

    Returns:
        (N,) in [0, 1].

    Raises:
        ValueError: rows that are no distribution (names them).
    """
    if np.ndim(probs) == 2 and np.shape(probs)[1] < 2:
        raise ValueError(f"probs: a margin needs at least 2 classes, got shape {np.shape(probs)}")
    return score_rows(probs, _margin)


def least_confidence(probs: ArrayLike) -> NDArray[np.float64]:
    """One minus the largest probability: high = uncertain (Lewis & Gale 1994).

    Args:
        probs: (N, C), rows summing to one.

    Returns:
        (N,) in [0, 1 - 1/C].

    Raises:
        ValueError: rows that are no distribution (names them).
    """
    return score_rows(probs, lambda p: np.maximum(1.0 - p.max(axis=1), 0.0))


def _margin(p: NDArray[np.float64]) -> NDArray[np.float64]:
    top = np.partition(p, p.shape[1] - 2, axis=1)[:, -2:]
    return top[:, 1] - top[:, 0]
