"""Reading every image of a folder once before training, and remembering which ones were in order."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import blake2b
from pathlib import Path

import numpy as np

from usb_active.errors import UsageError, name_some
from usb_active.image_files import ImageFiles
from usb_active.run_dir import atomic_write

LOGGER = logging.getLogger(__name__)
BLOCK = 256


def check_images(files: ImageFiles, cache: Path | None = None) -> None:
    """Decode all images that `cache` does not know as readable with the same key, size and time.

    What was found in order is kept in `cache` (8 bytes an image) even when other images are not, or when the
    check is interrupted. Progress goes to stderr after two seconds.

    Raises:
        UsageError: names the first images that cannot be read, with a reason, and says how many there are.
    """
    prints = np.fromiter(_prints(files), dtype=np.uint64, count=len(files.keys))
    good = np.isin(prints, _read_cache(cache))
    unread = np.flatnonzero(~good)
    if not len(unread):
        return
    bad: list[tuple[int, UsageError]] = []
    try:
        with closing(_read_all(files, unread.tolist())) as results:
            for index, error in _with_progress(results, len(unread)):
                if error is None:
                    good[index] = True
                else:
                    bad.append((index, error))
    finally:
        if cache is not None:
            atomic_write(cache, lambda file: np.save(file, prints[good]))
    if bad:
        names = name_some(files.keys[index] for index, _ in bad)
        raise UsageError(
            f"{len(bad)} of {len(prints)} images below {files.root} cannot be read, repair or remove them: "
            f"{names} (the first: {bad[0][1]})"
        )


def _prints(files: ImageFiles) -> Iterator[int]:
    """64 bits an image that stand for its key, size and time of change."""
    for index, key in enumerate(files.keys):
        try:
            status = os.stat(files.path(index))
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            state = "absent"  # reading it will fail and say why, so this is never remembered
        yield int.from_bytes(blake2b(f"{state} {key}".encode(), digest_size=8).digest(), "little")


def _read_all(files: ImageFiles, indices: list[int]) -> Iterator[tuple[int, UsageError | None]]:
    """(index, None or what is wrong) of every image, in order. Pillow decodes without Python's lock."""

    def read(block: list[int]) -> list[tuple[int, UsageError | None]]:
        return [(index, _what_is_wrong(files, index)) for index in block]

    blocks = (indices[start : start + BLOCK] for start in range(0, len(indices), BLOCK))
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        for results in pool.map(read, blocks):
            yield from results
    finally:
        pool.shutdown(cancel_futures=True)


def _what_is_wrong(files: ImageFiles, index: int) -> UsageError | None:
    try:
        files.load(index)
    except UsageError as error:
        return error
    return None


def _with_progress(results: Iterator, total: int) -> Iterator:
    from tqdm import tqdm

    return iter(tqdm(results, "reading images once", total, file=sys.stderr, delay=2.0, unit=" images"))


def _read_cache(cache: Path | None) -> np.ndarray:
    """(P,) uint64, empty when there is no file. A damaged one costs a warning and time only."""
    if cache is None or not cache.exists():
        return np.zeros(0, dtype=np.uint64)
    try:
        known = np.load(cache, allow_pickle=False)
        if known.dtype != np.uint64 or known.ndim != 1:
            raise ValueError(f"{known.dtype} of shape {known.shape}")
    except (OSError, ValueError, EOFError) as error:
        LOGGER.warning("%s is damaged (%s): all images are read again", cache, error)
        return np.zeros(0, dtype=np.uint64)
    return known
