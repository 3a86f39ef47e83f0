"""What is in an image file, as pixels: the one way in which any part of the package reads one."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import stat
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from usb_active.errors import UsageError
from usb_active.storage.run_format import FIRST

if TYPE_CHECKING:
    from PIL import Image

LOGGER = logging.getLogger(__name__)
WHITE = (255, 255, 255)
# Beside the pixels of a file with more than 8 bits per channel: the highest value in it (of 65,535), and whether only the upper 8 bits
# of each were to be had.
HIGHEST, UPPER_BITS = "usb_active_highest_value", "usb_active_upper_bits"
# Pillow's plugins for further formats, and the function that makes them known to it; "" where importing is enough.
PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_avif": ""}
_ORIENTATION = 0x0112
_WIDTH, _HEIGHT = 256, 257
_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFDIR: "a folder"}


@dataclass(frozen=True)
class Reading:
    """How files become pixels.

    Attributes:
        upright: turned and mirrored as the EXIF orientation says.
        background: the colour that is seen through transparent pixels; None: transparency is dropped, and the hidden colours appear.
        value_range: the values of black and white in images with more than 8 bits per channel; None: 0 and 65,535.
    """

    upright: bool = True
    background: tuple[int, int, int] | None = WHITE
    value_range: tuple[float, float] | None = None

    @classmethod
    def of_run(cls, run_format: int, background: tuple[int, int, int] = WHITE, value_range: tuple[float, float] | None = None) -> Reading:
        """As runs of this format read their images: those of version 0.1.0 looked neither at EXIF nor at transparency."""
        if run_format == FIRST:
            return cls(upright=False, background=None, value_range=value_range)
        return cls(True, background, value_range)


AS_USUAL = Reading()


def read_image(path: str, mode: Literal["RGB", "L"], reading: Reading = AS_USUAL) -> Image.Image:
    """The (first) image in a file, in 8 bits per channel; `HIGHEST` and `UPPER_BITS` are in its `info` where it had more.

    Raises:
        UsageError: missing, truncated, no file but a FIFO or the like (never opened), no image, or pixels without a known range.
    """
    from PIL import Image

    register_plugins()
    try:
        kind = kind_of(os.stat(path).st_mode)
        if kind:
            raise ValueError(f"{kind}, no file")
        with Image.open(path) as image:
            return decoded(image, mode, reading)
    except Exception as error:  # what a decoder raises on a damaged file is its own affair; the file is named
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"image {path}: not readable: {type(error).__name__}: {reason}") from error


def kind_of(mode: int) -> str:
    """What a path leads to, of its `st_mode`, where that is no regular file: `a FIFO`; else ""."""
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no regular file")


def decoded(image: Image.Image, mode: str, reading: Reading) -> Image.Image:
    """An image that was opened, in 8 bits per channel, upright and without transparency, as `reading` says. Raises what decoders raise."""
    upper_bits = _only_upper_bits(image)
    image.load()
    notes = {}
    if upper_bits:
        notes = {UPPER_BITS: True, HIGHEST: 257 * _brightest(image)}
    orientation = _orientation(image) if reading.upright else 1
    if image.mode[0] in "IF":
        image, highest = _eight_bits(image, reading)
        notes = {} if highest is None else {HIGHEST: highest}
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if reading.background is not None:
        image = _on_background(image, reading.background)
    image = _turned(image.convert(mode), orientation)
    image.info.update(notes)
    return image


def _eight_bits(image: Image.Image, reading: Reading) -> tuple[Image.Image, int | None]:
    """A grey image of more bits in 8, and its highest value where no range was given: Pillow would clip what is above 255."""
    from PIL import Image

    pixels = np.asarray(image)
    if reading.value_range is not None:
        grey, highest = _scaled(pixels, *reading.value_range), None
    elif image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
        way_out = "save it with 8 or 16 bits, or give value_range: [black, white] below `dataset:`"
        raise ValueError(f"pixels of mode {image.mode} have no known range; {way_out}")
    else:
        grey, highest = (pixels // 257).astype(np.uint8), int(pixels.max())
    result, hidden = Image.fromarray(grey), image.info.get("transparency")
    if reading.background is not None and isinstance(hidden, int):
        result = Image.merge("LA", (result, Image.fromarray(np.where(pixels == hidden, 0, 255).astype(np.uint8))))
    return result, highest


def _scaled(pixels: np.ndarray, black: float, white: float) -> np.ndarray:
    """uint8: black … white as 0 … 255, rounded down as without a range, what lies outside at the ends."""
    values = pixels.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("pixels that are not finite")
    return np.floor(np.clip((values - black) * 255 / (white - black), 0, 255)).astype(np.uint8)


def _on_background(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    from PIL import Image

    if image.mode not in _ALPHA_MODES and "transparency" not in image.info:
        return image
    seen = image.convert("LA") if image.mode == "La" else image
    canvas = Image.new("RGBA", image.size, (*colour, 255))
    canvas.alpha_composite(seen.convert("RGBA"))
    return canvas


# ---------------------------------------------------------------------------------------------------- orientation
def _orientation(image: Image.Image) -> int:
    """1 to 8; 1 is upright. A damaged EXIF block says nothing, and viewers show such an image as it is too."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
        return value if value in range(1, 9) else 1
    except Exception:  # anything writes EXIF, and Pillow's parsers raise whatever they meet
        return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    from PIL import Image

    turns = Image.Transpose
    ways = (None, turns.FLIP_LEFT_RIGHT, turns.ROTATE_180, turns.FLIP_TOP_BOTTOM, turns.TRANSPOSE, turns.ROTATE_270,
            turns.TRANSVERSE, turns.ROTATE_90)  # fmt: skip
    way = ways[orientation - 1]
    return image if way is None else image.transpose(way)


