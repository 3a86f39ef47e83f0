"""The loops over the edges of a graph, compiled. Graphs are CSR arrays: indptr (N + 1,), indices and data (E,).

Compiled once per machine, when first called: numba keeps the result beside this file or in the user's cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba import get_num_threads, njit, prange, set_num_threads
from threadpoolctl import ThreadpoolController

from usb_active.environment.compiling import use_writable_cache

# Edges times columns that keep a thread busy for longer than it takes to wake it.
_WORTH_A_THREAD = 1 << 22


def _probe() -> None:
    """Nothing."""


use_writable_cache(_probe)


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
