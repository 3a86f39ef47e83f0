"""Distances for greedy picks: exact values for few pairs, cheap bounds for many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from usb_active.numerics.arrays import blocks, named


class Screen(Protocol):
    """Cheap bounds on the distances to a block of centres."""

    def upper(self, idx: NDArray) -> NDArray[np.float64]:
        """(B,): upper bounds on the distance to the nearest of the centres."""

    def contenders(self, idx: NDArray, upper: NDArray) -> tuple[NDArray, NDArray]:
        """Pairs (row, centre), among them the nearest centre of each row that has one closer than `upper`."""


class Space(Protocol):
    """What the picking needs of a distance (squared, or a divergence): exact values for few pairs, bounds for many.

    Attributes:
        dim: numbers that one row takes in a block.
    """

    dim: int

    def squared(self, idx: NDArray, others: NDArray) -> NDArray[np.float64]:
        """(B,): distances of the pairs (idx, others), zero for copies."""

    def among(self, idx: NDArray) -> Callable[[int], NDArray[np.float64]]:
        """A function of a position in `idx`: the distances (B,) of all of them to the one there."""

    def screen(self, centres: NDArray) -> Screen:
        """Bounds on the distances to these centres."""


class EuclideanSpace:
    """Rows of the features, weighted, and scaled by a power of two (exact) so that no square overflows."""

    def __init__(self, features: NDArray, weights: ArrayLike | None = None) -> None:
        self.features = features
        self.dim = features.shape[1]
        self.dtype = np.float32 if features.dtype in (np.float16, np.float32) else np.float64
        self.weights = None if weights is None else _checked_weights(weights, len(features)).astype(self.dtype)
        # The scale itself must be a normal number of that type.
        most = 120 if self.dtype is np.float32 else 1000
        self.scale = self.dtype(2.0 ** -np.clip(np.frexp(self._peak())[1], -most, most))
        sample = np.arange(0, len(features), max(1, len(features) // 1024))
        # Any shift is valid; one near the mean loses the fewest digits in `centred`.
        self.shift = self.rows(sample).mean(axis=0).astype(self.dtype)

    def _weighted(self, idx: NDArray | slice) -> NDArray:
        """The one rounding of the product: what follows takes it for exact."""
        if self.weights is None:
            return self.features[idx]
        # What overflows is named by `_peak`.
        with np.errstate(over="ignore"):
            return self.features[idx].astype(self.dtype, copy=False) * self.weights[idx, None]

    def scaled(self, idx: NDArray) -> NDArray:
        """(B, D) in the precision of the features, single at least."""
        return self._weighted(idx).astype(self.dtype, copy=False) * self.scale

    def rows(self, idx: NDArray) -> NDArray[np.float64]:
        return self._weighted(idx).astype(np.float64) * float(self.scale)

    def centred(self, idx: NDArray) -> NDArray[np.float32]:
        """(B, D + 1) in single precision; the last column is free."""
        out = np.empty((len(idx), self.dim + 1), np.float32)
        np.subtract(self.scaled(idx), self.shift, out=out[:, :-1], casting="same_kind")
        return out

    def _peak(self) -> float:
        """The largest absolute value of all rows; ValueError naming those that are not finite."""
        peak = 0.0
        for at in blocks(np.arange(len(self.features)), self.dim):
            block = self._weighted(slice(at[0], at[-1] + 1))
            low, high = float(block.min()), float(block.max())
            if not np.isfinite(low) or not np.isfinite(high):
                bad = [i for i in range(len(self.features)) if not np.isfinite(self._weighted(slice(i, i + 1))).all()]
                raise ValueError(f"features: not finite in {named('row', bad)}")
            peak = max(peak, -low, high)
        return peak

    def squared(self, idx: NDArray, others: NDArray) -> NDArray[np.float64]:
        """Squared distances of the pairs (idx, others), by differences in double precision."""
        pairs = blocks(np.arange(len(idx)), self.dim)
        parts = [_squared(self.rows(idx[at]), self.rows(others[at])) for at in pairs]
        return np.concatenate(parts) if parts else np.empty(0)

    def among(self, idx: NDArray) -> Callable[[int], NDArray[np.float64]]:
        rows = self.rows(idx)
        return lambda at: _squared(rows, rows[at])

    def screen(self, centres: NDArray) -> NormScreen:
        return _EuclideanScreen(self, centres)


class NormScreen:
    """Bounds in single precision on squared distances |x - c|^2 to a block of centres, from inner products.

    With n = |x|^2 + |c|^2, n - 2 x.c is wrong by less than slack * n: the rounding of a sum of D products (Higham
    2002, section 3.1), at most three times, and a few more. So (1 + slack) n - 2 x.c is an upper bound.
    """

    _TINY = 1e-30  # above anything that underflow in single precision can lose

    def __init__(self, dim: int) -> None:
        self.slack = 4 * (dim + 4) * 2.0**-24

    def products(self, idx: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """(1 + slack) |c|^2 - 2 x.c for all pairs, and |x|^2."""
        raise NotImplementedError(f"{type(self).__name__}.products")

    def upper(self, idx: NDArray) -> NDArray[np.float64]:
        """(B,): upper bounds on the squared distance to the nearest of the centres."""
        products, norms = self.products(idx)
        return self._bound(products.min(axis=1), norms)

    def contenders(self, idx: NDArray, upper: NDArray) -> tuple[NDArray, NDArray]:
        """Pairs (row, centre), among them the nearest centre of each row that has one closer than `upper`."""
        products, norms = self.products(idx)
        upper = np.minimum(upper, self._bound(products.min(axis=1), norms))
        # The nearest centre c has |c| <= |x| + distance: a limit to how far its bound exceeds the truth.
        farthest = norms + (np.sqrt(norms) + np.sqrt(upper)) ** 2
        limit = upper + 2 * self.slack * farthest + self._TINY - (1 + self.slack) * norms
        # Rounded up: the comparison is in single precision.
        limit = np.nextafter(limit.astype(np.float32), np.float32(np.inf))
        row, centre = np.nonzero(products <= limit[:, None])
        return row, centre

    def _bound(self, products: NDArray, norms: NDArray) -> NDArray[np.float64]:
        return np.maximum(products + (1 + self.slack) * norms, 0.0) + self._TINY


class _EuclideanScreen(NormScreen):
    """One matrix product, of the centred rows."""

    def __init__(self, space: EuclideanSpace, centres: NDArray) -> None:
        super().__init__(space.dim)
        self.space = space
        factors = space.centred(centres)
        factors[:, -1] = (1 + self.slack) * square_norms(factors[:, :-1])
        factors[:, :-1] *= -2
        self.factors = factors

    def products(self, idx: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        rows = self.space.centred(idx)
        rows[:, -1] = 1
        return rows @ self.factors.T, square_norms(rows[:, :-1]).astype(np.float64)


def square_norms(rows: NDArray) -> NDArray:
    """(B,) of (B, D)."""
    return np.einsum("nd,nd->n", rows, rows)


def _squared(rows: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    return square_norms(rows - others)


def _checked_weights(weights: ArrayLike, size: int) -> NDArray:
    weights = np.asarray(weights)
    if weights.shape != (size,):
        raise ValueError(f"weights: expected one for each row of features, shape ({size},), got {weights.shape}")
    bad = np.flatnonzero(~np.isfinite(weights))
    if len(bad):
        raise ValueError(f"weights: not finite for {named('row', bad)}")
    return weights
