"""The choice of weak and strong views, as far as it is by keys of data sets."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from usb_active.contracts.dataset import RANDAUGMENT_N, DatasetOptions, ImageDataset
from usb_active.contracts.plugin import PluginConfig, later_key
from usb_active.errors import UsageError

Augmentation = Literal["usb", "translate", "translate_flip", "none"]
# How far `translate` and `translate_flip` shift, in pixels.
TRANSLATION = 4
# Whether views are mirrored, where the augmentation says so.
_MIRRORS = {"translate": False, "translate_flip": True, "none": False}
_INSTEAD = {"translate": "use translate_flip, or ", "translate_flip": "use translate, or ", "none": ""}


class ViewKeys(PluginConfig):
    """What weak and strong views of images are: keys that the package's own data sets have in common.

    Attributes:
        augmentation: of the weak and the strong view. "usb": USB's, a shift by up to int(img_size · (1 − crop_ratio)) pixels, mirrored
            half of the time as `flip` says. "translate": shifted by −4 … 4 pixels in both directions, what comes in being a reflection, and
            not mirrored. "translate_flip": likewise, and mirrored half of the time, digits too: that of Laine and Aila's networks, which
            the label propagation papers use on all their sets (Simeoni et al. 2021, section VI.A). "none": neither shifted nor
            mirrored, as ALFA-Mix trains (of an image that is not square, a random square); the strong view is RandAugment alone.
        flip: whether the weak and the strong view are mirrored half of the time, under `augmentation: usb`. Unless given they are, except
            for the digits of `digits` and `mnist`. USB mirrors SVHN's digits, FixMatch does not: `flip: false`.
        randaugment_n: how many operations RandAugment does to a strong view, before the cutout: the n of USB's `RandAugment(n, m)`, 3 in
            USB's data sets and 2 in FixMatch's code. There is no key for m: USB's class does not read it (and calls it deprecated),
            every magnitude is drawn evenly from the whole range of its operation.
    """

    augmentation: Augmentation = later_key("usb")
    flip: bool | None = later_key(None)
    randaugment_n: int = later_key(RANDAUGMENT_N, ge=1, le=16)

    @model_validator(mode="after")
    def _one_word_on_mirroring(self) -> ViewKeys:
        own = _MIRRORS.get(self.augmentation)
        if None not in (own, self.flip) and self.flip is not own:
            does = "mirrors" if own else "does not mirror"
            instead = f"{_INSTEAD[self.augmentation]}leave flip out"
            raise ValueError(f"flip: {str(self.flip).lower()}, but augmentation: {self.augmentation} {does}; {instead}")
        return self


def choose_views(dataset: ImageDataset, keys: ViewKeys) -> None:
    """Set what the views of a data set are made by: `flip`, `padding`, `randaugment_n`.

    Raises:
        UsageError: `crop_ratio` is given too, or the images are too small to be reflected that far.
    """
    dataset.randaugment_n = keys.randaugment_n
    if keys.augmentation == "usb":
        dataset.flip = dataset.flip if keys.flip is None else keys.flip
        return
    dataset.flip = _MIRRORS[keys.augmentation]
    dataset.padding = 0 if keys.augmentation == "none" else TRANSLATION
    who, ratio = f"dataset '{dataset.name}': augmentation: {keys.augmentation}", DatasetOptions.crop_ratio
    if dataset.options.crop_ratio != ratio:
        what = f"shifts by {dataset.padding} pixels, whatever crop_ratio"
        what = what if dataset.padding else "does not shift, so crop_ratio says nothing"
        raise UsageError(f"{who}: {what}; {dataset.options.crop_ratio} given, leave it out")
    if dataset.img_size <= dataset.padding:
        least = f"reflecting {dataset.padding} pixels needs at least {dataset.padding + 1}"
        raise UsageError(f"{who}: img_size: {dataset.img_size}; {least}")
