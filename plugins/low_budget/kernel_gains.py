"""What each candidate would add to a coverage by a Gaussian kernel, computed again only where an old value no longer decides.

Dimension letters: N pool, M candidates, L labelled, D feature dimension, B rows of a block, P dimensions of a projection.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from usb_active.plugins.low_budget.balls import Balls, parts

from usb_active.numerics.arrays import blocks
from usb_active.numerics.ranking import leading
from usb_active.numerics.spaces import square_norms

# Gains that differ by less, relative to the largest, are equal.
TIE = 1e-9
# Rows and columns of a block of the kernel: it is gone through several times, and a megabyte stays in a core's cache.
_ROWS, _COLUMNS = 256, 1024
# Dimensions that a first look is taken in, where the features have many more and these hold most of their variance.
_COARSE, _MOST_LOST = 64, 0.2
# How many candidates are looked at together, first; then twice as many, until the best is certain.
_TOGETHER = {"coarse": 128, "single": 32, "double": 4}
# Bandwidths below this are decided by differences alone: the exponent has the rounding of a product times bandwidth^-2.
_NARROW = 1e-2
# Square root of 745, beyond which exp(-x) is zero; and how far rounding may move an exponent up to that, relative to the kernel.
_REACH, _ROUNDING = 27.3, 1e-12


class KernelGains:
    """Greedy maximisation of sum_n w_n max_s k(x_n, x_s), k(x, y) = exp(-|x - y|^2 / h^2).

    A gain can only shrink as samples are picked (submodularity), so an old one bounds it. A candidate whose bound is the largest is
    looked at more closely: in few dimensions (a projection makes distances smaller, so the kernel larger), in single precision, and at
    last in double, which decides. A narrow kernel (bandwidth below 0.01) is computed by differences in double for the pairs that
    are near enough, and there alone a gain has no rounding that is not relative to the kernel.

    Attributes:
        covered: (N,) the kernel to the nearest of what is labelled or picked.
    """

    def __init__(self, rows: NDArray[np.float32], weights: NDArray[np.float64], bandwidth: float, labeled: NDArray[np.int64]) -> None:
        self.rows, self.weights, self.bandwidth = rows, weights, bandwidth
        self.covered = kernel_to_nearest(rows, labeled, bandwidth)
        self.narrow = _ball(rows, bandwidth) if bandwidth < _NARROW else None
        screens = {"coarse": _projected(rows), "single": rows} if self.narrow is None else {}
        self.screens = {name: _Screen(part, bandwidth) for name, part in screens.items() if part is not None}

    def pick(self, order: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
        """Picks (budget,) out of the candidates (M,), whose order decides between equals."""
        bounds, picks = np.full(len(order), np.inf), np.empty(budget, np.int64)
        for step in range(budget):
            best = self._best(order, bounds)
            picks[step], bounds[best] = order[best], -1.0
            self.cover(picks[step])
        return picks

    def cover(self, sample: int) -> None:
        """The sample covers from now on."""
        idx, covered = np.array([sample]), self.covered.astype(np.float32)
        for columns in blocks(np.arange(len(self.rows)), self.rows.shape[1]):
            if self.narrow is not None:
                _, near, kernel = _close(self.narrow, idx, columns, self.bandwidth)
            else:
                near = self._near(idx, columns, covered)
                kernel = self._kernel(idx, near)[0]
            self.covered[near] = np.maximum(self.covered[near], kernel)

    def gains(self, idx: NDArray[np.int64]) -> NDArray[np.float64]:
        """(B,) what each would add, in double precision, which is needed only where single precision cannot rule out that it adds."""
        out = np.zeros(len(idx))
        covered = self.covered.astype(np.float32)
        for at in parts(np.arange(len(idx)), _ROWS):
            for columns in parts(np.arange(len(self.rows)), _COLUMNS):
                if self.narrow is not None:
                    out[at] += self._narrow_gains(idx[at], columns)
                    continue
                near = self._near(idx[at], columns, covered)
                more = self._kernel(idx[at], near)
                more -= self.covered[near]
                out[at] += np.maximum(more, 0.0, out=more) @ self.weights[near]
        return out

    def _narrow_gains(self, idx: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """(B,) what each would add at the columns."""
        row, near, kernel = _close(self.narrow, idx, columns, self.bandwidth)
        more = kernel - self.covered[near]
        more[more <= _ROUNDING * self.covered[near]] = 0.0
        return np.bincount(row, more * self.weights[near], len(idx))

    def _nothing(self, idx: NDArray[np.int64], total: float) -> NDArray[np.float64]:
        """(B,) the gain up to which that of a candidate is nothing but rounding.

        Rounding is relative to what is covered; but what a sample adds by covering itself is a gain, however small its weight is.
        """
        if self.narrow is not None:
            return np.zeros(len(idx))
        rounding = 1e-15 * (1 + self.bandwidth**-2)
        left = 1 - self.covered[idx]
        own = np.where(left > 16 * rounding, self.weights[idx] * left, 0.0)
        return np.where(own > 0, np.minimum(own / 2, rounding * total), rounding * total)

    def _best(self, order: NDArray[np.int64], bounds: NDArray[np.float64]) -> int:
        """Position of the largest gain, the first of equals; `bounds` (M,) become tighter, and are -1 for what was picked."""
        names = [*self.screens, "double"]
        together = [_TOGETHER[name] for name in names]
        level, floor = np.zeros(len(order), np.int8), 0.0
        covered, weights = self.covered.astype(np.float32), self.weights.astype(np.float32)
        total = float(self.covered @ self.weights)
        nothing = self._nothing(order, total)
        while True:
            left = np.flatnonzero((bounds > np.maximum(floor, nothing)) & (level < len(names)))
            if not len(left):
                break
            now = level[left[np.argmax(bounds[left])]]
            left = left[level[left] == now]
            look = left[leading(bounds[left], min(together[now], len(left)))]
            together[now] *= 2
            if names[now] == "double":
                found = self.gains(order[look])
                floor = max(floor, (1 - TIE) * found.max())
            else:
                found = self.screens[names[now]].upper(order[look], covered, weights, total)
            bounds[look] = np.minimum(bounds[look], found)
            level[look] += 1
        adding = bounds > nothing
        if not adding.any():
            return int(np.argmax(bounds >= 0))
        return int(np.argmax(adding & (bounds >= (1 - TIE) * bounds[adding].max())))

    def _near(self, idx: NDArray[np.int64], columns: NDArray[np.int64], covered: NDArray[np.float32]) -> NDArray[np.int64]:
        """Those of the columns whose kernel to any of `idx` may be above what they are covered by."""
        single = self.screens["single"]
        return columns[((1 + single.slack) * single.kernel(idx, columns) >= (1 - single.slack) * covered[columns]).any(axis=0)]

    def _kernel(self, idx: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
        return _kernel(self.rows[idx], self.rows[columns], self.bandwidth)


def kernel_to_nearest(rows: NDArray[np.float32], chosen: NDArray[np.int64], bandwidth: float) -> NDArray[np.float64]:
    """(N,) the kernel of every row (N, D) to the nearest of the chosen ones (S,), in double precision; zeros without any."""
    out = np.zeros(len(rows))
    narrow = _ball(rows, bandwidth) if bandwidth < _NARROW else None
    for at in parts(chosen, _ROWS):
        for columns in parts(np.arange(len(rows)), _COLUMNS):
            if narrow is not None:
                _, near, kernel = _close(narrow, at, columns, bandwidth)
                np.maximum.at(out, near, kernel)
                continue
            out[columns] = np.maximum(out[columns], _kernel(rows[at], rows[columns], bandwidth).max(axis=0))
    return out


def _ball(rows: NDArray[np.float32], bandwidth: float) -> Balls:
    """Of the radius beyond which the kernel is zero."""
    return Balls(rows, _REACH * bandwidth)


def _close(
    balls: Balls, idx: NDArray[np.int64], columns: NDArray[np.int64], bandwidth: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Of the pairs whose kernel is not zero: position in `idx`, sample of `columns`, and the kernel by differences."""
    row, column = np.nonzero(balls.within(idx, columns))
    near, squared = columns[column], np.empty(len(row))
    for at in blocks(np.arange(len(row)), balls.rows.shape[1]):
        squared[at] = balls.squared(idx[row[at]], near[at])
    return row, near, np.exp(-squared * bandwidth**-2)


