"""Arrays as they arrive: checks that name what is wrong, and blocks for arrays that are larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Elements of the largest temporary matrix: few enough to stay near the cache, enough for a fast product.
BLOCK = 1 << 20
SUM_TOLERANCE = 1e-3


def blocks(idx: NDArray, width: int) -> Iterator[NDArray]:
    """Consecutive parts of `idx`, so long that a matrix of this width stays within BLOCK elements."""
    rows = max(1, BLOCK // width)
    return (idx[at : at + rows] for at in range(0, len(idx), rows))


def nonfinite_rows(features: NDArray) -> NDArray[np.int64]:
    """Rows of (N, D) with a value that is not finite, looked through by blocks."""
    every = blocks(np.arange(len(features)), max(1, features.shape[1]))
    parts = (rows[~np.isfinite(features[rows[0] : rows[-1] + 1]).all(axis=1)] for rows in every)
    return np.concatenate([np.empty(0, np.int64), *parts])


def check_finite(features: NDArray) -> None:
    """ValueError when features (N, D) are not finite (names the rows)."""
    bad = nonfinite_rows(features)
    if len(bad):
        raise ValueError(f"features: not finite in {named('row', bad)}")


def checked_features(features: ArrayLike) -> NDArray:
    """Features as an array (N, D). ValueError: another shape, or not finite (names the rows)."""
    features = np.asarray(features)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"features: expected shape (N, D), got {features.shape}")
    check_finite(features)
    return features


def unit_rows(features: ArrayLike) -> NDArray[np.float32]:
    """(N, D) rows of length one, computed in double precision; rows of zeros stay zeros."""
    features = np.asarray(features)
    out = np.empty(features.shape, dtype=np.float32)
    for idx in blocks(np.arange(len(features)), features.shape[1]):
        rows = features[idx[0] : idx[-1] + 1].astype(np.float64)
        # First by the largest entry, so that no square overflows or vanishes.
        rows /= _nonzero(np.abs(rows).max(axis=1, keepdims=True))
        out[idx] = rows / _nonzero(np.linalg.norm(rows, axis=1, keepdims=True))
    return out


def _nonzero(lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(lengths > 0, lengths, 1.0)


def score_rows(probs: ArrayLike, score: Callable[[NDArray], NDArray]) -> NDArray[np.float64]:
    """Check and score in double precision, by blocks: the pool's probabilities may be a memory map."""
    probs = np.asarray(probs)
    if probs.ndim != 2 or probs.shape[1] < 1:
        raise ValueError(f"probs: expected shape (N, C), got {probs.shape}")
    out = np.empty(len(probs))
    for rows in blocks(np.arange(len(probs)), probs.shape[1]):
        p = probs[rows[0] : rows[-1] + 1].astype(np.float64)
        check_probs(p, rows)
        out[rows] = score(p)
    return out


def named(noun: str, idx: Sequence[int] | NDArray) -> str:
    """The first few of what an error is about, as "rows 3, 8" or "row 3"."""
    first = ", ".join(str(int(i)) for i in np.asarray(idx)[:5])
    if len(idx) > 1:
        noun = "indices" if noun == "index" else noun + "s"
    return f"{noun} {first}{', ...' if len(idx) > 5 else ''}"


def check_probs(p: NDArray[np.float64], rows: NDArray) -> None:
    """ValueError that names the `rows` (B,) of p (B, C) that are no distribution."""
    sums, lows = p.sum(axis=1), p.min(axis=1)
    for bad, values, what in (
        (~np.isfinite(sums), sums, "must be finite"),
        (lows < 0, lows, "must not be negative"),
        (np.abs(sums - 1) > SUM_TOLERANCE, sums, "rows must sum to 1 (are these logits?)"),
    ):
        if bad.any():
            raise ValueError(f"probs: {what}, got {values[bad][0]:.6g} first in {named('row', rows[bad])}")


def checked_idx(name: str, idx: ArrayLike) -> NDArray[np.int64]:
    """`idx` as (M,) int64. ValueError when they are not integers, or one stands there twice."""
    idx = np.asarray(idx)
    if idx.ndim != 1 or (len(idx) and not np.issubdtype(idx.dtype, np.integer)):
        raise ValueError(f"{name}: expected a list of integer indices, got shape {idx.shape} of {idx.dtype}")
    values, counts = np.unique(idx, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{name}: more than once: {named('index', values[counts > 1])}")
    return idx.astype(np.int64)


def check_range(name: str, idx: NDArray, size: int, of: str = "features") -> None:
    """ValueError that names what is not a row of an array (`size`, …), such as the features."""
    bad = idx[(idx < 0) | (idx >= size)]
    if len(bad):
        raise ValueError(f"{name}: {named('index', bad)} outside the {size} rows of {of}")


def checked_split(
    size: int, labeled: ArrayLike, candidates: ArrayLike | None, of: str = "features"
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """labeled (L,) and candidates (M,; by default all others) as int64. ValueError: out of range, repeated, or in both."""
    labeled = checked_idx("labeled", labeled)
    check_range("labeled", labeled, size, of)
    if candidates is None:
        return labeled, np.delete(np.arange(size), labeled)
    candidates = checked_idx("candidates", candidates)
    check_range("candidates", candidates, size, of)
    both = np.intersect1d(candidates, labeled)
    if len(both):
        raise ValueError(f"candidates: labelled already: {named('index', both)}")
    return labeled, candidates


def check_budget(budget: int, num_candidates: int) -> None:
    """ValueError when that many cannot be picked."""
    if not isinstance(budget, (int, np.integer)) or not 1 <= budget <= num_candidates:
        raise ValueError(f"budget: {budget!r}, expected an integer from 1 to the {num_candidates} candidates")


def check_count(name: str, value: int, limit: int | None = None, of: str = "") -> None:
    """ValueError when this is no integer from 1 to `limit`."""
    if not isinstance(value, (int, np.integer)) or value < 1 or (limit is not None and value > limit):
        valid = "at least 1" if limit is None else f"1 to the {limit} {of}"
        raise ValueError(f"{name}: {value!r}, expected an integer, {valid}")


def entropy(probs: ArrayLike) -> NDArray[np.float64]:
    """Entropy of the predicted distribution in nats: high = uncertain (Shannon 1948).

    Args:
        probs: (N, C), rows summing to one.

    Returns:
        (N,) in [0, log C].

    Raises:
        ValueError: rows that are no distribution (names them).
    """
    return score_rows(probs, _entropy)


def _entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    # A probability that is a rounding above one would give a score below zero.
    return np.maximum(-np.einsum("nc,nc->n", p, logs), 0.0)


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
