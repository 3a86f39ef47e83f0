"""The inconsistency of predictions under augmentation (Gao et al. 2020, "Consistency-Based Semi-Supervised Active Learning").

Dimension letters: V views of a sample (the original and its augmented versions), B batch, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from usb_active.numerics.arrays import score_rows


def inconsistency(probs: ArrayLike) -> NDArray[np.float64]:
    """How much the predictions of a sample's views differ: high = inconsistent. E(x, M), the summand of the paper's C(B, M):

        C(B, M) = sum of E(x, M) over x in B
        E(x, M) = sum over classes l of Var[P(Y = l | x, M), P(Y = l | x_1, M), ..., P(Y = l | x_N, M)]

    with augmented versions x_1 … x_N of x. C is a sum over the batch, so the batch of the largest C has the samples of the largest E.
    Var is the mean squared distance to the mean of the V = N + 1 values; V - 1 in its place would not change the order.

    Args:
        probs: (V, B, C), V >= 2, each row a distribution.

    Returns:
        (B,) in [0, 1).

    Raises:
        ValueError: fewer than two views, and rows that are no distribution (names the samples, by position in the batch).
    """
    probs = np.asarray(probs)
    if probs.ndim != 3 or len(probs) < 2:
        raise ValueError(f"probs: expected at least 2 views, (V, B, C), got shape {probs.shape}")
    for view in probs:
        score_rows(view, lambda p: np.zeros(len(p)))
    return probs.var(axis=0, dtype=np.float64).sum(axis=1)
