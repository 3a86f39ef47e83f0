"""The small matrices of `fisher`, two for each sample, made, changed and evaluated by compiled loops.

Dimension letters: B rows of a block, C classes. S = diag(r) - p r^T of predictions p, r their roots, so that S S^T = diag(p) - p p^T.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from usb_active.environment.compiling import prepare_compiling


def _probe() -> None:
    """Nothing."""


prepare_compiling(_probe, "the loops of bait")


@njit(cache=True, nogil=True, fastmath={"contract"})
def _from_left(p, root, matrix):
    """matrix (C, C) becomes S^T matrix."""
    classes = len(p)
    for j in range(classes):
        mean = 0.0
        for c in range(classes):
            mean += p[c] * matrix[c, j]
        for c in range(classes):
            matrix[c, j] = root[c] * (matrix[c, j] - mean)


@njit(cache=True, nogil=True, fastmath={"contract"})
def between_roots(probs, matrices):
    """Every matrix becomes S^T matrix S.

    Args:
        probs: (B, C).
        matrices: (B, C, C), symmetric.
    """
    for n in range(len(probs)):
        root = np.sqrt(probs[n])
        _from_left(probs[n], root, matrices[n])
        _from_left(probs[n], root, matrices[n].T)


@njit(cache=True, nogil=True, fastmath={"contract"})
def change(probs, own, other, middle, picked, b, q):
    """B and Q of every row after one sample is added or removed: A loses A (S' ⊗ h') middle (S' ⊗ h')^T A.

    Args:
        probs: (B, C).
        own: (B, C, C), (1 ⊗ h)^T A (S' ⊗ h') of every row h and that sample h'; overwritten.
        other: (B, C, C), likewise of A F A; overwritten.
        middle: (C, C), symmetric: (1 + B')^-1, or -(1 - B')^-1 where it is removed.
        picked: (C, C), Q'.
        b: (B, C, C), changed.
        q: (B, C, C), changed.
    """
    classes = probs.shape[1]
    scaled = np.empty((classes, classes))
    for n in range(len(probs)):
        mine, rest, root = own[n], other[n], np.sqrt(probs[n])
        _from_left(probs[n], root, mine)
        _from_left(probs[n], root, rest)
        for c in range(classes):
            scaled[c] = 0.0
            for k in range(classes):
                for j in range(classes):
                    scaled[c, j] += mine[c, k] * middle[k, j]
            for k in range(classes):
                for j in range(classes):
                    rest[c, j] -= 0.5 * scaled[c, k] * picked[k, j]
        for c in range(classes):
            for j in range(c + 1):
                less_b = less_q = 0.0
                for k in range(classes):
                    less_b += scaled[c, k] * mine[j, k]
                    less_q += scaled[c, k] * rest[j, k] + rest[c, k] * scaled[j, k]
                b[n, c, j] -= less_b
                q[n, c, j] -= less_q
                b[n, j, c], q[n, j, c] = b[n, c, j], q[n, c, j]


@njit(cache=True, nogil=True, fastmath={"contract"})
def traces(b, q, sign, out):
    """tr((1 + sign B)^-1 Q) of every row: with the Cholesky factor L of 1 + sign B, the trace of L^-1 Q L^-T.

    Args:
        b: (B, C, C), symmetric.
        q: (B, C, C), symmetric.
        sign: 1 or -1.
        out: (B,), written to; infinite where 1 + sign B is singular in double precision.
    """
    size, classes = b.shape[0], b.shape[1]
    factor, half, row = np.empty((classes, classes)), np.empty((classes, classes)), np.empty(classes)
    for n in range(size):
        total = 0.0
        for c in range(classes):
            for j in range(c + 1):
                value = sign * b[n, c, j]
                for k in range(j):
                    value -= factor[c, k] * factor[j, k]
                factor[c, j] = value / factor[j, j] if j < c else 1.0 + value
            if not factor[c, c] > 0.0:
                total = np.inf
                break
            factor[c, c] = math.sqrt(factor[c, c])
            # A row of L^-1 Q.
            half[c] = q[n, c]
            for k in range(c):
                for j in range(classes):
                    half[c, j] -= factor[c, k] * half[k, j]
            for j in range(classes):
                half[c, j] /= factor[c, c]
            # Of that times L^-T, up to the diagonal.
            for i in range(c + 1):
                row[i] = half[c, i]
                for k in range(i):
                    row[i] -= factor[i, k] * row[k]
                row[i] /= factor[i, i]
            total += row[c]
        out[n] = total


def prepare() -> None:
    """Compile them, which takes seconds when it is done first; numba keeps the result."""
    none, square = np.empty((0, 1)), np.empty((0, 1, 1))
    between_roots(none, square)
    change(none, square, square, np.empty((1, 1)), np.empty((1, 1)), square, square)
    traces(square, square, 1.0, none[:, 0].copy())
