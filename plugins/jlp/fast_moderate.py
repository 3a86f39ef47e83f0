"""The greedy in a connected component of moderate size: an exact solve after every pick."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from usb_active.plugins.jlp.kernels import solve_vector

from usb_active.numerics.propagation.graph import Part

# The rank of a node that cannot be picked.
TAKEN = np.iinfo(np.int64).max
# Values closer than this, relative, are equal, and the rank decides.
TIE = 1e-8
# Values below this are equal too: what a labelled node has of itself is above 1. One solve leaves some 1e-11 open, and they add up.
FLOOR = 1e-9
# Residual of an exact solve, relative.
EXACT = 1e-12


def first_of_lowest(values: NDArray, rank: NDArray) -> int:
    """Position of the lowest of `values` (S,), by `rank` among equals."""
    equal = np.flatnonzero(values <= max(values.min(), FLOOR) * (1 + TIE))
    return int(equal[np.argmin(rank[equal])])


class Moderate:
    """The greedy in a component of moderate size. rank: (N,), TAKEN where a node cannot be picked."""

    exact = True

    def __init__(self, part: Part, rank: NDArray, alpha: float) -> None:
        self.part, self.rank, self.alpha = part, rank, alpha
        self.values = np.where(rank < TAKEN, 0.0, np.inf)
        self.left = int(np.isfinite(self.values).sum())

    def begin(self, sources: NDArray) -> None:
        self._add(sources)

    def add(self, node: int) -> None:
        self.values[node] = np.inf
        self.left -= 1
        if self.left:
            self._add(np.array([node]))

    def lowest(self) -> tuple[float, int] | None:
        """(value, at least FLOOR, and node), or None when there is nothing left."""
        if not self.left:
            return None
        node = first_of_lowest(self.values, self.rank)
        return max(float(self.values[node]), FLOOR), node

    def _add(self, sources: NDArray) -> None:
        y = np.zeros(len(self.part))
        y[sources] = 1
        part, most = self.part, 10 + int(40 / math.sqrt(1 - self.alpha))
        limit = EXACT * math.sqrt(len(sources))
        x, norm = solve_vector(part.indptr, part.indices, part.data, part.top, self.alpha, y, limit, most)
        if not norm <= limit:
            raise ArithmeticError(f"joint label propagation: conjugate gradient does not converge, residual {norm:.2e}")
        self.values += x
