"""Conjugate gradient (Hestenes & Stiefel 1952) for (I - alpha W) x = y in double precision, many columns at once."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from usb_active.numerics.propagation.block import iterate_block
from usb_active.numerics.propagation.graph import Graph
from usb_active.numerics.propagation.kernels import advance, turn

# Columns solved together: a product with many costs little more than with one, but four arrays (N, columns) are needed.
_COLUMNS = 32
# Entries of these arrays from which on the graph's nodes are put in an order in which neighbours are near each other in memory, which
# halves the time of a product. Below, all stay in a processor's cache in any order.
_WORTH_AN_ORDER = 1 << 17
# How often a block is begun: again where columns that were all but dependent are not yet within their limits.
_BLOCKS = 3


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
    # A column without a source is zero.
    columns = np.flatnonzero(y.any(axis=0))
    order = None
    if len(columns) > 1 and min(len(columns), _COLUMNS) * graph.size >= _WORTH_AN_ORDER:
        order = graph.near_order()
    if order is None:
        order = np.arange(graph.size)
    else:
        graph = graph.reordered(order)
    x = np.zeros_like(y)
    for part in np.split(columns, np.arange(_COLUMNS, len(columns), _COLUMNS)):
        at = np.ix_(order, part)
        x[at] = _solve_block(graph, y[at], alpha, tol, None if start is None else start[at])
    return x


def _solve_block(graph: Graph, y: NDArray, alpha: float, tol: float, start: NDArray | None) -> NDArray[np.float64]:
    reached = graph.reached(y)
    x = np.zeros_like(y) if start is None else np.where(reached, start, 0.0)
    residual = y.copy() if start is None else _residual(graph, x, y, alpha)
    # Solved exactly along the eigenvector of the eigenvalue 1 - alpha, so that the iteration has a smaller spectrum to resolve.
    along = graph.project_top(residual)
    x += along / (1 - alpha)
    residual -= along
    limits = tol * np.linalg.norm(y, axis=0)
    going = np.arange(y.shape[1])
    for _ in range(_BLOCKS):
        squares = _dots(residual, residual)
        above = np.sqrt(squares) > limits[going]
        going, residual = going[above], residual[:, above]
        if len(going) < 2:
            break
        gain = iterate_block(graph.product, residual, alpha, limits[going], most_steps(alpha, limits[going], squares[above]))
        # Columns that are mixed leave rounding where there is nothing.
        x[:, going] += gain * reached[:, going]
        residual = _residual(graph, x[:, going], y[:, going], alpha)
    # Of a block, what it has left: most often nothing.
    left = x[:, going]
    _iterate(graph, left, residual, alpha, limits[going])
    x[:, going] = left
    return x


def _residual(graph: Graph, x: NDArray, y: NDArray, alpha: float) -> NDArray[np.float64]:
    return y - graph.system(x, alpha)


def _iterate(graph: Graph, x: NDArray, residual: NDArray, alpha: float, limits: NDArray) -> None:
    """Conjugate gradient on x in place. A column leaves when it has converged: further steps would only add rounding."""
    if x.shape[1] == 1:
        _iterate_column(graph, x[:, 0], residual[:, 0], alpha, limits)
        return
    active = np.arange(x.shape[1])
    direction, squares = residual.copy(), _dots(residual, residual)
    for _ in range(most_steps(alpha, limits, squares)):
        going = np.sqrt(squares) > limits[active]
        if not going.all():
            active, squares = active[going], squares[going]
            residual, direction = residual[:, going], direction[:, going]
        if not len(active):
            return
        image = graph.system(direction, alpha)
        step = squares / _dots(direction, image)
        x[:, active] += step * direction
        image *= step
        residual -= image
        squares, before = _dots(residual, residual), squares
        direction *= squares / before
        direction += residual
    raise ArithmeticError(f"conjugate gradient: no convergence; residuals {np.sqrt(squares)}, wanted {limits[active]}")


def _iterate_column(graph: Graph, x: NDArray, residual: NDArray, alpha: float, limits: NDArray) -> None:
    """The same for one column x (N,), in whose memory it works, and that of its residual (N,)."""
    direction, image = residual.copy(), np.empty_like(residual)
    square = _dot(residual, residual)
    for _ in range(most_steps(alpha, limits, np.array([square]))):
        if math.sqrt(square) <= limits[0]:
            return
        graph.system_column(direction, alpha, image)
        step = square / _dot(direction, image)
        square, before = advance(x, residual, direction, image, step), square
        turn(direction, residual, square / before)
    raise ArithmeticError(f"conjugate gradient: no convergence; residual {math.sqrt(square)}, wanted {limits[0]}")


def most_steps(alpha: float, limits: NDArray, squares: NDArray) -> int:
    """Twice the steps after which the residual must be small enough, by the bound of the condition number."""
    condition = (1 + alpha) / (1 - alpha)
    smallest = np.divide(limits, np.sqrt(squares), out=np.ones_like(limits), where=squares > 0).clip(1e-300).min(initial=1)
    return 10 + int(math.sqrt(condition) * math.log(2 * math.sqrt(condition) / smallest))


def _dots(x: NDArray, y: NDArray) -> NDArray:
    return np.einsum("nb,nb->b", x, y)


def _dot(x: NDArray, y: NDArray) -> float:
    # Not `@`, whose order of additions is that of so many threads.
    return float(np.einsum("n,n->", x, y))
