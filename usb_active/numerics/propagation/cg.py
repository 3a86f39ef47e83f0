"""Conjugate gradient (Hestenes & Stiefel 1952) for (I - alpha W) x = y in double precision, many columns at once."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from usb_active.numerics.propagation.graph import Graph

# Columns solved together: a product with many costs little more than with one, but four arrays (N, columns) are needed.
_COLUMNS = 32


def solve(graph: Graph, y: NDArray[np.float64], alpha: float, tol: float, start: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """x (N, C) of y (N, C), each column until its residual is at most tol times the column's norm.

    Components without a source come out exactly zero.

    Args:
        graph: W, and its components.
        y: (N, C), the right side.
        alpha: as in `diffuse`.
        tol: as in `diffuse`.
        start: (N, C), a guess.
    """
    if alpha == 0:
        return y.copy()
    x = np.zeros_like(y)
    for at in range(0, y.shape[1], _COLUMNS):
        columns = slice(at, at + _COLUMNS)
        y_part = np.ascontiguousarray(y[:, columns])
        guess = None if start is None else np.where(graph.reached(y_part), start[:, columns], 0.0)
        x[:, columns] = _solve_block(graph, y_part, alpha, tol, guess)
    return x


def _solve_block(graph: Graph, y: NDArray, alpha: float, tol: float, guess: NDArray | None) -> NDArray[np.float64]:
    x = np.zeros_like(y) if guess is None else np.ascontiguousarray(guess)
    residual = y.copy() if guess is None else y - (x - alpha * graph.product(x))
    # Solved exactly along the eigenvector of the eigenvalue 1 - alpha, so that the iteration has a smaller spectrum to resolve.
    along = graph.project_top(residual)
    x += along / (1 - alpha)
    residual -= along
    limits = tol * np.linalg.norm(y, axis=0)
    _iterate(graph, x, residual, alpha, limits)
    return x


def _iterate(graph: Graph, x: NDArray, residual: NDArray, alpha: float, limits: NDArray) -> None:
    """Conjugate gradient on x in place. A column leaves when it has converged: further steps would only add rounding."""
    active = np.arange(x.shape[1])
    direction, squares = residual.copy(), _dots(residual, residual)
    for _ in range(most_steps(alpha, limits, squares)):
        going = np.sqrt(squares) > limits[active]
        if not going.all():
            active, squares = active[going], squares[going]
            residual, direction = residual[:, going], direction[:, going]
        if not len(active):
            return
        image = direction - alpha * graph.product(direction)
        step = squares / _dots(direction, image)
        x[:, active] += step * direction
        residual -= step * image
        squares, before = _dots(residual, residual), squares
        direction *= squares / before
        direction += residual
    raise ArithmeticError(f"conjugate gradient: no convergence; residuals {np.sqrt(squares)}, wanted {limits[active]}")


def most_steps(alpha: float, limits: NDArray, squares: NDArray) -> int:
    """Twice the steps after which the residual must be small enough, by the bound of the condition number."""
    condition = (1 + alpha) / (1 - alpha)
    smallest = np.divide(limits, np.sqrt(squares), out=np.ones_like(limits), where=squares > 0).clip(1e-300).min(initial=1)
    return 10 + int(math.sqrt(condition) * math.log(2 * math.sqrt(condition) / smallest))


def _dots(x: NDArray, y: NDArray) -> NDArray:
    return np.einsum("nb,nb->b", x, y)
