"""How many samples each sample has within a distance, exactly, without keeping the pairs.

Dimension letters: N pool, D feature dimension, B and K rows of a block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from usb_active.numerics.arrays import blocks
from usb_active.numerics.spaces import square_norms

_ROWS, _COLUMNS = 512, 2048


class Balls:
    """Balls of one radius around rows (N, D) of length one or zero: |x - y| < radius, as in the authors' code.

    A product in single precision decides where its rounding cannot matter, differences in double precision decide elsewhere. So whether a
    pair is within the radius does not depend on blocks, and is the same seen from both sides.
    """

    def __init__(self, rows: NDArray[np.float32], radius: float) -> None:
        self.rows, self.radius = rows, float(radius)
        # No two are more than 2 apart, and whatever is above that decides the same.
        self.limit = np.float32(min(self.radius, 2.1) ** 2)
        self.norms = square_norms(rows)
        # Of |x|^2 + |y|^2 - 2xy with lengths of at most one (Higham 2002, section 3.1), and of the limit.
        self.slack = np.float32(8 * (rows.shape[1] + 4) * 2.0**-24)

    def within(self, idx: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(B, K): whether the pairs are within the radius."""
        # Twice the products less |y|^2 decide by |x|^2 less the limit: few passes over a block.
        nearness = (2 * self.rows[idx]) @ self.rows[others].T
        nearness -= self.norms[others]
        least = self.norms[idx, None] - self.limit
        inside = nearness > least + self.slack
        row, column = np.nonzero(inside ^ (nearness >= least - self.slack))
        for at in blocks(np.arange(len(row)), self.rows.shape[1]):
            # Distances, not their squares: the radius may be one of them.
            inside[row[at], column[at]] = np.sqrt(self.squared(idx[row[at]], others[column[at]])) < self.radius
        return inside

    def squared(self, idx: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.float64]:
        """(B,) squared distances of the pairs, in double precision."""
        return square_norms(self.rows[idx].astype(np.float64) - self.rows[others])

    def squared_to(self, sample: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
        """(K,) squared distances of `others` to one sample."""
        every = blocks(np.arange(len(others)), self.rows.shape[1])
        return np.concatenate([square_norms(self.rows[others[at]].astype(np.float64) - self.rows[sample]) for at in every])

    def counts(self, idx: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
        """(B,): how many of `others` (K,) lie within the radius of each, itself included."""
        out = np.zeros(len(idx), np.int64)
        for at in parts(np.arange(len(idx)), _ROWS):
            for columns in parts(others, _COLUMNS):
                out[at] += np.count_nonzero(self.within(idx[at], columns), axis=1)
        return out

    def union(self, idx: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(K,): whether each of `others` lies within the radius of any of `idx` (B,)."""
        out = np.zeros(len(others), bool)
        for at in parts(idx, _ROWS):
            for columns in parts(np.arange(len(others)), _COLUMNS):
                out[columns] |= self.within(at, others[columns]).any(axis=0)
        return out


class Degrees:
    """How many samples that nothing covers yet lie in the ball of each candidate; a sample's pairs are looked at when it is covered.

    So they are looked at twice at most, and none is kept: memory is O(N), however large the radius is.

    Attributes:
        values: (M,) by position of the candidate.
        covered: (N,) whether a sample is covered.
    """

    def __init__(self, balls: Balls, candidates: NDArray[np.int64], covered: NDArray[np.bool_]) -> None:
        self.balls, self.candidates, self.covered = balls, candidates, covered.copy()
        self.values = balls.counts(candidates, np.flatnonzero(~covered))

    def pick(self, position: int) -> None:
        """The candidate's ball is covered from now on."""
        left = np.flatnonzero(~self.covered)
        new = left[self.balls.union(self.candidates[[position]], left)]
        self.covered[new] = True
        self.values -= self.balls.counts(self.candidates, new)


def parts(idx: NDArray, size: int) -> list[NDArray]:
    """Consecutive parts of at most so many."""
    return [idx[at : at + size] for at in range(0, len(idx), size)]


def nearest_stranger(rows: NDArray[np.float32], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) the distance of every row (N, D), of length one, to the nearest row of another group (N,); inf where there is but one.

    Products in single precision say which rows may be the nearest, differences in double precision which is: copies are 0 apart.
    """
    balls, size = Balls(rows, 0.0), len(rows)
    best, squared = np.full(size, -np.inf, np.float32), np.full(size, np.inf)
    order = np.argsort(groups, kind="stable")
    # Every pair once: its product serves both rows. Of rows sorted by group, most blocks have one group or two.
    for at in parts(np.arange(size), _ROWS):
        for columns in parts(np.arange(at[0], size), _COLUMNS):
            one, other = order[at], order[columns]
            if groups[one[0]] == groups[other[-1]] == groups[one[-1]] == groups[other[0]]:
                continue
            products = 2 * (rows[one] @ rows[other].T) - balls.norms[one, None] - balls.norms[other]
            products[groups[one][:, None] == groups[other]] = -np.inf
            for mine, theirs, values in ((one, other, products), (other, one, products.T)):
                best[mine] = np.maximum(best[mine], values.max(axis=1))
                # Both, the best and the one that is nearer in truth, may be wrong by the slack.
                row, column = np.nonzero(np.isfinite(values) & (values >= (best[mine] - 2 * balls.slack)[:, None]))
                for pairs in blocks(np.arange(len(row)), rows.shape[1]):
                    np.minimum.at(squared, mine[row[pairs]], balls.squared(mine[row[pairs]], theirs[column[pairs]]))
    return np.sqrt(squared)
