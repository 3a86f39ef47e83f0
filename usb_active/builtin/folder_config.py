"""The keys of the data set `image_folder`."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import field_validator, model_validator

from usb_active.builtin.augmentation import ViewKeys
from usb_active.contracts.plugin import free_key, later_key
from usb_active.errors import name_some

# By number of channels; grey is the mean of ImageNet's three.
IMAGENET_MEAN = {3: (0.485, 0.456, 0.406), 1: (0.449,)}
IMAGENET_STD = {3: (0.229, 0.224, 0.225), 1: (0.226,)}


class FolderConfig(ViewKeys):
    """The keys of `ImageFolder`, beside those of `ViewKeys` on mirroring, shifts and RandAugment.

    Attributes:
        class_names: all classes, in order; needed when there are no class folders, may name more than there are.
        in_channels: of the images, 1 or 3.
        mean: one value per channel; ImageNet's unless given.
        std: one value per channel; ImageNet's unless given.
        verify: read every image once before training.
        background: the colour behind transparent pixels, a name or "#rrggbb".
        test_share: the test set where there is no `test` folder: the first images by name of each class in `train`, this share of them
            (rounded down). The others are the pool.
        value_range: the values that are black and white in images of more than 8 bits per channel; 0 and 65,535 unless given.
    """

    # What they come to is kept in the run's dataset.json, and compared there.
    class_names: tuple[str, ...] | None = free_key(None)
    in_channels: Literal[1, 3] = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    verify: bool = True
    background: str = later_key("white")
    value_range: tuple[int | float, int | float] | None = later_key(None)
    test_share: float | None = later_key(None, gt=0, lt=1)

    @field_validator("background", mode="before")
    @classmethod
    def _a_colour(cls, value: Any) -> str:
        if colour_of(value) is None:
            raise ValueError("must be an opaque colour: a name such as white, or '#rrggbb', in quotes because # begins a comment")
        return value

    @field_validator("value_range", mode="before")
    @classmethod
    def _black_below_white(cls, value: Any) -> Any:
        ends = list(value) if isinstance(value, list | tuple) else []
        numbers = [end for end in ends if isinstance(end, int | float) and not isinstance(end, bool) and math.isfinite(end)]
        if value is not None and not (len(ends) == len(numbers) == 2 and numbers[0] < numbers[1]):
            raise ValueError("must be the values of black and white, the lower one first, as in [0, 4095]")
        return value

    @field_validator("class_names")
    @classmethod
    def _each_name_once(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        twice = sorted({name for name in names or () if names.count(name) > 1})
        if twice:
            raise ValueError(f"named twice: {name_some(twice)}")
        return names

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> FolderConfig:
        for key in ("mean", "std"):
            values = getattr(self, key)
            if values is not None and len(values) != self.in_channels:
                raise ValueError(f"{key} has {len(values)} values where in_channels is {self.in_channels}")
        return self


def colour_of(value: Any) -> tuple[int, int, int] | None:
    """(red, green, blue) of a colour as Pillow writes them; None where it is none, or has transparency itself."""
    from PIL import ImageColor

    try:
        colour = ImageColor.getrgb(value) if isinstance(value, str) else ()
    except ValueError:
        return None
    return colour if len(colour) == 3 else None
