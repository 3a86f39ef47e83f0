"""Images read, or batches made, by threads a little ahead of whoever takes them, with a bar on a terminal.

Pillow decodes without Python's lock, and so do the compiled views work.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# A disk gives no more to more of them.
THREADS = min(8, os.cpu_count() or 1)


class Abandoned(Exception):
    """In a thread of `read_ahead`: nobody takes its results any more."""


_here = threading.local()


def go_on() -> None:
    """Abandoned, in a thread of `read_ahead` that is waited for in vain. For functions of several images: asked before each."""
    left = getattr(_here, "left", None)
    if left is not None and left.is_set():
        raise Abandoned


def read_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int = THREADS, ahead: int | None = None
) -> Iterator[Result]:
    """The function's results in the order of the items, never many at once. To be closed, so that an error waits for no more of them.

    An error of the items themselves comes after the results of those before it.

    Args:
        function: called in a thread. One that takes long asks `go_on` now and then, so that closing need not wait for its end.
        items: asked for by whoever takes the results, in their own thread.
        threads: how many.
        ahead: of how many items results may wait or be made while one is looked at; twice the threads unless given.
    """
    most = 2 * threads if ahead is None else ahead
    left = threading.Event()

    def called(item: Item) -> Result:
        _here.left = left
        return function(item)

    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future] = deque()
    iterator, error = iter(items), None
    try:
        while error is None:
            try:
                waiting.append(pool.submit(called, next(iterator)))
            except StopIteration:
                break
            except Exception as found:
                # Those that were asked for before it are given out first.
                error = found
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        if error is not None:
            raise error
    finally:
        left.set()
        pool.shutdown(cancel_futures=True)


def with_progress(results: Iterable[Result], what: str, total: int) -> Iterator[Result]:
    """The results, with a bar on the standard error after two seconds if that is a terminal."""
    from tqdm import tqdm

    return iter(tqdm(results, what, total, file=sys.stderr, delay=2.0, unit=" images", disable=not sys.stderr.isatty()))
