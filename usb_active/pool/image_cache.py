"""`active.cache_images`: every image is decoded and resized once per process, for all views of trainings, scores and evaluations.

What is kept of an image is what its views begin with, the pixels of the right size: the views are the same to the bit.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usb_active.contracts.dataset import Dataset, Samples, are_image_views, may_load_in_threads
from usb_active.images.ahead import THREADS, read_ahead, with_progress
from usb_active.images.decoded import DecodedImages, PixelFile
from usb_active.pool.encoding import image_stamps, places_of

logger = logging.getLogger("usb_active")

_BLOCK = 32


def nothing_to_keep(dataset: Dataset) -> str | None:
    """Why `active.cache_images` has no effect on a data set: a line for people; None where it has."""
    where = f"active.cache_images has no effect: dataset '{dataset.name}'"
    if not are_image_views(dataset.views):
        return f"{where} makes views of its own, of the samples as they are"
    sample = dataset.load(0) if dataset.path(0) is None else None
    if isinstance(sample, np.ndarray):
        pixels = dataset.views.as_pixels(sample)
        if pixels.size == sample.size and pixels.shape[:2] == sample.shape[:2]:
            return f"{where} holds its images as arrays of the right size already"
    return None


class ImageCache:
    """Has the images of a data set, test samples included, decoded in a file on the run's disk, as long as this process works on the run.

    Args:
        folder: of the run, for large files that nobody keeps.
        is_wanted: whether anything is to be kept.
        num_workers: processes that load images, for the advice about those that are not forked.
    """

    def __init__(self, dataset: Dataset, folder: Path, is_wanted: bool, num_workers: int = 0):
        self._dataset, self._folder, self._num_workers = dataset, folder, num_workers
        self._is_wanted = is_wanted
        self._file: PixelFile | None = None
        self._known = _Known.nothing()
        self._looked_through = False

    def fill(self) -> None:
        """Have every image that there is now, unless they have been looked through since the last training.

        Raises:
            UsageError: an image that cannot be read, or a disk without room.
        """
        if not self._looked_through:
            self._look_through()
        self._looked_through = False

    def _look_through(self) -> None:
        """Decode the images that are new, and those whose file has changed since."""
        if not self._is_wanted or nothing_to_keep(self._dataset):
            return
        if self._file is None:
            self._file = PixelFile(self._folder)
            self._advise()
        parts = _parts_of(self._dataset)
        new = [np.flatnonzero(places_of(self._known.stamps, part.stamps) < 0) for part in parts]
        if sum(map(len, new)):
            self._decode(self._file, parts, new)
        pixels, channels = self._file.mapped(), self._dataset.in_channels
        for part in parts:
            at = places_of(self._known.stamps, part.stamps)
            of_part = (self._known.starts[at], self._known.sides[at])
            part.samples.kept_pixels = DecodedImages(self._dataset.views, part.keys, pixels, *of_part, channels)

    def refresh(self) -> None:
        """As `fill`, where it was filled before; for a moment at which images may have been added or replaced."""
        if self._file is not None:
            self._look_through()
            self._looked_through = True

    def close(self) -> None:
        """Give the room back. Samples are loaded again."""
        if self._file is None:
            return
        for part in (self._dataset, self._dataset.test):
            if part is not None:
                part.kept_pixels = None
        self._file.close()
        self._file, self._known, self._looked_through = None, _Known.nothing(), False

    def _decode(self, file: PixelFile, parts: Sequence[_Part], new: Sequence[NDArray[np.int64]]) -> None:
        """Put those rows of each part into the file."""
        views, count, before = self._dataset.views, sum(map(len, new)), file.size
        # No image has fewer pixels than a square one; what the others have beyond that is asked of the disk as it comes.
        file.reserve(count * self._dataset.in_channels * views.img_size**2)
        starts, sides = [], []
        threads = THREADS if may_load_in_threads(self._dataset) else 1
        with closing(_decoded(parts, new, views.as_pixels, threads)) as images:
            for pixels in with_progress(images, "decoding images once", count):
                starts.append(file.append(pixels))
                sides.append(pixels.shape[:2])
        stamps = np.concatenate([part.stamps[rows] for part, rows in zip(parts, new, strict=True)])
        self._known = self._known.with_more(stamps, starts, sides)
        size = (file.size - before) / 1e6
        logger.info("active.cache_images: %s images decoded, kept in %.1f MB on disk while this process runs", f"{count:,}", size)

    def _advise(self) -> None:
        if not self._num_workers:
            return
        # Asked for without being settled by that: it is the caller's process.
        method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
        if method != "fork":
            logger.warning(
                "active.cache_images: with num_workers above 0, workers are started by %s here and decode the images themselves; "
                "num_workers: 0 reads what is kept", method,
            )  # fmt: skip


@dataclass(frozen=True)
class _Known:
    """What is in the file: (M,) stamps of images, where each begins, (M, 2) height and width."""

    stamps: NDArray[np.uint64]
    starts: NDArray[np.int64]
    sides: NDArray[np.int64]

    @classmethod
    def nothing(cls) -> _Known:
        return cls(np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros((0, 2), np.int64))

    def with_more(self, stamps: NDArray[np.uint64], starts: list[int], sides: list[tuple[int, ...]]) -> _Known:
        more = (stamps, np.array(starts, np.int64), np.array(sides, np.int64).reshape(-1, 2))
        return _Known(*(np.concatenate(pair) for pair in zip((self.stamps, self.starts, self.sides), more, strict=True)))


@dataclass(frozen=True, eq=False)
class _Part:
    """The pool, or the test samples.

    Attributes:
        stamps: see `image_stamps`; taken before the images are read, so that one that changes meanwhile is read again.
    """

    samples: Dataset | Samples
    keys: Sequence[str] | None
    stamps: NDArray[np.uint64]


def _parts_of(dataset: Dataset) -> list[_Part]:
    parts = [_part(dataset, dataset.keys, dataset.path, "pool")]
    if dataset.test is not None:
        parts.append(_part(dataset.test, dataset.test.keys, dataset.test.path, "test"))
    return parts


def _part(samples: Dataset | Samples, keys: Sequence[str] | None, path: Callable[[int], Path | None] | None, what: str) -> _Part:
    names = map(str, range(len(samples))) if keys is None else keys
    find = path or _no_path
    stamps = image_stamps([f"{what}\n{name}" for name in names], find)
    # A copy: what is decoded belongs to these keys, whatever becomes of the list.
    return _Part(samples, None if keys is None else list(keys), stamps)


def _no_path(row: int) -> None:
    return None


def _decoded(
    parts: Sequence[_Part], rows: Sequence[NDArray[np.int64]], as_pixels: Callable[[Any], NDArray[np.uint8]], threads: int
) -> Iterator[NDArray[np.uint8]]:
    """The pixels of those rows of each part, in order."""

    def read(block: tuple[_Part, NDArray[np.int64]]) -> list[NDArray[np.uint8]]:
        part, some = block
        return [as_pixels(part.samples.load(int(row))) for row in some]

    blocks = ((part, own[at : at + _BLOCK]) for part, own in zip(parts, rows, strict=True) for at in range(0, len(own), _BLOCK))
    with closing(read_ahead(read, blocks, threads)) as results:
        for images in results:
            yield from images
