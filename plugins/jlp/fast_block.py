"""Columns of G = (I - alpha W)^-1 of a connected graph, 64 at a time, in single precision.

Chebyshev iteration (Golub & Varga 1961) needs no inner products, so that a step is one pass over the graph. It is fast only
if the spectrum is narrow; so the leading eigenvectors are solved for apart (deflation): the largest, 1, is known exactly;
the next ones are found by subspace iteration with a Chebyshev filter (Zhou & Saad 2007).
"""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from usb_active.propagation.graph import Part
from usb_active.propagation.kernels import WIDTH, step, threads_for

# Residual of a column, against 1 of its source, or against a column of larger norm, which rounding does not allow to do better.
_RESIDUAL = 1e-6
_MOST_CYCLES = 12
# Subspace iteration: the least steps of one filter, rounds, and the eigenvectors that are kept. Those at the end converge last.
_FILTER_STEPS = 10
_ROUNDS = 3
_KEPT = WIDTH - 12
# Without deflation a block may take this many steps before finding eigenvectors pays for one block more.
_CHEAP_STEPS = 16


class BlockSolver:
    """Columns of (I - alpha W)^-1 of a connected `part`.

    lowest, second: estimates of the smallest eigenvalue of W and of the largest below 1. blocks: how many will be solved
    about, which decides whether eigenvectors are worth finding. vectors: (N, R), orthonormal, `top` first; gains: (R,),
    1 / (1 - alpha * eigenvalue). cut: all other eigenvalues are below.
    """

    def __init__(self, part: Part, alpha: float, lowest: float, second: float, blocks: float) -> None:
        self.part = part
        self.alpha = alpha
        self.single = part.data.astype(np.float32)
        self.no_sources = np.full(len(part), -1, np.int16)
        self.lowest, self.cut = lowest, second
        self.vectors = part.top.astype(np.float32)[:, None]
        self.gains = np.array([1 / (1 - alpha)], np.float32)
        if self._pays(blocks):
            self._find_eigenvectors()

    # ---------------------------------------------------------------------------------------------------- columns

    def columns(self, nodes: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(N, WIDTH): the columns of up to WIDTH nodes, in the first places; and (WIDTH,): the norms of their residuals."""
        column_of = self.no_sources.copy()
        column_of[nodes] = np.arange(len(nodes), dtype=np.int16)
        x, reduction = self._start(nodes), _RESIDUAL
        for _ in range(_MOST_CYCLES):
            x = self._chebyshev(x, column_of, self._steps(reduction, self.cut))
            # What the iteration cannot damp: errors along the eigenvectors, which are not exact.
            self._correct(x, self._residual(x, column_of))
            norms = _norms(self._residual(x, column_of))
            if norms.max() <= _RESIDUAL or (norms <= 2 * _RESIDUAL * np.maximum(_norms(x), 1)).all():
                return x, norms
            reduction = _RESIDUAL / min(norms.max(), 1)
            if not norms.max() <= 10:
                # It grew: the spectrum reaches below the estimate. No eigenvalue lies below -1.
                self.lowest, x, reduction = -1.0, self._start(nodes), _RESIDUAL
        raise ArithmeticError(f"joint label propagation: columns do not converge, residual {norms.max():.2e}")

    def _start(self, nodes: NDArray) -> NDArray[np.float32]:
        x = np.zeros((len(self.part), WIDTH), np.float32)
        x[:, : len(nodes)] = self.vectors @ (self.vectors[nodes] * self.gains).T
        return x

    def _correct(self, x: NDArray, residual: NDArray) -> None:
        x += self.vectors @ ((self.vectors.T @ residual) * self.gains[:, None])

    def _residual(self, x: NDArray, column_of: NDArray) -> NDArray[np.float32]:
        out = np.zeros_like(x)
        self._step(x, out, column_of, self.alpha, -1, 0, 1)
        return out

    def _interval(self, cut: float) -> tuple[float, float]:
        """Centre and half-width of the eigenvalues of I - alpha W, for those of W from `lowest` to `cut`."""
        low, high = 1 - self.alpha * cut, 1 - self.alpha * self.lowest
        return (low + high) / 2, (high - low) / 2

    def _steps(self, reduction: float, cut: float) -> int:
        """Steps that reduce an error by this factor: T_k(centre / half) = 1 / reduction."""
        centre, half = self._interval(cut)
        return 1 + math.ceil(math.acosh(1 / min(reduction, 0.5)) / math.acosh(centre / half))

    def _chebyshev(self, x: NDArray, column_of: NDArray, steps: int) -> NDArray[np.float32]:
        """x after that many steps of (I - alpha W) x = e; x itself is used up."""
        centre, half = self._interval(self.cut)
        old, factor = np.zeros_like(x), 1.0
        for at in range(steps):
            # x_next = factor * (x + (e - x + alpha W x) / centre - x_old) + x_old
            self._step(x, old, column_of, factor * self.alpha / centre, factor * (1 - 1 / centre), 1 - factor, factor / centre)
            x, old = old, x
            factor = 1 / (1 - (half / centre) ** 2 * (0.5 if at == 0 else factor / 4))
        return x

    def _step(self, x: NDArray, old: NDArray, column_of: NDArray, *factors: float) -> None:
        with threads_for(len(self.single) * WIDTH):
            step(self.part.indptr, self.part.indices, self.single, x, old, column_of, *map(np.float32, factors))

    # ----------------------------------------------------------------------------------------------- eigenvectors

    def _pays(self, blocks: float) -> bool:
        enough_rows = len(self.part) > 8 * WIDTH
        return enough_rows and (self._steps(_RESIDUAL, self.cut) - _CHEAP_STEPS) * blocks > _ROUNDS * _FILTER_STEPS

    def _find_eigenvectors(self) -> None:
        """Approximations do: `columns` checks the true residual."""
        x = np.random.default_rng(0).standard_normal((len(self.part), WIDTH), np.float32)
        cut, steps = 0.5 * (self.lowest + 1), _FILTER_STEPS
        for _ in range(_ROUNDS):
            x, values = self._rayleigh_ritz(self._filter(x, cut, steps))
            cut = max(float(values[-1]), self.lowest + 0.1)
            # As hard as a block would be: what the filter leaves of other eigenvectors has to be solved for in each.
            steps = max(_FILTER_STEPS, self._steps(_RESIDUAL, cut) // 2)
        self.vectors = np.hstack([self.vectors, x[:, :_KEPT]])
        self.gains = np.append(self.gains, 1 / (1 - self.alpha * values[:_KEPT])).astype(np.float32)
        self.cut = min(self.cut, float(values[_KEPT]))

    def _filter(self, x: NDArray, cut: float, steps: int) -> NDArray[np.float32]:
        """T_k of W, mapped so that [lowest, cut] stays within [-1, 1] and all above grows."""
        self._remove_top(x)
        centre, half = (cut + self.lowest) / 2, (cut - self.lowest) / 2
        old = np.zeros_like(x)
        for at in range(steps):
            scale = 1 if at == 0 else 2
            self._step(x, old, self.no_sources, scale / half, -scale * centre / half, -1, 0)
            x, old = old, x
        return x

    def _rayleigh_ritz(self, x: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Orthonormal Ritz vectors of the span of x (N, WIDTH) and their values, largest first."""
        self._remove_top(x)
        # numpy's would compute in double precision, several times as slow.
        x = np.ascontiguousarray(scipy.linalg.qr(x, overwrite_a=True, mode="economic", check_finite=False)[0])
        image = np.zeros_like(x)
        self._step(x, image, self.no_sources, 1, 0, 0, 0)
        values, rotation = np.linalg.eigh((x.T @ image).astype(np.float64))
        return x @ rotation[:, ::-1].astype(np.float32), values[::-1]

    def _remove_top(self, x: NDArray) -> None:
        x -= self.vectors @ (self.vectors.T @ x)


def _norms(x: NDArray) -> NDArray[np.float32]:
    return np.sqrt(np.einsum("nb,nb->b", x, x))
