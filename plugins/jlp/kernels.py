"""jLP's loops over the edges of a graph, compiled. Graphs are CSR arrays: indptr (N + 1,), indices and data (E,).

Compiled once per machine, when first called: numba keeps the result beside this file or in the user's cache.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from usb_active.environment.compiling import prepare_compiling

# Columns of a block. A constant, so that the compiler keeps a row of the block in vector registers.
WIDTH = 64
_CHUNK = 256
_SMALL_CHUNK = 16


def _probe() -> None:
    """Nothing."""


prepare_compiling(_probe, "the loops of jLP")


@njit(inline="always")
def sum_row(indices, data, x, start, end, total):
    """total (WIDTH,) = the sum of data[at] * x[indices[at]] from start to end, four at a time: fewer passes over `total`."""
    total[:] = 0
    at = start
    while at + 4 <= end:
        first, second, third, fourth = indices[at], indices[at + 1], indices[at + 2], indices[at + 3]
        a, b, c, d = data[at], data[at + 1], data[at + 2], data[at + 3]
        for column in range(WIDTH):
            total[column] += a * x[first, column] + b * x[second, column] + c * x[third, column] + d * x[fourth, column]
        at += 4
    while at < end:
        weight, other = data[at], indices[at]
        for column in range(WIDTH):
            total[column] += weight * x[other, column]
        at += 1


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
            sum_row(indices, data, x, indptr[row], indptr[row + 1], total)
            for column in range(WIDTH):
                old[row, column] = of_product * total[column] + of_x * x[row, column] + of_old * old[row, column]
            if column_of[row] >= 0:
                old[row, column_of[row]] += of_source


@njit(parallel=True, cache=True, fastmath={"contract"})
def block_product(indptr, indices, data, x, out, keep):
    """out = M x + keep * out for M (R, N) as CSR arrays, x (N, WIDTH), out (R, WIDTH)."""
    size = len(indptr) - 1
    for chunk in prange((size + _SMALL_CHUNK - 1) // _SMALL_CHUNK):
        total = np.empty(WIDTH, np.float32)
        for row in range(chunk * _SMALL_CHUNK, min(size, (chunk + 1) * _SMALL_CHUNK)):
            sum_row(indices, data, x, indptr[row], indptr[row + 1], total)
            if keep == 0:
                # What is there may be anything, even not a number.
                out[row, :] = total
            else:
                for column in range(WIDTH):
                    out[row, column] = total[column] + keep * out[row, column]


@njit(parallel=True, cache=True, fastmath={"contract"})
def difference_norms(x, y):
    """(WIDTH,): norms of the columns of x - y, both (N, WIDTH)."""
    chunks = (len(x) + _CHUNK - 1) // _CHUNK
    squares = np.zeros((chunks, WIDTH), np.float32)
    for chunk in prange(chunks):
        total = np.zeros(WIDTH, np.float32)
        for row in range(chunk * _CHUNK, min(len(x), (chunk + 1) * _CHUNK)):
            for column in range(WIDTH):
                total[column] += (x[row, column] - y[row, column]) ** 2
        squares[chunk] = total
    return np.sqrt(squares.sum(axis=0))


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
def _joined(indptr, indices, data, founded, count):
    """`founded`, but every node of none (-1) is in the aggregate to which its edges weigh most."""
    joined, weight = founded.copy(), np.zeros(count)
    for node in range(len(founded)):
        if founded[node] >= 0:
            continue
        best = founded[indices[indptr[node]]]
        for at in range(indptr[node], indptr[node + 1]):
            other = founded[indices[at]]
            if other >= 0:
                weight[other] += data[at]
                if best < 0 or weight[other] > weight[best]:
                    best = other
        for at in range(indptr[node], indptr[node + 1]):
            if founded[indices[at]] >= 0:
                weight[founded[indices[at]]] = 0
        joined[node] = best
    return joined


@njit(cache=True)
def aggregate(indptr, indices, data, share):
    """(N,) numbers of aggregates, from 0: neighbourhoods, each of a node of which at least this share of neighbours was free.

    A node left over joins the aggregate to which its edges weigh most (Vanek, Mandel & Brezina 1996). In a connected graph
    there are at most half as many aggregates as nodes, if share > 0.5.
    """
    size, count = len(indptr) - 1, 0
    founded = np.full(size, -1, np.int32)
    for node in range(size):
        free = 0
        for at in range(indptr[node], indptr[node + 1]):
            free += founded[indices[at]] < 0
        if founded[node] < 0 and free >= share * (indptr[node + 1] - indptr[node]):
            founded[node] = count
            for at in range(indptr[node], indptr[node + 1]):
                if founded[indices[at]] < 0:
                    founded[indices[at]] = count
            count += 1
    return _joined(indptr, indices, data, founded, count)


@njit(cache=True)
def matched(indptr, indices, data):
    """(N,) numbers of pairs, from 0: each node, in their order, with the free neighbour to which its edge weighs most, or alone."""
    size, count = len(indptr) - 1, 0
    pair = np.full(size, -1, np.int32)
    for node in range(size):
        if pair[node] >= 0:
            continue
        best, most = node, 0.0
        for at in range(indptr[node], indptr[node + 1]):
            if pair[indices[at]] < 0 and indices[at] != node and data[at] > most:
                best, most = indices[at], data[at]
        pair[node] = pair[best] = count
        count += 1
    return pair


@njit(parallel=True, cache=True)
def coarse_matrix(indptr, indices, data, alpha, q_indptr, q_indices, q_data, sums):
    """Add Q^T (I - alpha W) Q to sums (T, K, K), to be summed over T parts of the rows; Q (N, K) as CSR arrays."""
    size, parts = len(indptr) - 1, len(sums)
    for part in prange(parts):
        image, touched = np.zeros(sums.shape[1]), np.empty(sums.shape[1], np.int64)
        last = np.full(sums.shape[1], -1, np.int64)
        for row in range(part * size // parts, (part + 1) * size // parts):
            count = 0
            # The row of (I - alpha W) Q, and where it is not zero.
            for at in range(indptr[row] - 1, indptr[row + 1]):
                other = row if at < indptr[row] else indices[at]
                weight = 1.0 if at < indptr[row] else -alpha * data[at]
                for q in range(q_indptr[other], q_indptr[other + 1]):
                    if last[q_indices[q]] != row:
                        last[q_indices[q]] = row
                        touched[count] = q_indices[q]
                        count += 1
                    image[q_indices[q]] += weight * q_data[q]
            for q in range(q_indptr[row], q_indptr[row + 1]):
                for i in range(count):
                    sums[part, q_indices[q], touched[i]] += q_data[q] * image[touched[i]]
            for i in range(count):
                image[touched[i]] = 0


@njit(cache=True, fastmath={"contract", "reassoc"})
def greedy_ahead(
    indptr, indices, data, alpha, q_indptr, q_indices, q_data, inverse, near, place, values, column_at, columns, most
):  # fmt: skip
    """Nodes (at most `most`) whose columns the greedy picks will need, by a model of the columns.

    Model of node j's column: two terms of the series, e_j + alpha W e_j, and Q inverse Q^T of their residual, alpha^2 W^2 e_j,
    for Q (N, K) as CSR arrays.

    Args:
        indptr: W as CSR, with `indices` and `data`.
        indices: of W.
        data: of W.
        alpha: of the series.
        q_indptr: Q as CSR, with `q_indices` and `q_data`.
        q_indices: of Q.
        q_data: of Q.
        inverse: (K, K), in the model.
        near: (S,) nodes with the lowest values.
        place: (N,) positions in `near`, or -1.
        values: (S,) copied by the caller, inf where a node cannot be picked.
        column_at: (S,) position in `columns` of the nodes whose columns are known; -1 else.
        columns: (S, B).
        most: at most so many nodes.
    """
    found = np.empty(most, np.int64)
    count = 0
    within, solution = np.empty(len(inverse), np.float32), np.empty(len(inverse), np.float32)
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
            within[:] = 0
            for at in range(indptr[node], indptr[node + 1]):
                other = indices[at]
                if place[other] >= 0:
                    values[place[other]] += alpha * data[at]
                for second in range(indptr[other], indptr[other + 1]):
                    weight = np.float32(alpha * alpha * data[at] * data[second])
                    for q in range(q_indptr[indices[second]], q_indptr[indices[second] + 1]):
                        within[q_indices[q]] += weight * q_data[q]
            solution[:] = 0
            for k in range(len(within)):
                if within[k] != 0:
                    solution += within[k] * inverse[k]
            for i in range(len(near)):
                total = np.float32(0)
                for q in range(q_indptr[near[i]], q_indptr[near[i] + 1]):
                    total += q_data[q] * solution[q_indices[q]]
                values[i] += total
        values[best] = np.inf
    return found[:count]
