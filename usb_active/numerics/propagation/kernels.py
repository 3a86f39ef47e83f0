"""The loops over the edges of a graph, compiled. Graphs are CSR arrays: indptr (N + 1,), indices and data (E,).

Compiled once per machine, when first called: numba keeps the result beside this file or in the user's cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba import get_num_threads, njit, prange, set_num_threads
from threadpoolctl import ThreadpoolController

from usb_active.environment.compiling import prepare_compiling

# Edges times columns that keep a thread busy for longer than it takes to wake it.
_WORTH_A_THREAD = 1 << 22


def _probe() -> None:
    """Nothing."""


prepare_compiling(_probe, "the propagation of labels")


def _start_threads() -> None:
    """Start numba's threads here and now. It sets the number of threads of an OpenMP that torch may share, or will when it is
    imported: that is put back, because on it depend the bits of a training, and its speed beside other work. (Asking torch itself
    would import it, for 700 MB.)
    """
    before = {library.filepath: library.num_threads for library in _openmp()}
    get_num_threads()
    for library in _openmp():
        library.set_num_threads(before.get(library.filepath) or _openmp_default())


def _openmp() -> list[Any]:
    return ThreadpoolController().select(user_api="openmp").lib_controllers


def _openmp_default() -> int:
    """What an OpenMP begins with: this one was not loaded before."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(wanted) if wanted.isdigit() and int(wanted) else os.cpu_count() or 1


_start_threads()


