"""Decoded images in one file that is mapped: whoever makes views of an image reads its pixels there, and decodes nothing."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usb_active.errors import UsageError
from usb_active.storage.durable import make_folder, reserve


class PixelFile:
    """Bytes that are appended, then read through a map, in a file without a name: whatever ends this process, nothing of it is left.

    Bytes are written, not stored through the map: a full disk is then an error of the call, and never the end of the process (SIGBUS).

    Args:
        folder: on whose disk it is; made if need be, and removed again where nothing else is in it.

    Raises:
        UsageError: no file can be made there.
    """

    def __init__(self, folder: Path):
        self._folder, self.size = folder, 0
        make_folder(folder)
        try:
            # Where the system cannot make a file without a name, this one loses its name at once.
            self._file = tempfile.TemporaryFile(dir=folder, prefix="decoded.", buffering=0)  # noqa: SIM115 — closed by `close`
        except OSError as error:
            raise self._refused(error) from error
        with suppress(OSError):
            folder.rmdir()

    def reserve(self, more: int) -> None:
        """Have room for so many bytes more. UsageError when the disk has not."""
        try:
            reserve(self._file.fileno(), self.size + more)
        except OSError as error:
            raise self._refused(error, more) from error

    def append(self, pixels: NDArray[np.uint8]) -> int:
        """Write an array's bytes behind all others; where they begin. UsageError when the disk is full."""
        start, rest = self.size, memoryview(np.ascontiguousarray(pixels).reshape(-1))
        try:
            while rest:
                written = os.pwrite(self._file.fileno(), rest, self.size)
                self.size, rest = self.size + written, rest[written:]
        except OSError as error:
            raise self._refused(error) from error
        return start

    def mapped(self) -> NDArray[np.uint8]:
        """(size,), read-only: all that was appended so far. UsageError when the disk has not taken it."""
        try:
            # A network file system may say only now that it is full.
            os.fsync(self._file.fileno())
            if not self.size:
                return np.zeros(0, np.uint8)
            return np.frombuffer(mmap.mmap(self._file.fileno(), self.size, prot=mmap.PROT_READ), dtype=np.uint8)
        except OSError as error:
            raise self._refused(error) from error

    def close(self) -> None:
        """Give its room back, as soon as no map is left."""
        self._file.close()

    def _refused(self, error: OSError, more: int = 0) -> UsageError:
        what = f"room for {(self.size + more) / 1e6:,.1f} MB of decoded images" if self.size + more else "a file of decoded images"
        way_out = "free some, or set active.cache_images to false"
        return UsageError(f"active.cache_images: there is no {what} in {self._folder}: {error.strerror or error}; {way_out}")


class DecodedImages:
    """The pixels of a list of samples, as the views of their data set take them.

    It stays in its process and in those that are forked from it: pickled, it becomes None, and what was unpickled loads the samples.

    Args:
        views: of which these pixels are; others are not to be made of them.
        keys: (N,) of the samples when they were decoded; None where they have none, and never change.
        pixels: all of them, one image behind the other.
        starts: (N,) where in `pixels` each begins.
        sides: (N, 2) height and width.
        channels: 1 or 3.
    """

    def __init__(
        self, views: Any, keys: Sequence[str] | None, pixels: NDArray[np.uint8], starts: NDArray[np.int64], sides: NDArray[np.int64],
        channels: int,
    ):  # fmt: skip
        self.views, self.keys = views, keys
        self._pixels, self._starts, self._sides, self._channels = pixels, starts, sides, channels

    def __len__(self) -> int:
        return len(self._starts)

    def pixels_of(self, index: int, key: str | None, views: Any) -> NDArray[np.uint8] | None:
        """(H, W) or (H, W, 3), read-only; None for a sample that is not there, as one that joined later, and for other views.

        Args:
            key: what the sample is called now.
            views: those that are to be made of it.
        """
        if views is not self.views or not 0 <= index < len(self) or (self.keys is not None and self.keys[index] != key):
            return None
        start, (height, width) = int(self._starts[index]), self._sides[index].tolist()
        shape = (height, width) if self._channels == 1 else (height, width, self._channels)
        return self._pixels[start : start + height * width * self._channels].reshape(shape)

    def __reduce__(self) -> tuple:
        return _stays_here, ()


def _stays_here() -> None:
    """What another process gets in place of decoded images."""
