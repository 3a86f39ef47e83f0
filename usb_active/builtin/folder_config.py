"""The keys of the data set `image_folder`."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from usb_active.contracts.plugin import PluginConfig, free_key
from usb_active.errors import name_some

# By number of channels; grey is the mean of ImageNet's three.
IMAGENET_MEAN = {3: (0.485, 0.456, 0.406), 1: (0.449,)}
IMAGENET_STD = {3: (0.229, 0.224, 0.225), 1: (0.226,)}
# Keys that version 0.1.0 did not know, and what they are unless given.
_LATER = {"background": "white", "value_range": None, "augmentation": "usb", "flip": None}


class FolderConfig(PluginConfig):
    """The keys of `ImageFolder`.

    Attributes:
        class_names: all classes, in order; needed when there are no class folders, may name more than there are.
        in_channels: of the images, 1 or 3.
        mean: one value per channel; ImageNet's unless given.
        std: one value per channel; ImageNet's unless given.
        verify: read every image once before training.
        background: the colour behind transparent pixels, a name or "#rrggbb".
        value_range: the values that are black and white in images of more than 8 bits per channel; 0 and 65,535 unless given.
        augmentation: of the weak and the strong view. "usb": USB's, a shift by up to int(img_size · (1 − crop_ratio)) pixels, mirrored
            half of the time. "translate": shifted by −4 … 4 pixels in both directions, not mirrored; "translate_flip": likewise, mirrored.
        flip: false: no view is mirrored, for images whose class a mirror changes (digits, text); as `augmentation` says unless given.
    """

    # What they come to is kept in the run's dataset.json, and compared there.
    class_names: tuple[str, ...] | None = free_key(None)
    in_channels: Literal[1, 3] = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    verify: bool = True
    background: str = "white"
    value_range: tuple[int | float, int | float] | None = None
    augmentation: Literal["usb", "translate", "translate_flip"] = "usb"
    flip: bool | None = None

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

    @model_serializer(mode="wrap")
    def _without_later_keys(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keys that version 0.1.0 did not know are left out at their defaults, so that its runs are runs of the same configuration."""
        return {key: value for key, value in serialize(self).items() if key not in _LATER or value != _LATER[key]}

    @field_validator("class_names")
    @classmethod
    def _each_name_once(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        twice = sorted({name for name in names or () if names.count(name) > 1})
        if twice:
            raise ValueError(f"named twice: {name_some(twice)}")
        return names

    @model_validator(mode="after")
    def _one_word_on_mirroring(self) -> FolderConfig:
        if self.flip is not None and self.augmentation != "usb" and self.flip is not self.mirrors:
            word, other = ("true", "translate_flip") if self.flip else ("false", "translate")
            does = "mirrors" if self.mirrors else "does not mirror"
            raise ValueError(f"flip: {word}, but augmentation: {self.augmentation} {does}; use {other}, or leave flip out")
        return self

    @property
    def mirrors(self) -> bool:
        """Whether the weak and the strong view are mirrored half of the time."""
        if self.augmentation == "usb":
            return self.flip is not False
        return self.augmentation == "translate_flip"

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