def image_size(path: str, reading: Reading = AS_USUAL) -> tuple[int, int] | None:
    """(width, height) as `read_image` gives it, from the file's header; None where the file is no readable image."""
    from PIL import Image

    register_plugins()
    try:
        if kind_of(os.stat(path).st_mode):
            return None
        with Image.open(path) as image:
            if not reading.upright:
                return image.size
            # Newer releases of Pillow say the size of a TIFF as it is when turned, which its tags do not.
            tags = getattr(image, "tag_v2", {})
            width, height = tags.get(_WIDTH, image.width), tags.get(_HEIGHT, image.height)
            return (height, width) if _orientation(image) >= 5 else (width, height)
    except Exception:  # as in `read_image`; the reason is told where the image itself is needed
        return None


# ---------------------------------------------------------------------------------------------------- many bits
def _only_upper_bits(image: Image.Image) -> bool:
    """Whether the file has 16 bits per channel, of which Pillow gives the upper 8: colour, or grey with transparency."""
    return image.mode[0] not in "IF" and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _brightest(image: Image.Image) -> int:
    colours = [band for band in image.getbands() if band not in "Aa"]
    return max(image.getchannel(band).getextrema()[1] for band in colours)


def highest_value(path: str, reading: Reading) -> dict[str, int] | None:
    """`HIGHEST` (and `UPPER_BITS`) of a file with more than 8 bits per channel and without a range; None of any other, and of one that
    cannot be read."""
    from PIL import Image

    register_plugins()
    try:
        if kind_of(os.stat(path).st_mode):
            return None
        with Image.open(path) as image:
            if image.mode[0] not in "IF" and not _only_upper_bits(image):
                return None
        info = read_image(path, "RGB", reading).info
    except Exception:  # as in `image_size`
        return None
    return {name: info[name] for name in (HIGHEST, UPPER_BITS) if name in info} or None


# ---------------------------------------------------------------------------------------------------- formats
@cache
def register_plugins() -> None:
    """Make Pillow's plugins known to it, where they are installed; once per process, loader workers included."""
    for module, function in PLUGINS.items():
        if importlib.util.find_spec(module) is None:
            continue
        try:
            plugin = importlib.import_module(module)
            if function:
                getattr(plugin, function)()
        except Exception as error:  # a plugin for formats that may not even occur; those that do are said to be left out
            reason = f"{type(error).__name__}: {error}"
            LOGGER.warning("%s is installed, but does not work (%s): its image formats are not read", module, reason)


# Formats that Pillow can tell but not decode (the last one: not outside Windows).
_TOLD_ONLY = frozenset({"BUFR", "GRIB", "HDF5", "MPEG", "WMF"})


@cache
def image_suffixes() -> frozenset[str]:
    """What Pillow can read, by the end of the name: `.jpg`, `.png`, …"""
    from PIL import Image

    register_plugins()
    # Asking for the suffixes makes Pillow load all its formats.
    suffixes = Image.registered_extensions()
    readable = Image.OPEN.keys() - _TOLD_ONLY
    return frozenset(suffix for suffix, kind in suffixes.items() if kind in readable)
