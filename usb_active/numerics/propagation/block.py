"""Conjugate gradient for many columns that share one space of directions (O'Leary 1980), in the form that keeps the residuals'
columns orthonormal (Dubrulle 2001, "Retooling the method of block conjugate gradients").

The columns of a labelled pool take about half as many steps so as one by one: what is slow to converge is a few directions, between the
classes, and every column needs the same ones. Dimension letters: N nodes, B columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

# Entries of each array that are worked on at once: they stay in a processor's cache.
_ENTRIES = 1 << 15
# Pivots of a triangular factor apart by more than this: columns that are all but dependent.
_DEPENDENT = 1e-5

Product = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def iterate_block(
    product: Product, x: NDArray[np.float64], residual: NDArray[np.float64], alpha: float, limits: NDArray[np.float64], most: int
) -> NDArray[np.float64]:
    """Steps on x (N, B) in place until every column's residual (N, B) is within its limit (B,), or the columns have become dependent.

    Args:
        product: W times columns.
        x: the solution so far.
        residual: y - (I - alpha W) x, no column zero.
        alpha: in (0, 1).
        limits: on the norms of the residual's columns.
        most: at most so many steps.

    Returns:
        The residual (N, B), by recurrence.
    """
    norms = np.linalg.norm(residual, axis=0)
    # The residual is always `basis @ coefficients`.
    basis, coefficients = residual / norms, np.diag(norms)
    upper = _upper(basis.T @ basis)
    if upper is None:
        return residual
    basis, coefficients = basis @ np.linalg.inv(upper), upper @ coefficients
    direction = basis.copy()
    for _ in range(most):
        if (np.linalg.norm(coefficients, axis=0) <= limits).all():
            break
        image, curvature = product(direction), np.zeros_like(coefficients)
        for at in _parts(image):
            image[at] *= -alpha
            image[at] += direction[at]
            curvature += direction[at].T @ image[at]
        step = np.linalg.inv(curvature)
        along, gram = step @ coefficients, np.zeros_like(coefficients)
        for at in _parts(x):
            x[at] += direction[at] @ along
            basis[at] -= image[at] @ step
            gram += basis[at].T @ basis[at]
        upper = _upper(gram)
        if upper is None:
            break
        inverse, coefficients = np.linalg.inv(upper), upper @ coefficients
        for at in _parts(x):
            basis[at] = basis[at] @ inverse
            direction[at] = basis[at] + direction[at] @ upper.T
    return basis @ coefficients


def _upper(gram: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """R (B, B) with R'R = gram, upper triangular; None where the columns that gram is of are all but dependent."""
    try:
        upper = np.linalg.cholesky(gram).T
    except np.linalg.LinAlgError:
        return None
    pivots = np.diag(upper)
    return None if pivots.min() < _DEPENDENT * pivots.max() else upper


def _parts(array: NDArray) -> Iterator[slice]:
    rows = max(1, _ENTRIES // array.shape[1])
    for at in range(0, len(array), rows):
        yield slice(at, at + rows)
