"""The loops over the edges of a graph, compiled. Graphs are CSR arrays: indptr (N + 1,), indices and data (E,).

Compiled once a machine, when first called: numba keeps the result beside this file or in the user's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numba import get_num_threads, njit, prange, set_num_threads

# Edges times columns that keep a thread busy for longer than it takes to wake it.
_WORTH_A_THREAD = 1 << 22


@contextmanager
def threads_for(work: int) -> Iterator[None]:
    """As many threads as this number of edges times columns can use, out of those that numba was given.

    Where numba and torch share an OpenMP, numba's start sets the number of threads of both: torch's is put back, because on
    it depend the bits of a training, and its speed beside other work.
    """
    of_torch = torch.get_num_threads()
    given = get_num_threads()
    set_num_threads(max(1, min(given, work // _WORTH_A_THREAD)))
    try:
        yield
    finally:
        set_num_threads(given)
        torch.set_num_threads(of_torch)


@njit(cache=True)
def find_asymmetry(indptr, indices, data, tolerance):
    """(row, column) of an entry that differs from its mirror image by more than `tolerance`, or (-1, -1).

    Indices sorted within rows. Going through the rows in order, the entries of column j come in the order in which row j
    lists them: one pass, one pointer a row, no transposed copy.
    """
    pointer = indptr[:-1].copy()
    for row in range(len(pointer)):
        for at in range(indptr[row], indptr[row + 1]):
            column = indices[at]
            mirror = pointer[column]
            if mirror == indptr[column + 1] or indices[mirror] != row or abs(data[mirror] - data[at]) > tolerance:
                return row, column
            pointer[column] += 1
    return -1, -1


@njit(parallel=True, cache=True)
def product(indptr, indices, data, x, out):
    """out = W x for x (N, B)."""
    for row in prange(len(indptr) - 1):
        out[row, :] = 0
        for at in range(indptr[row], indptr[row + 1]):
            weight, other = data[at], indices[at]
            for column in range(x.shape[1]):
                out[row, column] += weight * x[other, column]


# Columns of a block. A constant, so that the compiler keeps a row of the block in vector registers.
WIDTH = 64
_CHUNK = 256


@njit(parallel=True, cache=True, fastmath={"contract"})
def step(indptr, indices, data, x, old, column_of, of_product, of_x, of_old, of_source):
    """old = of_product * W x + of_x * x + of_old * old + of_source * E for x, old (N, WIDTH).

    E[i, c] is 1 where column_of[i] = c, else 0; column_of (N,) is -1 where a row has none. One pass over memory: every
    iteration made of such steps is bound by it.
    """
    size = len(indptr) - 1
    for chunk in prange((size + _CHUNK - 1) // _CHUNK):
        total = np.empty(WIDTH, np.float32)
        for row in range(chunk * _CHUNK, min(size, (chunk + 1) * _CHUNK)):
            total[:] = 0
            for at in range(indptr[row], indptr[row + 1]):
                weight, other = data[at], indices[at]
                for column in range(WIDTH):
                    total[column] += weight * x[other, column]
            for column in range(WIDTH):
                old[row, column] = of_product * total[column] + of_x * x[row, column] + of_old * old[row, column]
            if column_of[row] >= 0:
                old[row, column_of[row]] += of_source


@njit(cache=True)
def solve_vector(indptr, indices, data, top, alpha, y, tolerance, most):
    """x of (I - alpha W) x = y by conjugate gradient on one thread, and the residual's norm, at most `tolerance` if it
    converged within `most` steps. For graphs so small that the calls of a loop outside would take most of the time.
    """
    size = len(y)
    along = 0.0
    for i in range(size):
        along += top[i] * y[i]
    x = top * (along / (1 - alpha))
    residual = y - along * top
    direction = residual.copy()
    image = np.empty(size)
    squares = np.sum(residual * residual)
    for _ in range(most):
        if squares <= tolerance * tolerance:
            break
        curvature = 0.0
        for row in range(size):
            total = 0.0
            for at in range(indptr[row], indptr[row + 1]):
                total += data[at] * direction[indices[at]]
            image[row] = direction[row] - alpha * total
            curvature += image[row] * direction[row]
        length = squares / curvature
        before, squares = squares, 0.0
        for i in range(size):
            x[i] += length * direction[i]
            residual[i] -= length * image[i]
            squares += residual[i] * residual[i]
        for i in range(size):
            direction[i] = residual[i] + (squares / before) * direction[i]
    return x, np.sqrt(squares)


@njit(cache=True)
def greedy_ahead(indptr, indices, data, alpha, factors, gains, near, place, values, column_at, columns, most):
    """Nodes (at most `most`) whose columns the greedy picks will need, by a model of the columns.

    near: (S,) nodes with the lowest values; place: (N,) positions in `near`, or -1; values: (S,) copied by the caller, inf
    where a node cannot be picked. column_at: (S,) position in columns (S, B) of the nodes whose columns are known; -1 else.
    Model of node j's column: e_j + alpha W e_j + alpha^2 W^2 e_j + factors (gains * factors[j]), factors (N, R).
    """
    found = np.empty(most, np.int64)
    count = 0
    local = factors[near]
    for _ in range(len(near)):
        best = np.argmin(values)
        if count == most or values[best] == np.inf:
            break
        if column_at[best] >= 0:
            for i in range(len(near)):
                values[i] += columns[i, column_at[best]]
        else:
            node = near[best]
            found[count] = node
            count += 1
            scaled = gains * local[best]
            for i in range(len(near)):
                total = np.float32(0)
                for r in range(len(scaled)):
                    total += local[i, r] * scaled[r]
                values[i] += total
            for at in range(indptr[node], indptr[node + 1]):
                other = indices[at]
                if place[other] >= 0:
                    values[place[other]] += alpha * data[at]
                for second in range(indptr[other], indptr[other + 1]):
                    if place[indices[second]] >= 0:
                        values[place[indices[second]]] += alpha * alpha * data[at] * data[second]
        values[best] = np.inf
    return found[:count]
