"""Reading every image of a folder once before training, and remembering which ones were in order."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from usb_active.errors import UsageError, name_some
from usb_active.images.ahead import read_ahead, with_progress
from usb_active.images.files import ImageFiles
from usb_active.images.reading import HIGHEST, UPPER_BITS
from usb_active.storage.run_dir import atomic_write

LOGGER = logging.getLogger(__name__)
BLOCK = 256
# What is kept of an image: its name, and its name with size and time of change, 64 bits for each.
PRINT = np.dtype([("key", np.uint64), ("state", np.uint64)])


@dataclass
class Checked:
    """What reading the images has shown.

    Attributes:
        changed: keys whose size or time of change is another one than when `cache` was written.
        deep: by key what an image of more than 8 bits per channel has to say (`image_reading.HIGHEST`); of those read now.
    """

    changed: list[str] = field(default_factory=list)
    deep: dict[str, dict[str, Any]] = field(default_factory=dict)


def check_images(files: ImageFiles, cache: Path | None = None) -> Checked:
    """Decode all images that `cache` does not know as readable with the same key, size and time.

    What was found in order is kept in `cache` (16 bytes per image) even when other images are not, or when the
    check is interrupted. Progress goes to stderr after two seconds.

    Raises:
        UsageError: names the first images that cannot be read, with a reason, and says how many there are.
    """
    prints = np.fromiter(_prints(files), dtype=PRINT, count=len(files.keys))
    known = _read_cache(cache)
    good = np.isin(prints["state"], known["state"])
    unread = np.flatnonzero(~good)
    again = unread[np.isin(prints["key"][unread], known["key"])]
    checked = Checked([files.keys[index] for index in again])
    # Runs of version 0.1.0 have kept nothing that an image could be found by, once it has changed.
    if not len(unread) and known["key"].all():
        return checked
    bad: list[tuple[int, UsageError]] = []
    try:
        with closing(_read_all(files, unread.tolist())) as results:
            for index, found in with_progress(results, "reading images once", len(unread)):
                if isinstance(found, UsageError):
                    bad.append((index, found))
                    continue
                good[index] = True
                if found:
                    checked.deep[files.keys[index]] = found
    finally:
        if cache is not None:
            # What is known of images that could not be read now stays, so that their change is still noticed when they can.
            others = known[(known["key"] != 0) & ~np.isin(known["key"], prints["key"][good])]
            atomic_write(cache, lambda file: np.save(file, np.concatenate([prints[good], others])))
    if bad:
        names = name_some(files.keys[index] for index, _ in bad)
        raise UsageError(
            f"{len(bad)} of {len(prints)} images below {files.root} cannot be read, repair or remove them: "
            f"{names} (the first: {bad[0][1]})"
        )
    return checked


def _prints(files: ImageFiles) -> Iterator[tuple[int, int]]:
    """64 bits per image that stand for its key, and 64 that stand for key, size and time of change."""
    for index, key in enumerate(files.keys):
        try:
            status = os.stat(files.path(index))
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            state = "absent"  # reading it will fail and say why, so this is never remembered
        yield _hash(key), _hash(f"{state} {key}")


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _read_all(files: ImageFiles, indices: list[int]) -> Iterator[tuple[int, UsageError | dict[str, Any]]]:
    """(index, what is wrong or noteworthy) of every image, in order."""

    def read(block: list[int]) -> list[tuple[int, UsageError | dict[str, Any]]]:
        return [(index, _read(files, index)) for index in block]

    blocks = (indices[start : start + BLOCK] for start in range(0, len(indices), BLOCK))
    with closing(read_ahead(read, blocks)) as found:
        for results in found:
            yield from results


def _read(files: ImageFiles, index: int) -> UsageError | dict[str, Any]:
    try:
        info = files.load(index).info
    except UsageError as error:
        return error
    return {name: info[name] for name in (HIGHEST, UPPER_BITS) if name in info}


def _read_cache(cache: Path | None) -> np.ndarray:
    """(P,) of `PRINT`, empty when there is no file. A damaged one costs a warning and time only."""
    if cache is None or not cache.exists():
        return np.zeros(0, dtype=PRINT)
    try:
        known = np.load(cache, allow_pickle=False)
        if known.dtype not in (PRINT, np.uint64) or known.ndim != 1:
            raise ValueError(f"{known.dtype} of shape {known.shape}")
    except (OSError, ValueError, EOFError) as error:
        LOGGER.warning("%s is damaged (%s): all images are read again", cache, error)
        return np.zeros(0, dtype=PRINT)
    if known.dtype == PRINT:
        return known
    # Of version 0.1.0, which kept the states alone.
    prints = np.zeros(len(known), dtype=PRINT)
    prints["state"] = known
    return prints
