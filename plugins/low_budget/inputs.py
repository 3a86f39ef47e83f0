"""What the rules are given, checked: one line says what is wrong.

Dimension letters: N pool, M candidates, L labelled, C classes, D feature dimension.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from usb_active.numerics.arrays import check_finite, check_probs, named, score_rows, unit_rows
from usb_active.numerics.greedy import checked_pool


def unit_pool(
    features: ArrayLike, labeled: ArrayLike, candidates: ArrayLike | None, budget: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Features (N, D) scaled to length one, labeled (L,) and candidates (M,; by default all others).

    Raises:
        ValueError: features that are not finite (names the rows), idx that are out of range, repeated, or both labelled and candidate,
            and a budget outside 1..M.
    """
    features, labeled, candidates = finite_pool(features, labeled, candidates, budget)
    return unit_rows(features), labeled, candidates


def finite_pool(
    features: ArrayLike, labeled: ArrayLike, candidates: ArrayLike | None, budget: int
) -> tuple[NDArray, NDArray[np.int64], NDArray[np.int64]]:
    """The same, the features as they are."""
    features, labeled, candidates = checked_pool(features, labeled, candidates, budget)
    check_finite(features)
    return features, labeled, candidates


def above_zero(name: str, value: float) -> float:
    """The value, or a ValueError when it is no finite number above 0."""
    if not value > 0 or not math.isfinite(value):
        raise ValueError(f"{name}: {value!r}, expected a number above 0")
    return float(value)


# Of features of length one; its square must be a number, and one over it too.
LEAST_BANDWIDTH = 1e-100


def checked_bandwidth(value: float) -> float:
    """The bandwidth of a kernel, or a ValueError when it is no finite number from 1e-100 on."""
    if above_zero("bandwidth", value) < LEAST_BANDWIDTH:
        raise ValueError(f"bandwidth: {value!r}, expected a number above 0, at least {LEAST_BANDWIDTH:g}")
    return float(value)


def checked_rows(probs: ArrayLike, size: int) -> NDArray:
    """Probs as an array of one row for each of the features' rows. ValueError: another number, or rows that are no distribution."""
    probs = np.asarray(probs)
    score_rows(probs, lambda p: np.zeros(len(p)))
    if len(probs) != size:
        raise ValueError(f"probs: {len(probs)} rows, expected one for each of the {size} rows of features")
    return probs


def checked_classes(labels: ArrayLike, size: int, num_classes: int) -> NDArray[np.int64]:
    """Labels (L,) as int64. ValueError: another number of them, no integers, or outside 0..C-1."""
    labels = np.asarray(labels)
    if labels.shape != (size,):
        raise ValueError(f"labels: expected one for each labelled sample, shape ({size},), got {labels.shape}")
    if size and not np.issubdtype(labels.dtype, np.integer):
        whole = np.asarray(labels, np.float64) % 1 == 0
        first = "" if whole.all() else f", such as {labels[~whole][0]!s} first in {named('row', np.flatnonzero(~whole))}"
        raise ValueError(f"labels: expected integers, got {labels.dtype}{first}")
    bad = labels[(labels < 0) | (labels >= num_classes)]
    if len(bad):
        raise ValueError(f"labels: {named('label', bad)} outside the {num_classes} classes")
    return labels.astype(np.int64)


def tempered(probs: NDArray, temperature: float) -> NDArray[np.float64]:
    """softmax(log probs / T) of probs (B, C): what a softmax of logits divided by T would have given."""
    probs = probs.astype(np.float64)
    check_probs(probs, np.arange(len(probs)))
    if temperature != 1:
        # Relative to the largest, so that no power vanishes altogether.
        probs = (probs / probs.max(axis=1, keepdims=True)) ** (1 / temperature)
    return probs / probs.sum(axis=1, keepdims=True)
