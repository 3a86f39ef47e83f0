"""Columns of G = (I - alpha W)^-1 of a connected graph, 64 at a time, in single precision.

Chebyshev iteration (Golub & Varga 1961) needs no inner products, so that a step is one pass over the graph. It is fast only
if the spectrum is narrow; so all that varies slowly is corrected on a coarse graph between a few such steps.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from usb_active.plugins.jlp.fast_coarse import Coarse
from usb_active.plugins.jlp.kernels import WIDTH, difference_norms, step

from usb_active.numerics.propagation.graph import Part
from usb_active.numerics.propagation.kernels import threads_for

# Residual of a column, against 1 of its source, or against a column of larger norm, which rounding does not allow to do better.
_RESIDUAL = 1e-6
_MOST_CYCLES = 40
# A cycle's steps reduce by this what belongs to eigenvalues of W below the cut, at first this one.
_REDUCTION = 2e-2
# But for the last cycle, which need not do more than this beside what is still too much.
_MARGIN = 0.1
_CUT = 0.8
# If a whole cycle reduces the residual less than that, the coarse graph is too coarse: the cut moves towards the second eigenvalue.
_SLOW = 0.2


class BlockSolver:
    """Columns of (I - alpha W)^-1 of a connected `part`.

    Attributes:
        lowest: an estimate of the smallest eigenvalue of W.
        second: an estimate of its largest eigenvalue below 1.
        cut: the steps care for eigenvalues below, the coarse graph for those above; it is raised where that turns out to be slow.
    """

    def __init__(self, part: Part, alpha: float, lowest: float, second: float) -> None:
        self.part = part
        self.alpha = alpha
        self.single = part.data.astype(np.float32)
        self.no_sources = np.full(len(part), -1, np.int16)
        self.lowest, self.second = lowest, second
        self.cut = min(second, _CUT)
        self.coarse = Coarse(part, alpha)

    def columns(self, nodes: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(N, WIDTH): the columns of up to WIDTH nodes, in the first places; and (WIDTH,): the norms of their residuals."""
        column_of = self.no_sources.copy()
        column_of[nodes] = np.arange(len(nodes), dtype=np.int16)
        x, old, before = self.coarse.start(nodes), np.zeros((len(self.part), WIDTH), np.float32), math.inf
        for _ in range(_MOST_CYCLES):
            interval = self._interval()
            norms = self._first_step(x, old, column_of, interval[0])
            if norms.max() <= _RESIDUAL:
                return x, norms
            excess = float((norms / (2 * _RESIDUAL * np.maximum(_norms(x), 1))).max())
            if excess <= 1:
                return x, norms
            if norms.max() <= 10:
                reduction = max(_REDUCTION, _MARGIN / excess)
                x, old = self._next_steps(old, x, column_of, *interval, reduction)
                self._residual(x, old, column_of)
                self.coarse.correct(x, old)
                if reduction == _REDUCTION:
                    self._judge(norms.max() / before)
                before = norms.max()
            else:
                # It grew: the spectrum reaches below the estimate. No eigenvalue lies below -1.
                self.lowest, x, old, before = -1.0, self.coarse.start(nodes), np.zeros_like(x), math.inf
        raise ArithmeticError(f"joint label propagation: columns do not converge, residual {norms.max():.2e}")

    def _judge(self, reduction: float) -> None:
        """Raise the cut if a whole cycle did not reduce the residual much: the coarse graph is too coarse."""
        if reduction > _SLOW:
            self.cut = (self.cut + self.second) / 2

    def _interval(self) -> tuple[float, float]:
        """Centre and half-width of the eigenvalues of I - alpha W, for those of W from `lowest` to `cut`."""
        low, high = 1 - self.alpha * self.cut, 1 - self.alpha * self.lowest
        return (low + high) / 2, (high - low) / 2

    def _first_step(self, x: NDArray, out: NDArray, column_of: NDArray, centre: float) -> NDArray[np.float32]:
        """One step from x to `out`, along the residual: (WIDTH,) its norms."""
        self._step(x, out, column_of, self.alpha / centre, 1 - 1 / centre, 0, 1 / centre)
        return np.float32(centre) * difference_norms(x, out)

    def _next_steps(
        self, x: NDArray, old: NDArray, column_of: NDArray, centre: float, half: float, reduction: float
    ) -> tuple[NDArray, NDArray]:
        """x and its predecessor after as many steps of (I - alpha W) x = e as reduce an error by this; both are used up."""
        # An error is reduced by T_k(centre / half).
        steps, factor = math.ceil(math.acosh(1 / reduction) / math.acosh(centre / half)), 1.0
        for at in range(steps - 1):
            factor = 1 / (1 - (half / centre) ** 2 * (0.5 if at == 0 else factor / 4))
            # x_next = factor * (x + (e - x + alpha W x) / centre - x_old) + x_old
            self._step(x, old, column_of, factor * self.alpha / centre, factor * (1 - 1 / centre), 1 - factor, factor / centre)
            x, old = old, x
        return x, old

    def _residual(self, x: NDArray, out: NDArray, column_of: NDArray) -> None:
        self._step(x, out, column_of, self.alpha, -1, 0, 1)

    def _step(self, x: NDArray, old: NDArray, column_of: NDArray, *factors: float) -> None:
        with threads_for(len(self.single) * WIDTH):
            step(self.part.indptr, self.part.indices, self.single, x, old, column_of, *map(np.float32, factors))


def _norms(x: NDArray) -> NDArray[np.float32]:
    return np.sqrt(np.einsum("nb,nb->b", x, x))
