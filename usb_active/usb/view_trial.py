"""Whether the compiled augmentation does what the installed Pillow does: tried once in a process, on a few small images."""

from __future__ import annotations

import logging
from functools import cache

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image
from semilearn.datasets.augmentation.randaugment import augment_list

from usb_active.images import kernels
from usb_active.usb.view_draws import OPERATIONS, as_kernel

logger = logging.getLogger("usb_active")

_SIDE = 13
_SHARES = (0.0, 0.31, 0.77, 1.0)


@cache
def agree_with_pillow() -> bool:
    """Whether every operation gives Pillow's bytes. A Pillow of another arithmetic is said in one line, and then used itself."""
    kernels.prepare()
    different = [name for name, ours, theirs in _trials() if not np.array_equal(ours, theirs)]
    if different:
        names = ", ".join(sorted(set(different)))
        said = "strong views: Pillow %s computes %s differently from the compiled operations; Pillow itself is used, which is slower"
        logger.warning(said, PIL.__version__, names)
    return not different


def _trials():
    for operation, (call, least, largest) in zip(OPERATIONS, augment_list(), strict=True):
        for image in _images():
            for share in _SHARES:
                magnitude = least + float(largest - least) * share
                code, values = as_kernel(operation[0], magnitude, _SIDE, _SIDE)
                yield call.__name__, operated(image, [code], [values]), np.asarray(call(Image.fromarray(image), magnitude))


def _images() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
    return [noise, noise // 5 + 90, np.where(noise < 128, 0, 255).astype(np.uint8), np.full_like(noise, 77)]


def operated(image: NDArray[np.uint8], codes, values) -> NDArray[np.uint8]:
    """A copy of an image (S, S, C) after some operations of the kernels."""
    channels = image.shape[2]
    counts, table = np.empty((channels, 256), np.int64), np.empty((channels, 256), np.uint8)
    of_all = np.array(values, dtype=np.float64).reshape(len(codes), kernels.NUM_VALUES)
    return kernels.apply_operations(image.copy(), np.array(codes, dtype=np.int64), of_all, np.empty_like(image), counts, table)
