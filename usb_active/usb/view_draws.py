"""The random draws behind USB's views, from its generators and in its order: what is to be done to an image, not the doing."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from usb_active.images import kernels

# Beside the kernels' operations: those that are an affine map of the pixels' places.
ROTATE, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y = range(100, 105)

# USB's list in its order: operation, least magnitude, largest.
OPERATIONS: tuple[tuple[int, float, float], ...] = (
    (kernels.AUTOCONTRAST, 0, 1),
    (kernels.BRIGHTNESS, 0.05, 0.95),
    (kernels.COLOR, 0.05, 0.95),
    (kernels.CONTRAST, 0.05, 0.95),
    (kernels.EQUALIZE, 0, 1),
    (kernels.IDENTITY, 0, 1),
    (kernels.POSTERIZE, 4, 8),
    (ROTATE, -30, 30),
    (kernels.SHARPNESS, 0.05, 0.95),
    (SHEAR_X, -0.3, 0.3),
    (SHEAR_Y, -0.3, 0.3),
    (kernels.SOLARIZE, 0, 256),
    (TRANSLATE_X, -0.3, 0.3),
    (TRANSLATE_Y, -0.3, 0.3),
)
LARGEST_CUTOUT = 0.5
# Right and bottom before left and top: no cutout.
NO_BOX = (0, 0, -1, -1)


@dataclass(frozen=True)
class Sources:
    """The generators that USB's views draw from.

    Attributes:
        python: `random`, or a `random.Random`.
        numpy: `numpy.random`, or a `RandomState`.
        torch: None for the global one.
    """

    python: Any = random
    numpy: Any = np.random
    torch: torch.Generator | None = None


GLOBAL = Sources()


@dataclass(frozen=True)
class Crop:
    """Where a crop begins, in the reflected image, and whether it is mirrored."""

    top: int
    left: int
    flip: bool


@dataclass(frozen=True)
class Augmentation:
    """What RandAugment and its cutout do to an image.

    Attributes:
        codes: (n,) int64, see `kernels.apply_operations`.
        values: (n, 6) float64, likewise.
        box: left, top, right and bottom of the cutout, all inside it.
    """

    codes: NDArray[np.int64]
    values: NDArray[np.float64]
    box: tuple[int, int, int, int]


def draw_crop(height: int, width: int, size: int, flip: bool, sources: Sources = GLOBAL) -> Crop:
    """torchvision's draws of RandomCrop and RandomHorizontalFlip: row, column, flip.

    Args:
        height: of the reflected image.
        width: likewise.
        size: side of the crop. Where the image is no larger, no place is drawn.
        flip: whether there are mirrored views at all.
    """
    top = left = 0
    if height > size or width > size:
        top = int(torch.randint(0, height - size + 1, (1,), generator=sources.torch))
        left = int(torch.randint(0, width - size + 1, (1,), generator=sources.torch))
    return Crop(top, left, flip and float(torch.rand(1, generator=sources.torch)) < 0.5)


def draw_augmentation(width: int, height: int, count: int, sources: Sources = GLOBAL) -> Augmentation:
    """What `draw_operations` draws, as the kernels have it."""
    chosen, box = draw_operations(width, height, count, sources)
    codes, values = zip(*(as_kernel(operation, magnitude, width, height) for operation, magnitude in chosen), strict=True)
    return Augmentation(np.array(codes, dtype=np.int64), np.array(values), box)


def draw_operations(
    width: int, height: int, count: int, sources: Sources = GLOBAL
) -> tuple[list[tuple[int, float]], tuple[int, int, int, int]]:
    """USB's draws of RandAugment, in its order: `count` operations, their magnitudes, the size of the cutout and its centre."""
    chosen = sources.python.choices(OPERATIONS, k=count)
    drawn = [(operation, least + float(largest - least) * sources.python.random()) for operation, least, largest in chosen]
    return drawn, draw_box(sources.python.random() * LARGEST_CUTOUT, width, height, sources)


def draw_box(share: float, width: int, height: int, sources: Sources = GLOBAL) -> tuple[int, int, int, int]:
    """The cutout of USB: a square of `share` of the width about a drawn centre, as far as it is in the image."""
    if share <= 0:
        return NO_BOX
    side = share * width
    # As USB has it: uniform between 1 and the width.
    left, top = (max(0.0, sources.numpy.uniform(length) - side / 2.0) for length in (width, height))
    # Its left and top are rounded before its right and bottom are taken from them.
    left, top = int(left), int(top)
    return left, top, int(min(width, left + side)), int(min(height, top + side))


def as_kernel(operation: int, magnitude: float, width: int, height: int) -> tuple[int, tuple[float, ...]]:
    """An operation as the kernels have it: its code, and six values."""
    if operation == ROTATE:
        return kernels.AFFINE, rotation(magnitude, width, height)
    if operation == SHEAR_X:
        return kernels.AFFINE, (1.0, magnitude, 0.0, 0.0, 1.0, 0.0)
    if operation == SHEAR_Y:
        return kernels.AFFINE, (1.0, 0.0, 0.0, magnitude, 1.0, 0.0)
    if operation == TRANSLATE_X:
        return kernels.AFFINE, (1.0, 0.0, magnitude * width, 0.0, 1.0, 0.0)
    if operation == TRANSLATE_Y:
        return kernels.AFFINE, (1.0, 0.0, 0.0, 0.0, 1.0, magnitude * height)
    return operation, (magnitude, 0.0, 0.0, 0.0, 0.0, 0.0)


def rotation(degrees: float, width: int, height: int) -> tuple[float, ...]:
    """The coefficients of Pillow's `rotate` about the centre; sine and cosine are rounded to 15 digits, as there."""
    angle = -math.radians(degrees % 360.0)
    cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
    minus = round(-math.sin(angle), 15)
    x, y = width / 2, height / 2
    return cosine, sine, cosine * -x + sine * -y + x, minus, cosine, minus * -x + cosine * -y + y


@lru_cache(maxsize=256)
def reflected(side: int, padding: int) -> NDArray[np.int64]:
    """(side + 2·padding,) which row or column of the image stands where after reflection."""
    positions = np.pad(np.arange(side), padding, mode="reflect")
    positions.setflags(write=False)
    return positions
