"""Images that a caller gives one by one: paths of files, PIL images, arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from usb_active.errors import UsageError, printable
from usb_active.images.reading import AS_USUAL, Reading, decoded, read_image

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class GivenImages:
    """A list of them. `keys` are the paths as they were given, and the position in the list of what is no file."""

    images: Sequence[Any]
    in_channels: int
    reading: Reading = AS_USUAL

    @property
    def keys(self) -> list[str | int]:
        return [str(image) if isinstance(image, (str, os.PathLike)) else at for at, image in enumerate(self.images)]

    def load(self, index: int) -> Image.Image | np.ndarray:
        """The image in 8 bits. UsageError names one that is not readable, or none."""
        return as_sample(self.images[index], self.in_channels, self.reading, f"image {index}")


def as_sample(image: Any, in_channels: int, reading: Reading = AS_USUAL, who: str = "image") -> Image.Image | np.ndarray:
    """An image as a pool's data set gives it: read from its file, or in memory treated as one that was read; arrays as they are.

    Raises:
        UsageError: no path, PIL image or array of uint8; a file that is not readable; pixels without a known range.
    """
    from PIL import Image

    mode = "RGB" if in_channels == 3 else "L"
    if isinstance(image, (str, os.PathLike)):
        return read_image(os.fspath(image), mode, reading)
    if isinstance(image, Image.Image):
        try:
            return decoded(image, mode, reading)
        except Exception as error:  # what a decoder raises on a damaged file is its own affair
            raise UsageError(f"{who}: not readable: {type(error).__name__}: {printable(error)}") from error
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and (image.ndim == 2 or image.ndim == 3 and image.shape[2] in (1, 3)):
        return image
    got = f"an array of {image.dtype} with shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise UsageError(f"{who}: must be a path, a PIL image, or an array of uint8 with shape (H, W), (H, W, 1) or (H, W, 3), not {got}")
