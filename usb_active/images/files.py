"""Images as files, opened when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from usb_active.errors import UsageError
from usb_active.images.listing import Listing, look_through
from usb_active.images.reading import AS_USUAL, Reading, image_size, image_suffixes, read_image

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["ImageFiles", "folder_images", "image_size", "image_suffixes", "read_image"]


@dataclass(frozen=True)
class ImageFiles:
    """Images below `root`, opened when asked for, never kept; `keys` are paths below `root`, with `/`."""

    root: str
    keys: Sequence[str]
    in_channels: int
    reading: Reading = AS_USUAL

    def path(self, index: int) -> str:
        return f"{self.root}/{self.keys[index]}"

    def load(self, index: int) -> Image.Image:
        """The image in mode RGB or L. UsageError names a file that is not a readable image."""
        return read_image(self.path(index), "RGB" if self.in_channels == 3 else "L", self.reading)


def folder_images(directory: Path, in_channels: int, reading: Reading = AS_USUAL) -> tuple[ImageFiles, Listing]:
    """All images below a folder, in the order of their paths, and what else is there. For prediction.

    Raises:
        UsageError: no such folder, or no image in it.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory} is not a folder")
    listing = look_through(directory)
    if not listing.images:
        raise UsageError("; ".join([f"no image below {directory}", *listing.remarks()]))
    return ImageFiles(str(directory), listing.images, in_channels, reading), listing
