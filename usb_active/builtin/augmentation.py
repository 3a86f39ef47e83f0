"""The choice of weak and strong views, as far as it is a key of data sets."""

from __future__ import annotations

from usb_active.contracts.dataset import DatasetOptions
from usb_active.errors import UsageError

# How far `augmentation: translate` and `translate_flip` shift, in pixels.
TRANSLATION = 4


def translation(name: str, augmentation: str, options: DatasetOptions, img_size: int) -> int:
    """The padding of views that shift by `TRANSLATION` pixels.

    Args:
        name: of the data set, for messages.
        augmentation: the key's value, likewise.

    Raises:
        UsageError: `crop_ratio` is given too, or the images are too small to be reflected that far.
    """
    who, ratio = f"dataset '{name}': augmentation: {augmentation}", DatasetOptions.crop_ratio
    if options.crop_ratio != ratio:
        raise UsageError(f"{who}: shifts by {TRANSLATION} pixels, whatever crop_ratio; {options.crop_ratio} given, leave it out")
    if img_size <= TRANSLATION:
        raise UsageError(f"{who}: img_size: {img_size}; reflecting {TRANSLATION} pixels needs at least {TRANSLATION + 1}")
    return TRANSLATION
