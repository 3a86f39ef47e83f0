"""What images look like, from some of them: sizes, grey or colour, drawings or photographs, mean and standard deviation.

Drawings (digits, text, icons, scans) are told from photographs by how much of an image has its darkest or its lightest grey: paper
and ink, or background and figure. `PLAIN` below is the rule; docs/images.md says what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from usb_active.errors import UsageError
from usb_active.images.files import ImageFiles, image_size

DRAWINGS, PHOTOS = KINDS = ("drawings", "photos")
# Images that are looked at, spread over the pool; fewer where they are so large that reading them takes long.
LOOKED_AT, LARGE, OF_LARGE = 400, 512, 100
# Of an image's own range of greys: what is so near to its darkest or lightest one counts as plain.
_END = 0.1
# The median share of plain pixels: photographs have at most the first, drawings at least the second; between them it is not clear.
# Medians seen: CIFAR-10 .09, crops of larger photographs .18; scans of text .47, digits of 8 pixels .67, MNIST .90, icons .93.
PLAIN = (0.28, 0.40)
# Channels that differ by less are grey: JPEG rounds.
_GREY = 8
# Of the images, that may be in colour where all are taken for grey: a stamp on a scan.
_COLOURED = 0.01
# Longer sides are not needed to tell what an image is.
_SIDE = 256


@dataclass(frozen=True)
class Look:
    """What some images of a pool are like.

    Attributes:
        looked_at: how many were read.
        sides: (smallest, median, largest) of their shorter sides.
        square: whether all are as wide as high.
        channels: 1 where they are grey, else 3.
        plain: the median share of pixels near to the darkest or lightest grey of their image.
    """

    looked_at: int
    sides: tuple[int, int, int]
    square: bool
    channels: int
    plain: float

    @property
    def kind(self) -> str:
        """"drawings" or "photos", the likelier one where it is not clear."""
        return DRAWINGS if self.plain >= sum(PLAIN) / 2 else PHOTOS

    @property
    def is_clear(self) -> bool:
        """Whether the images are on one side of the rule."""
        return not PLAIN[0] < self.plain < PLAIN[1]


def spread_positions(count: int, most: int = LOOKED_AT) -> list[int]:
    """Positions of up to `most` of `count` samples, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist()


def some_files(files: ImageFiles) -> ImageFiles:
    """Those of the files that are looked at.

    Raises:
        UsageError: there are none.
    """
    if not files.keys:
        raise UsageError(f"{files.root}: no image to look at")
    chosen = replace(files, keys=[files.keys[index] for index in spread_positions(len(files.keys))])
    sizes = [size for size in (image_size(chosen.path(index), files.reading) for index in range(len(chosen.keys))) if size is not None]
    if not sizes or np.median([min(size) for size in sizes]) <= LARGE:
        return chosen
    return replace(files, keys=[chosen.keys[index] for index in spread_positions(len(chosen.keys), OF_LARGE)])


def look_at(files: ImageFiles) -> Look:
    """What images are like.

    Args:
        files: read as colours; all of them are.

    Raises:
        UsageError: names a file that cannot be read.
    """
    sizes, coloured, plain = [], [], []
    for index in range(len(files.keys)):
        image = files.load(index)
        sizes.append(image.size)
        image.thumbnail((_SIDE, _SIDE))
        pixels = np.asarray(image)
        coloured.append(is_coloured(pixels))
        plain.append(plain_share(pixels.mean(axis=2)))
    shorter = sorted(map(min, sizes))
    return Look(
        looked_at=len(sizes),
        sides=(shorter[0], shorter[len(shorter) // 2], shorter[-1]),
        square=all(width == height for width, height in sizes),
        channels=3 if np.mean(coloured) > _COLOURED else 1,
        plain=float(np.median(plain)),
    )


def is_coloured(pixels: np.ndarray) -> bool:
    """Whether one in a hundred pixels of (H, W, 3) is no grey."""
    values = pixels.astype(int)
    return bool((values.max(axis=2) - values.min(axis=2) > _GREY).mean() > 0.01)


def plain_share(grey: np.ndarray) -> float:
    """The share of (H, W) within a tenth of its range from its darkest or its lightest value; 1 where all are equal."""
    low, high = float(grey.min()), float(grey.max())
    margin = _END * (high - low)
    return float(((grey <= low + margin) | (grey >= high - margin)).mean())


def mean_and_std(files: ImageFiles, side: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of the pixels per channel, on the scale of 0 to 1, at the size at which they are trained on.

    Args:
        files: as they are trained on, grey or in colour; all of them are read.
        side: the shorter side is resized to this.
    """
    sums: list[np.ndarray] = []
    for index in range(len(files.keys)):
        pixels = _resized(files, index, side)
        sums.append(np.stack([pixels.mean(axis=0), (pixels**2).mean(axis=0)]))
    mean, square = np.mean(sums, axis=0)
    std = np.sqrt(np.maximum(square - mean**2, 0))
    # Images of one colour alone have no spread, and dividing by it must be possible.
    return _rounded(mean), _rounded(np.maximum(std, 0.01))


def _resized(files: ImageFiles, index: int, side: int) -> np.ndarray:
    """(pixels, channels) on the scale of 0 to 1."""
    image = files.load(index)
    scale = side / min(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), resample=2)
    return np.asarray(image, dtype=np.float64).reshape(-1, files.in_channels) / 255


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
