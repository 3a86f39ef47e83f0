"""Images read by threads, a little ahead of whoever takes them, with a bar on a terminal. Pillow decodes without Python's lock."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# A disk gives no more to more of them.
THREADS = min(8, os.cpu_count() or 1)


def read_ahead(function: Callable[[Item], Result], items: Iterable[Item], threads: int = THREADS) -> Iterator[Result]:
    """The function's results in the order of the items, never many at once. To be closed, so that an error waits for no more of them."""
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def with_progress(results: Iterable[Result], what: str, total: int) -> Iterator[Result]:
    """The results, with a bar on the standard error after two seconds if that is a terminal."""
    from tqdm import tqdm

    return iter(tqdm(results, what, total, file=sys.stderr, delay=2.0, unit=" images", disable=not sys.stderr.isatty()))