def _kernel(rows: NDArray[np.float32], others: NDArray[np.float32], bandwidth: float) -> NDArray[np.float64]:
    """(B, K)."""
    rows, others = rows.astype(np.float64), others.astype(np.float64)
    squared = rows @ others.T
    squared *= -2
    squared += square_norms(rows)[:, None]
    squared += square_norms(others)
    np.maximum(squared, 0.0, out=squared)
    squared *= -(bandwidth**-2)
    return np.exp(squared, out=squared)


class _Screen:
    """Upper bounds on gains from single precision, or from rows whose distances are smaller than the true ones."""

    def __init__(self, rows: NDArray[np.float32], bandwidth: float) -> None:
        scale = np.float32(bandwidth**-2)
        norms = scale * square_norms(rows)
        self.scale, self.dim = scale, rows.shape[1]
        # The last columns make the product -|x - y|^2 / h^2.
        self.columns = np.concatenate([rows, np.ones_like(norms)[:, None], -norms[:, None]], axis=1)
        # How far rounding may move the kernel, relative to itself: that of D products of numbers whose squares sum to one or less, as if it
        # were drawn (Higham & Mary 2019), four times over.
        self.slack = 4 * (np.sqrt(self.dim) + 4) * 2.0**-24 * (1 + 2 * bandwidth**-2)

    def kernel(self, idx: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """(B, K) in single precision."""
        return np.exp(self._factors(idx) @ self.columns[columns[0] : columns[-1] + 1].T)

    def _factors(self, idx: NDArray[np.int64]) -> NDArray[np.float32]:
        own = self.columns[idx]
        return np.concatenate([2 * self.scale * own[:, : self.dim], own[:, -1:], own[:, -2:-1]], axis=1)

    def upper(self, idx: NDArray[np.int64], covered: NDArray, weights: NDArray, total: float) -> NDArray[np.float64]:
        """(B,); `total` is what is covered already, which the rounding of a covered sample is relative to."""
        out = np.zeros(len(idx))
        for at in parts(np.arange(len(idx)), _ROWS):
            factors = self._factors(idx[at])
            for columns in parts(np.arange(len(covered)), _COLUMNS):
                part = slice(columns[0], columns[-1] + 1)
                kernel = factors @ self.columns[part].T
                np.exp(kernel, out=kernel)
                kernel -= covered[part]
                out[at] += np.maximum(kernel, 0, out=kernel) @ weights[part]
        return out + self.slack * (out + total)


def _projected(rows: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """(N, P + 1): the leading principal components, and the length of what they leave out; None where they leave out much.

    |x - y|^2 is that of the components and that of the rests, which is at least the square of the difference of their lengths.
    """
    if rows.shape[1] <= 2 * _COARSE:
        return None
    mean, every = rows.mean(axis=0, dtype=np.float64), list(blocks(np.arange(len(rows)), rows.shape[1]))
    moments = sum((rows[at] - mean).T @ (rows[at] - mean) for at in every)
    values, vectors = np.linalg.eigh(moments)
    if values[:-_COARSE].sum() > _MOST_LOST * values.sum():
        return None
    out = np.empty((len(rows), _COARSE + 1), np.float32)
    for at in every:
        centred = rows[at] - mean
        out[at, :-1] = centred @ vectors[:, -_COARSE:]
        out[at, -1] = np.sqrt(np.maximum(square_norms(centred) - square_norms(out[at, :-1].astype(np.float64)), 0.0))
    return out
