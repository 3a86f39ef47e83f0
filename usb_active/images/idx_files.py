"""MNIST's IDX files: a big-endian header that names type and shape, then the bytes. Plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from usb_active.errors import UsageError

# The third byte of the header: unsigned bytes, the only type that MNIST has.
_UNSIGNED_BYTES = 8


def find_idx(folders: Sequence[Path], name: str) -> Path | None:
    """The file `name` (train-images-idx3-ubyte) in the first of the folders that has it, plain or `.gz`; or None.

    A dot may stand for the hyphen before `idx`: some programs unpack to that name.
    """
    names = [variant + suffix for variant in (name, name.replace("-idx", ".idx")) for suffix in ("", ".gz")]
    return next((folder / found for folder in folders for found in names if (folder / found).is_file()), None)


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """The array in an IDX file of unsigned bytes.

    Args:
        path: read as gzip where it ends in `.gz`.
        ndim: how many dimensions it must have.

    Raises:
        UsageError: unreadable, of another type or number of dimensions, or longer or shorter than its header says.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read ({error}); get it again") from error
    start = 4 * (1 + ndim)
    magic = bytes([0, 0, _UNSIGNED_BYTES, ndim])
    if len(data) < start or data[:4] != magic:
        raise UsageError(f"{path}: begins {data[:4].hex()!r}; an IDX file of bytes with {ndim} dimension(s) begins {magic.hex()!r}")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", count=ndim, offset=4))
    if len(data) - start != math.prod(shape):
        raise UsageError(f"{path}: {len(data) - start} bytes after the header, which says {math.prod(shape)} (shape {shape}); get it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
