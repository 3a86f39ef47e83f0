"""Images as files: which ones lie below a folder, and what is in one of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from usb_active.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class ImageFiles:
    """Images below `root`, opened when asked for, never kept; `keys` are paths below `root`, with `/`."""

    root: str
    keys: Sequence[str]
    in_channels: int

    def path(self, index: int) -> str:
        return f"{self.root}/{self.keys[index]}"

    def load(self, index: int) -> Image.Image:
        """The image in mode RGB or L. UsageError names a file that is not a readable image."""
        return read_image(self.path(index), "RGB" if self.in_channels == 3 else "L")


def read_image(path: str, mode: Literal["RGB", "L"]) -> Image.Image:
    """The (first) image in a file, in 8 bits a channel; transparency is dropped.

    Raises:
        UsageError: missing, truncated, no image, or pixels without a known range (32 bits, floating point).
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return _eight_bits(image).convert(mode)
    except Exception as error:  # what a decoder raises on a damaged file is its own affair; the file is named
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"image {path}: not readable: {type(error).__name__}: {reason}") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")
    if image.mode[0] not in "IF":
        return image
    # Pillow would clip what is above 255, and a 16-bit photograph would be white.
    pixels = np.asarray(image)
    if image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"pixels of mode {image.mode} have no known range; save it with 8 or 16 bits")
    return Image.fromarray((pixels // 257).astype(np.uint8))


def image_size(path: str) -> tuple[int, int] | None:
    """(width, height) from the file's header; None where the file is no readable image."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except Exception:  # as in `read_image`; whoever needs the image itself is told the reason there
        return None


@cache
def image_suffixes() -> frozenset[str]:
    """What Pillow can open, by the end of the name: `.jpg`, `.png`, …"""
    from PIL import Image

    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def list_images(root: Path, below: str = "") -> list[str]:
    """Sorted paths, relative to `root` and with `/`, of all images at any depth of `root/below`.

    Hidden files and folders are passed over, symbolic links followed.

    Raises:
        UsageError: a folder cannot be read, links form a loop, or a name is not valid text.
    """
    found: list[str] = []
    _collect(str(root), below, frozenset(), found)
    found.sort()
    return found


def _collect(root: str, below: str, parents: frozenset[tuple[int, int]], found: list[str]) -> None:
    folder = os.path.join(root, below)
    try:
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in parents:
            raise UsageError(f"folder {folder}: a symbolic link leads back to a folder above it")
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                name = f"{below}/{entry.name}" if below else entry.name
                if entry.is_dir():
                    _collect(root, name, parents | {here}, found)
                elif _is_image(entry):
                    found.append(name)
    except OSError as error:
        raise UsageError(f"folder {folder}: {error.strerror}") from error


def _is_image(entry: os.DirEntry) -> bool:
    if os.path.splitext(entry.name)[1].lower() not in image_suffixes():
        return False
    try:
        entry.path.encode()
    except UnicodeEncodeError:
        raise UsageError(f"file name {entry.path!r} is not valid UTF-8; rename it") from None
    # A link to nothing is kept, so that checking names it instead of the image going unnoticed.
    return entry.is_file() or entry.is_symlink()


def folder_samples(directory: Path, in_channels: int) -> tuple[list[str], Callable[[int], Image.Image]]:
    """All images below a folder: their sorted keys, and a function that loads the i-th. For prediction.

    Raises:
        UsageError: no such folder, or no image in it.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory} is not a folder")
    keys = list_images(directory)
    if not keys:
        raise UsageError(f"no image below {directory}")
    return keys, ImageFiles(str(directory), keys, in_channels).load
