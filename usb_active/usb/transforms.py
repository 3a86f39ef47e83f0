"""USB's weak, strong and evaluation views of an image, with the same random draws and less work.

USB's CIFAR, SVHN and STL-10 share one pipeline: Resize(S) → RandomCrop(S, int(S·(1 − crop_ratio)), reflect)
→ RandomHorizontalFlip → [RandAugment(3, 5)] → ToTensor → Normalize. Here padding, crop and flip are one
gather. Draws come from the global generators in USB's order, so that equal seeds give equal bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from semilearn.datasets.augmentation import RandAugment

from usb_active.errors import UsageError

MODES = {1: "L", 3: "RGB"}
# RandAugment's own arguments in every USB data set: three operations; the magnitude is not read.
RAND_AUGMENT = RandAugment(3, 5)


class ImageViews:
    """The views of one data set, `weak`, `strong` and `eval`: from an undecorated sample to a normalised tensor.

    A sample is a PIL image or a uint8 array, (H, W), (H, W, 1) or (H, W, 3); PIL converts it to as many
    channels as `mean` has. A view is float32, (in_channels, img_size, img_size).

    Where this differs from USB: `eval` crops the centre of an image that is not square (USB's keep their shape
    and do not collate), and `strong` takes grey images (see `_augment`).

    Args:
        img_size: side of a view; the shorter side of a sample is resized to it.
        crop_ratio: in (0, 1]; the crop is taken after padding by int(img_size · (1 − crop_ratio)).
        mean: one value per channel, on the scale of [0, 1].
        std: one value per channel, likewise.
        flip: whether to flip left and right at random; False where direction has a meaning, as for digits.
        padding: pixels to pad by instead, less than `img_size`: the view is shifted by up to so many, evenly drawn.
        strong: whether there is a strong view; without, the attribute is None.

    Raises:
        UsageError: a value out of its range.
    """

    def __init__(
        self,
        img_size: int,
        crop_ratio: float,
        mean: Sequence[float],
        std: Sequence[float],
        flip: bool = True,
        strong: bool = True,
        padding: int | None = None,
    ):
        _check(img_size, crop_ratio, mean, std)
        if padding is not None and not 0 <= padding < img_size:
            raise UsageError(f"padding: {padding}; it must be 0 to {img_size - 1}: only what is less than img_size can be reflected")
        self.img_size = int(img_size)
        self.padding = int(img_size * (1 - crop_ratio)) if padding is None else padding
        self.in_channels = len(mean)
        self.flip = flip
        self._mean = torch.tensor(list(mean), dtype=torch.float32).view(-1, 1, 1)
        self._std = torch.tensor(list(std), dtype=torch.float32).view(-1, 1, 1)
        if not strong:
            self.strong = None

    def weak(self, sample: Any) -> torch.Tensor:
        """A random crop, flipped or not."""
        return self._tensor(self._crop(self._load(sample)))

    def strong(self, sample: Any) -> torch.Tensor:
        """A random crop, flipped or not, then USB's RandAugment: three operations and a cutout."""
        return self._tensor(self._augment(self._crop(self._load(sample))))

    def eval(self, sample: Any) -> torch.Tensor:
        """The centre of the image; nothing random."""
        image, size = self._load(sample), self.img_size
        # The rounding is that of torchvision's CenterCrop.
        top, left = (int(round((side - size) / 2.0)) for side in image.shape[:2])
        return self._tensor(image[top : top + size, left : left + size])

    def _load(self, sample: Any) -> np.ndarray:
        """The sample as uint8, (H, W) or (H, W, 3), shorter side `img_size`."""
        mode = MODES[self.in_channels]
        image = sample if isinstance(sample, Image.Image) else _as_array(sample)
        width, height = image.size if isinstance(image, Image.Image) else image.shape[1::-1]
        fits = min(width, height) == self.img_size
        if isinstance(image, np.ndarray):
            if fits and image.ndim == (2 if mode == "L" else 3):
                return image
            image = Image.fromarray(image)
        if image.mode != mode:
            image = image.convert(mode)
        if not fits:
            image = image.resize(_resized(width, height, self.img_size), Image.Resampling.BILINEAR)
        return np.asarray(image)

    def _crop(self, image: np.ndarray) -> np.ndarray:
        """Reflect, crop and flip in one gather. The draws are torchvision's: row, column, flip."""
        size, (height, width) = self.img_size, image.shape[:2]
        rows, columns = _reflected(height, self.padding), _reflected(width, self.padding)
        if len(rows) > size or len(columns) > size:
            top = torch.randint(0, len(rows) - size + 1, (1,)).item()
            left = torch.randint(0, len(columns) - size + 1, (1,)).item()
            rows, columns = rows[top : top + size], columns[left : left + size]
        if self.flip and torch.rand(1).item() < 0.5:
            columns = columns[::-1]
        return image.take(rows, axis=0).take(columns, axis=1)

    def _augment(self, image: np.ndarray) -> np.ndarray:
        """USB's RandAugment. A grey image passes through RGB: the colour of USB's cutout has three channels.

        Every operation keeps equal channels equal, and converting back is exact for them. So the result is
        USB's own for the same picture stored as RGB, its cutout (125, 123, 114) being grey 123.
        """
        picture = Image.fromarray(image)
        if picture.mode == "L":
            return np.asarray(RAND_AUGMENT(picture.convert("RGB")).convert("L"))
        return np.asarray(RAND_AUGMENT(picture))

    def _tensor(self, image: np.ndarray) -> torch.Tensor:
        """ToTensor and Normalize, their operations: (S, S[, 3]) uint8 to (in_channels, S, S) float32."""
        channels = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
        pixels = torch.from_numpy(np.array(channels, order="C"))
        return pixels.to(torch.float32).div_(255).sub_(self._mean).div_(self._std)


def _check(img_size: int, crop_ratio: float, mean: Sequence[float], std: Sequence[float]) -> None:
    if int(img_size) != img_size or img_size < 1:
        raise UsageError(f"img_size: {img_size!r}; it must be a positive integer")
    if not 0 < crop_ratio <= 1:
        raise UsageError(f"crop_ratio: {crop_ratio!r}; it must be above 0 and at most 1")
    if len(mean) not in MODES or len(std) != len(mean):
        raise UsageError(f"mean and std: {len(mean)} and {len(std)} values; both need 1 (grey) or 3 (RGB)")
    if not np.isfinite([*mean, *std]).all() or min(std) <= 0:
        raise UsageError(f"mean, std: {list(mean)}, {list(std)}; they must be finite, and std positive")


def _as_array(sample: Any) -> np.ndarray:
    image = np.asarray(sample)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    shape_ok = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not shape_ok or 0 in image.shape:
        raise UsageError(
            f"a sample is {image.dtype} with shape {image.shape}; it must be a PIL image, "
            "or uint8 with shape (H, W), (H, W, 1) or (H, W, 3)"
        )
    return image


def _resized(width: int, height: int, size: int) -> tuple[int, int]:
    """(width, height) after torchvision's Resize(size): the shorter side `size`, the longer rounded down."""
    if width <= height:
        return size, int(size * height / width)
    return int(size * width / height), size


@lru_cache(maxsize=256)
def _reflected(side: int, padding: int) -> np.ndarray:
    """(side + 2·padding,) which row or column of the image stands where after reflection."""
    positions = np.pad(np.arange(side), padding, mode="reflect")
    positions.setflags(write=False)
    return positions
