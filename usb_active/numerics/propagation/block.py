"""Conjugate gradient for many columns that share one space of directions (O'Leary 1980), in the form that keeps the residuals'
columns orthonormal (Dubrulle 2001, "Retooling the method of block conjugate gradients").

The columns of a labelled pool take about half as many steps so as one by one: what is slow to converge is a few directions, between the
classes, and every column needs the same ones. Directions that turn out to depend on others leave, as do those that are solved: the rest
goes on where it is (Ji & Li 2017, "A breakdown-free block conjugate gradient method"). Dimension letters: N nodes, B columns, R <= B
directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpstrf

# Entries of each array that are worked on at once: they stay in a processor's cache.
_ENTRIES = 1 << 15
# A direction of which no more than this share is new, beside the one with most: all but dependent.
_DEPENDENT = 1e-5

Array = NDArray[np.float64]


def iterate_block(product: Callable[[Array], Array], residual: Array, alpha: float, limits: Array, most: int) -> Array:
    """What to add to a solution whose residual is given, for every column's to be within its limit.

    By recurrence: of directions that left, up to 1e-5 may remain in the true residual.

    Args:
        product: W times columns.
        residual: (N, B), y - (I - alpha W) x, no column zero. Is overwritten.
        alpha: in (0, 1).
        limits: (B,) on the norms of the residual's columns.
        most: at most so many steps.

    Returns:
        (N, B).
    """
    norms = np.linalg.norm(residual, axis=0)
    residual /= norms
    # The residual is always `basis @ coefficients`, (N, R) @ (R, B), the basis orthonormal.
    upper, mix = _factor(residual.T @ residual)
    basis, coefficients = residual @ mix, upper * norms
    direction, gain = basis.copy(), np.zeros(residual.shape)
    for _ in range(most):
        if (np.linalg.norm(coefficients, axis=0) <= limits).all():
            break
        rank = len(coefficients)
        image, curvature = product(direction), np.zeros((rank, rank))
        for at in _parts(image):
            image[at] *= -alpha
            image[at] += direction[at]
            curvature += direction[at].T @ image[at]
        step = np.linalg.inv(curvature)
        along, gram = step @ coefficients, np.zeros((rank, rank))
        for at in _parts(image):
            gain[at] += direction[at] @ along
            basis[at] -= image[at] @ step
            gram += basis[at].T @ basis[at]
        upper, mix = _factor(gram)
        coefficients, rank = upper @ coefficients, len(upper)
        for at in _parts(image):
            basis[at, :rank] = basis[at] @ mix
            direction[at, :rank] = basis[at, :rank] + direction[at] @ upper.T
        basis, direction = np.ascontiguousarray(basis[:, :rank]), np.ascontiguousarray(direction[:, :rank])
    return gain


def _factor(gram: Array) -> tuple[Array, Array]:
    """Of columns with this gram (B, B): their coefficients (R, B) in an orthonormal basis, and mix (B, R), which makes it of them.

    R is their number less those that are all but dependent on the others.
    """
    factor, pivots, rank, _ = dpstrf(gram, tol=_DEPENDENT**2 * gram.diagonal().max())
    order, factor = pivots - 1, np.triu(factor)[:rank]
    upper, mix = np.empty_like(factor), np.zeros((len(gram), rank))
    upper[:, order] = factor
    mix[order[:rank]] = np.linalg.inv(factor[:, :rank])
    return upper, mix


def _parts(array: NDArray) -> Iterator[slice]:
    rows = max(1, _ENTRIES // array.shape[1])
    for at in range(0, len(array), rows):
        yield slice(at, at + rows)