@contextmanager
def threads_for(work: int) -> Iterator[None]:
    """As many threads as this number of edges times columns can use, out of those that numba was given."""
    given = get_num_threads()
    set_num_threads(max(1, min(given, work // _WORTH_A_THREAD)))
    try:
        yield
    finally:
        set_num_threads(given)


@njit(cache=True)
def is_plain(indptr, indices, data, tolerance):
    """Whether all weights are finite and not negative, the diagonal zero, and no entry differs from its mirror image by more than
    `tolerance`; sorted indices. As `find_asymmetry` goes, but only the entries below the diagonal look for theirs.
    """
    size = len(indptr) - 1
    pointer = np.empty(size, indptr.dtype)
    for row in range(size):
        at, end = indptr[row], indptr[row + 1]
        while at < end and indices[at] < row:
            column, weight = indices[at], data[at]
            mirror = pointer[column]
            if not 0 <= weight < np.inf or mirror == indptr[column + 1] or indices[mirror] != row or abs(data[mirror] - weight) > tolerance:
                return False
            pointer[column] = mirror + 1
            at += 1
        pointer[row] = at
        if at < end and indices[at] == row:
            return False
    for row in range(size):
        if pointer[row] != indptr[row + 1]:
            return False
    return bool(np.isfinite(data).all() and (data >= 0).all())


@njit(cache=True)
def scaled(indptr, indices, data, scale):
    """(E,) every entry times the scale (N,) of its row and of its column."""
    out = np.empty(len(data))
    for row in range(len(indptr) - 1):
        for at in range(indptr[row], indptr[row + 1]):
            out[at] = data[at] * scale[row] * scale[indices[at]]
    return out


@njit(cache=True)
def find_asymmetry(indptr, indices, data, tolerance):
    """(row, column) of an entry that differs from its mirror image by more than `tolerance`, or (-1, -1).

    Indices sorted within rows. Going through the rows in order, the entries of column j come in the order in which row j
    lists them: one pass, one pointer per row, no transposed copy.
    """
    pointer = indptr[:-1].copy()
    for row in range(len(pointer)):
        for at in range(indptr[row], indptr[row + 1]):
            column = indices[at]
            mirror = pointer[column]
            if mirror < indptr[column + 1] and indices[mirror] < row:
                # An earlier row should have listed this column, and did not.
                return column, indices[mirror]
            if mirror == indptr[column + 1] or indices[mirror] != row or abs(data[mirror] - data[at]) > tolerance:
                return row, column
            pointer[column] += 1
    return -1, -1


@njit(cache=True)
def components(indptr, indices):
    """How many connected components a symmetric graph has, and (N,) the number of each node's, in the order of their first nodes."""
    size, count = len(indptr) - 1, 0
    component, queue = np.full(size, -1, np.int32), np.empty(size, np.int32)
    for first in range(size):
        if component[first] >= 0:
            continue
        component[first], queue[0] = count, first
        done, waiting = 0, 1
        while done < waiting:
            node = queue[done]
            done += 1
            for at in range(indptr[node], indptr[node + 1]):
                other = indices[at]
                if component[other] < 0:
                    component[other], queue[waiting] = count, other
                    waiting += 1
        count += 1
    return count, component


@njit(inline="always")
def _eight(indices, data, begin, end, x, width, column, out, place):
    """Eight neighbouring columns of a row of W x, from `place` on in `out`: sums that stay in registers."""
    a = b = c = d = e = f = g = h = 0.0
    for at in range(begin, end):
        weight, other = data[at], np.uint64(indices[at]) * width + column
        a += weight * x[other]
        b += weight * x[other + np.uint64(1)]
        c += weight * x[other + np.uint64(2)]
        d += weight * x[other + np.uint64(3)]
        e += weight * x[other + np.uint64(4)]
        f += weight * x[other + np.uint64(5)]
        g += weight * x[other + np.uint64(6)]
        h += weight * x[other + np.uint64(7)]
    for number, total in enumerate((a, b, c, d, e, f, g, h)):
        out[place + np.uint64(number)] = total


@njit(inline="always")
def _two(indices, data, begin, end, x, width, column, out, place):
    a = b = 0.0
    for at in range(begin, end):
        weight, other = data[at], np.uint64(indices[at]) * width + column
        a += weight * x[other]
        b += weight * x[other + np.uint64(1)]
    out[place], out[place + np.uint64(1)] = a, b


@njit(parallel=True, cache=True)
def product(indptr, indices, data, x, out):
    """out = W x for contiguous x (N, B).

    Every sum is in the order of the row's entries, as scipy's is. Indices are unsigned: of a signed one numba asks whether it is negative,
    which takes longer than the product.
    """
    width, x, out = np.uint64(x.shape[1]), x.reshape(x.size), out.reshape(out.size)
    for row in prange(len(indptr) - 1):
        begin, end = np.uint64(indptr[row]), np.uint64(indptr[row + 1])
        first, column = np.uint64(row) * width, np.uint64(0)
        while column + np.uint64(8) <= width:
            _eight(indices, data, begin, end, x, width, column, out, first + column)
            column += np.uint64(8)
        while column + np.uint64(2) <= width:
            _two(indices, data, begin, end, x, width, column, out, first + column)
            column += np.uint64(2)
        if column < width:
            total = 0.0
            for at in range(begin, end):
                total += data[at] * x[np.uint64(indices[at]) * width + column]
            out[first + column] = total


@njit(parallel=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def system_column(indptr, indices, data, alpha, x, out):
    """out = (I - alpha W) x for one column x (N,). The sum of a row is in an order that a processor adds several entries at once in."""
    for row in prange(len(indptr) - 1):
        total = 0.0
        for at in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
            total += data[at] * x[np.uint64(indices[at])]
        out[row] = x[row] - alpha * total


@njit(cache=True, fastmath={"reassoc", "contract", "nsz"})
def advance(x, residual, direction, image, step):
    """x + step direction and residual - step image, in place, all (N,); the new residual's square."""
    square = 0.0
    for n in range(len(x)):
        x[n] += step * direction[n]
        residual[n] -= step * image[n]
        square += residual[n] * residual[n]
    return square


@njit(cache=True, fastmath={"contract"})
def turn(direction, residual, share):
    """residual + share direction (N,), in the place of direction."""
    for n in range(len(direction)):
        direction[n] = residual[n] + share * direction[n]
