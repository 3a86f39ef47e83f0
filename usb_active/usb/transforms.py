"""USB's weak, strong and evaluation views of an image, with the same random draws and less work.

USB's CIFAR, SVHN and STL-10 share one pipeline: Resize(S) → RandomCrop(S, int(S·(1 − crop_ratio)), reflect)
→ RandomHorizontalFlip → [RandAugment(n, 5)] → ToTensor → Normalize. Here the draws come first, from the global generators
in USB's order, and all that is done to the pixels is one compiled pass, to the byte as Pillow does it: equal seeds give equal bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from semilearn.datasets.augmentation import RandAugment

from usb_active.contracts.dataset import RANDAUGMENT_N
from usb_active.errors import UsageError
from usb_active.images import kernels
from usb_active.usb.view_draws import draw_augmentation, draw_crop, reflected
from usb_active.usb.view_trial import agree_with_pillow

MODES = {1: "L", 3: "RGB"}
# RandAugment's second argument in every USB data set. It is not read: magnitudes are drawn from the whole range of an operation.
_MAGNITUDE = 5


class ImageViews:
    """The views of one data set, `weak`, `strong` and `eval`: from an undecorated sample to a normalised tensor.

    A sample is a PIL image or a uint8 array, (H, W), (H, W, 1) or (H, W, 3); PIL converts it to as many
    channels as `mean` has. A view is float32, (in_channels, img_size, img_size).

    Where this differs from USB: `eval` crops the centre of an image that is not square (USB's keep their shape
    and do not collate), and `strong` takes grey images (see `strong_by_pillow`).

    Args:
        img_size: side of a view; the shorter side of a sample is resized to it.
        crop_ratio: in (0, 1]; the crop is taken after padding by int(img_size · (1 − crop_ratio)).
        mean: one value per channel, on the scale of [0, 1].
        std: one value per channel, likewise.
        flip: whether to flip left and right at random; False where direction has a meaning, as for digits.
        padding: pixels to pad by instead, less than `img_size`: the view is shifted by up to so many, evenly drawn.
        strong: whether there is a strong view; without, the attribute is None.
        randaugment_n: how many operations RandAugment does to a strong view, at least one; 3 in USB's own data sets.

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
        randaugment_n: int = RANDAUGMENT_N,
    ):
        _check(img_size, crop_ratio, mean, std)
        if padding is not None and not 0 <= padding < img_size:
            raise UsageError(f"padding: {padding}; it must be 0 to {img_size - 1}: only what is less than img_size can be reflected")
        if int(randaugment_n) != randaugment_n or randaugment_n < 1:
            raise UsageError(f"randaugment_n: {randaugment_n!r}; it must be an integer of at least 1")
        self.img_size = int(img_size)
        self.padding = int(img_size * (1 - crop_ratio)) if padding is None else padding
        self.in_channels = len(mean)
        self.flip, self.randaugment_n = bool(flip), int(randaugment_n)
        # Before a loader starts workers: forked, they have what was compiled here.
        kernels.prepare()
        self.levels = _levels(mean, std)
        if not strong:
            self.strong = None

    def weak(self, sample: Any) -> torch.Tensor:
        """A random crop, flipped or not."""
        image = self.as_pixels(sample)
        return self._weak(image, *self._crop(image))

    def strong(self, sample: Any) -> torch.Tensor:
        """A random crop, flipped or not, then USB's RandAugment: `randaugment_n` operations and a cutout."""
        image = self.as_pixels(sample)
        if not agree_with_pillow():
            return self.strong_by_pillow(sample)
        rows, columns, flip = self._crop(image)
        drawn, out = draw_augmentation(self.img_size, self.img_size, self.randaugment_n), self._room()
        kernels.strong_view(image, rows, columns, flip, drawn.codes, drawn.values, drawn.box, self.levels, out)
        return torch.from_numpy(out)

    def eval(self, sample: Any) -> torch.Tensor:
        """The centre of the image; nothing random."""
        image = self.as_pixels(sample)
        return self._weak(image, *self._centre(image), False)

    def eval_batch(self, samples: Iterable[Any]) -> torch.Tensor:
        """(B, C, S, S), to the bit the `eval` view of each sample; in one compiled pass where their pixels have one shape.

        Args:
            samples: asked for one by one, and only their pixels kept: photographs may be large.
        """
        images = [self.as_pixels(sample) for sample in samples]
        out = np.empty((len(images), self.in_channels, self.img_size, self.img_size), dtype=np.float32)
        if len({image.shape for image in images}) == 1:
            self._fill_eval(np.stack(images), out[None])
        else:
            kernels.prepare()
            for image, view in zip(images, out, strict=True):
                kernels.weak_view(image, *self._centre(image), False, self.levels, view)
        return torch.from_numpy(out)

    def _fill_eval(self, images: np.ndarray, out: np.ndarray) -> None:
        """Write the eval views of images (B, H, W, C) into (1, B, C, S, S)."""
        count, (rows, columns) = len(images), self._centre(images[0])
        # Nothing is moved, mirrored, augmented or cut out.
        places, boxes = np.zeros((count, 1, 3), np.int64), np.zeros((count, 1, 4), np.int64)
        codes, values = np.zeros((count, 1, 0), np.int64), np.zeros((count, 1, 0, kernels.NUM_VALUES))
        kinds = np.full(1, kernels.WEAK, np.int64)
        kernels.fill_views(images, rows, columns, self.img_size, kinds, places, codes, values, boxes, self.levels, out)

    def as_pixels(self, sample: Any) -> np.ndarray:
        """The sample as uint8, (H, W, C), contiguous, shorter side `img_size`."""
        mode = MODES[self.in_channels]
        image = sample if isinstance(sample, Image.Image) else _as_array(sample)
        width, height = image.size if isinstance(image, Image.Image) else image.shape[1::-1]
        fits = min(width, height) == self.img_size
        if isinstance(image, np.ndarray):
            if fits and image.ndim == (2 if mode == "L" else 3):
                return _with_channels(image)
            image = Image.fromarray(image)
        if image.mode != mode:
            image = image.convert(mode)
        if not fits:
            image = image.resize(_resized(width, height, self.img_size), Image.Resampling.BILINEAR)
        return _with_channels(np.asarray(image))

    def _centre(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which rows and columns of the image its centre is."""
        size = self.img_size
        # The rounding is that of torchvision's CenterCrop.
        firsts = [(side, int(round((side - size) / 2.0))) for side in image.shape[:2]]
        rows, columns = (reflected(side, 0)[first : first + size] for side, first in firsts)
        return rows, columns

    def _crop(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        """Which rows and columns of the image the crop is of, and whether it is mirrored."""
        size = self.img_size
        rows, columns = (reflected(side, self.padding) for side in image.shape[:2])
        crop = draw_crop(len(rows), len(columns), size, self.flip)
        return rows[crop.top : crop.top + size], columns[crop.left : crop.left + size], crop.flip

    def _weak(self, image: np.ndarray, rows: np.ndarray, columns: np.ndarray, flip: bool) -> torch.Tensor:
        kernels.prepare()
        out = self._room()
        kernels.weak_view(image, rows, columns, flip, self.levels, out)
        return torch.from_numpy(out)

    def strong_by_pillow(self, sample: Any) -> torch.Tensor:
        """The strong view by USB's RandAugment itself. A grey image passes through RGB: the colour of USB's cutout has three channels.

        Every operation keeps equal channels equal, and converting back is exact for them. So the result is
        USB's own for the same picture stored as RGB, its cutout (125, 123, 114) being grey 123.
        """
        image = self.as_pixels(sample)
        rows, columns, flip = self._crop(image)
        cropped = image.take(rows, axis=0).take(columns[::-1] if flip else columns, axis=1)
        picture = Image.fromarray(cropped if self.in_channels == 3 else cropped[:, :, 0])
        augmented = RandAugment(self.randaugment_n, _MAGNITUDE)(picture.convert("RGB")).convert(picture.mode)
        every = reflected(self.img_size, 0)
        return self._weak(_with_channels(np.asarray(augmented)), every, every, False)

    def _room(self) -> np.ndarray:
        return np.empty((self.in_channels, self.img_size, self.img_size), dtype=np.float32)


def _check(img_size: int, crop_ratio: float, mean: Sequence[float], std: Sequence[float]) -> None:
    if int(img_size) != img_size or img_size < 1:
        raise UsageError(f"img_size: {img_size!r}; it must be a positive integer")
    if not 0 < crop_ratio <= 1:
        raise UsageError(f"crop_ratio: {crop_ratio!r}; it must be above 0 and at most 1")
    if len(mean) not in MODES or len(std) != len(mean):
        raise UsageError(f"mean and std: {len(mean)} and {len(std)} values; both need 1 (grey) or 3 (RGB)")
    if not np.isfinite([*mean, *std]).all() or min(std) <= 0:
        raise UsageError(f"mean, std: {list(mean)}, {list(std)}; they must be finite, and std positive")


def _levels(mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(C, 256) float32: what ToTensor and Normalize make of each value of a pixel, by their operations."""
    values = torch.arange(256, dtype=torch.float32).div_(255).repeat(len(mean), 1)
    centre, spread = (torch.tensor(list(numbers), dtype=torch.float32).view(-1, 1) for numbers in (mean, std))
    return values.sub_(centre).div_(spread).numpy()


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


def _with_channels(image: np.ndarray) -> np.ndarray:
    """(H, W, C), contiguous, of (H, W) or (H, W, C)."""
    return np.ascontiguousarray(image[:, :, None] if image.ndim == 2 else image)
