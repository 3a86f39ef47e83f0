"""Conjugate gradient on one right-hand side that improves an estimate, and what it finds out about the spectrum on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray

from usb_active.numerics.propagation.cg import most_steps
from usb_active.numerics.propagation.graph import Part


@dataclass
class Trace:
    """What conjugate gradient finds out about the spectrum of I - alpha W on the way."""

    lengths: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    def bounds(self) -> tuple[float, float] | None:
        """Smallest and largest eigenvalue of the Lanczos matrix: near the true ones, from within. None without a step."""
        if not self.lengths:
            return None
        lengths, ratios = np.array(self.lengths), np.array(self.ratios[:-1])
        diagonal = 1 / lengths
        diagonal[1:] += ratios / lengths[:-1]
        values = scipy.linalg.eigvalsh_tridiagonal(diagonal, np.sqrt(ratios) / lengths[:-1])
        return float(values[0]), float(values[-1])


def refine(part: Part, x: NDArray, y: NDArray, alpha: float, tol: float, trace: Trace | None = None) -> None:
    """Improve x (N,) in place until the residual of (I - alpha W) x = y is at most tol times the norm of y."""
    matrix = sp.csr_array((part.data, part.indices, part.indptr), shape=(len(part), len(part)))
    residual = y - x + alpha * (matrix @ x)
    along = (part.top @ residual) * part.top
    x += along / (1 - alpha)
    residual -= along
    limit, squares, direction = tol * np.linalg.norm(y), float(residual @ residual), residual.copy()
    for _ in range(most_steps(alpha, np.array([limit]), np.array([squares]))):
        if math.sqrt(squares) <= limit:
            return
        image = direction - alpha * (matrix @ direction)
        length = squares / float(direction @ image)
        x += length * direction
        residual -= length * image
        squares, before = float(residual @ residual), squares
        direction *= squares / before
        direction += residual
        if trace is not None:
            trace.lengths.append(length)
            trace.ratios.append(squares / before)
    raise ArithmeticError(f"conjugate gradient: no convergence; residual {math.sqrt(squares):.2e}, wanted {limit:.2e}")
