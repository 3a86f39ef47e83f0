"""Augmentation of uint8 images to the byte as Pillow does it, compiled: crop, flip, RandAugment's operations, cutout, normalisation.

An image is (S, S, C), C being 1 or 3, contiguous. Pillow's arithmetic, as its bits show it:

- A blend is the whole part of float32(a) + alpha · float32(b − a), in float32.
- Grey of a colour is (19595 R + 38470 G + 7471 B + 2^15) >> 16. A grey image is a colour image with three equal channels: every operation
  keeps them equal.
- A geometric operation looks up the pixel at an affine map of the output's centre; outside there is black. With a shear or a rotation the
  map is in fixed point of 16 bits, else in floating point.

Compiled at the first use, which takes seconds, and kept in numba's cache. Nothing here holds Python's lock (`nogil`) or starts threads.
"""

from __future__ import annotations

import math
import threading

import numpy as np
from numba import config, njit, types

from usb_active.environment.compiling import prepare_compiling

# What an operation is called here. All geometric ones are AFFINE, with the six coefficients of its map.
AUTOCONTRAST, BRIGHTNESS, COLOR, CONTRAST, EQUALIZE, IDENTITY, POSTERIZE, SHARPNESS, SOLARIZE, AFFINE = range(10)
NUM_VALUES = 6
# Kinds of views.
WEAK, STRONG = 0, 1
# The colour of a cutout, and what it is in grey.
CUTOUT_RGB = (125, 123, 114)
CUTOUT_GREY = 123
_FIXED = 65536.0


def _probe() -> None:
    """Nothing."""


prepare_compiling(_probe, "the augmentation of images")


@njit(cache=True, nogil=True, inline="always")
def _blend(degenerate, pixel, alpha):
    return np.uint8(np.int32(np.float32(degenerate) + alpha * np.float32(np.int32(pixel) - np.int32(degenerate))))


@njit(cache=True, nogil=True, inline="always")
def _grey(pixels, at):
    """Of a colour, one of pixels (N, 3)."""
    red, green, blue = np.int32(pixels[at, 0]), np.int32(pixels[at, 1]), np.int32(pixels[at, 2])
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


@njit(cache=True, nogil=True, inline="always")
def _look_up_as(channels, image, table):
    pixels = image.reshape(image.shape[0] * image.shape[1], image.shape[2])
    for at in range(len(pixels)):
        for channel in range(channels):
            pixels[at, channel] = table[channel, pixels[at, channel]]


@njit(cache=True, nogil=True)
def _look_up(image, table):
    """Every channel through its own row of table (C, 256), in place."""
    if image.shape[2] == 3:
        _look_up_as(3, image, table)
    else:
        _look_up_as(1, image, table)


@njit(cache=True, nogil=True, inline="always")
def _histogram_as(channels, image, counts):
    pixels = image.reshape(image.shape[0] * image.shape[1], image.shape[2])
    for at in range(len(pixels)):
        for channel in range(channels):
            counts[channel, pixels[at, channel]] += 1


@njit(cache=True, nogil=True)
def _histogram(image, counts):
    counts[:] = 0
    if image.shape[2] == 3:
        _histogram_as(3, image, counts)
    else:
        _histogram_as(1, image, counts)


@njit(cache=True, nogil=True)
def _autocontrast(image, counts, table):
    _histogram(image, counts)
    for channel in range(image.shape[2]):
        low, high = 0, 255
        while low < 255 and counts[channel, low] == 0:
            low += 1
        while high > 0 and counts[channel, high] == 0:
            high -= 1
        for level in range(256):
            table[channel, level] = level
        if high > low:
            scale = 255.0 / (high - low)
            offset = -low * scale
            for level in range(256):
                table[channel, level] = min(255, max(0, int(level * scale + offset)))
    _look_up(image, table)


@njit(cache=True, nogil=True)
def _equalize(image, counts, table):
    _histogram(image, counts)
    for channel in range(image.shape[2]):
        last, levels, total = 0, 0, 0
        for level in range(256):
            table[channel, level] = level
            if counts[channel, level]:
                last, levels = counts[channel, level], levels + 1
                total += counts[channel, level]
        step = (total - last) // 255
        if levels > 1 and step > 0:
            reached = step // 2
            for level in range(256):
                table[channel, level] = min(255, reached // step)
                reached += counts[channel, level]
    _look_up(image, table)


@njit(cache=True, nogil=True)
def _sharpness(image, smooth, alpha):
    """Blend with a smoothed copy: a 3×3 mean, the centre five times; the border is as it was."""
    height, width, channels = image.shape
    length = width * channels
    inner = length - 2 * channels
    if inner <= 0:
        return
    lines, smoothed = image.reshape(height, length), smooth.reshape(height, length)
    columns = np.empty(length, np.uint16)
    # Parts of a line that begin one pixel apart: loops from 0 on over slices are made into vector instructions.
    left, middle, right = columns[:inner], columns[channels : channels + inner], columns[2 * channels :]
    for row in range(1, height - 1):
        above, here, below = lines[row - 1], lines[row], lines[row + 1]
        for at in range(length):
            columns[at] = np.uint16(above[at]) + np.uint16(here[at]) + np.uint16(below[at])
        centre, out = here[channels : channels + inner], smoothed[row, channels : channels + inner]
        for at in range(inner):
            total = np.uint32(left[at]) + np.uint32(middle[at]) + np.uint32(right[at]) + np.uint32(4) * np.uint32(centre[at])
            out[at] = np.uint8((np.uint32(2) * total + np.uint32(13)) // np.uint32(26))
    for row in range(1, height - 1):
        here, out = lines[row, channels : channels + inner], smoothed[row, channels : channels + inner]
        for at in range(inner):
            here[at] = _blend(out[at], here[at], alpha)


@njit(cache=True, nogil=True)
def _blend_with(image, degenerate, alpha):
    pixels = image.reshape(image.size)
    for at in range(len(pixels)):
        pixels[at] = _blend(degenerate, pixels[at], alpha)


@njit(cache=True, nogil=True)
def _contrast(image, alpha):
    pixels, total = image.reshape(image.shape[0] * image.shape[1], image.shape[2]), 0
    for at in range(len(pixels)):
        total += _grey(pixels, at) if image.shape[2] == 3 else np.int32(pixels[at, 0])
    _blend_with(image, np.int32(total / len(pixels) + 0.5), alpha)


@njit(cache=True, nogil=True, inline="always")
def _copy_pixel(channels, source, inside, place, out, to):
    """Pixel `place` of source (S · S, C), or black, becomes pixel `to` of `out`. Unsigned: of a signed index numba asks for its sign."""
    for channel in range(channels):
        out[np.uint64(to), channel] = source[np.uint64(place), channel] if inside else np.uint8(0)


@njit(cache=True, nogil=True, inline="always")
def _moved_as(channels, source, height, width, values, out):
    """Without shear and rotation: floating point. The columns are the same in all rows."""
    columns, x = np.empty(width, np.int64), values[2] + values[0] * 0.5
    for column in range(width):
        columns[column] = int(x) if 0 <= x < width else -1
        x += values[0]
    y = values[5] + values[4] * 0.5
    for row in range(height):
        i = int(y) if 0 <= y < height else -1
        for column in range(width):
            j = columns[column]
            inside = i >= 0 and j >= 0
            _copy_pixel(channels, source, inside, i * width + j, out, row * width + column)
        y += values[4]


@njit(cache=True, nogil=True, inline="always")
def _turned_as(channels, source, height, width, values, out):
    """In fixed point of 16 bits."""
    step_x, step_y = int(math.floor(values[0] * _FIXED + 0.5)), int(math.floor(values[3] * _FIXED + 0.5))
    turn_x, turn_y = int(math.floor(values[1] * _FIXED + 0.5)), int(math.floor(values[4] * _FIXED + 0.5))
    first_x = int(math.floor((values[2] + values[0] * 0.5 + values[1] * 0.5) * _FIXED + 0.5))
    first_y = int(math.floor((values[5] + values[3] * 0.5 + values[4] * 0.5) * _FIXED + 0.5))
    for row in range(height):
        x, y = first_x + row * turn_x, first_y + row * turn_y
        for column in range(width):
            i, j = y >> 16, x >> 16
            inside = np.uint64(i) < np.uint64(height) and np.uint64(j) < np.uint64(width)
            _copy_pixel(channels, source, inside, i * width + j, out, row * width + column)
            x, y = x + step_x, y + step_y


@njit(cache=True, nogil=True)
def _affine(source, values, out):
    """out[y, x] = source at (x', y') = (a x + b y + c, d x + e y + f) of the pixels' centres; 0 outside."""
    height, width, channels = source.shape
    pixels, to = source.reshape(height * width, channels), out.reshape(height * width, channels)
    moved_only = values[1] == 0 and values[3] == 0
    if moved_only and channels == 3:
        _moved_as(3, pixels, height, width, values, to)
    elif moved_only:
        _moved_as(1, pixels, height, width, values, to)
    elif channels == 3:
        _turned_as(3, pixels, height, width, values, to)
    else:
        _turned_as(1, pixels, height, width, values, to)


@njit(cache=True, nogil=True)
def _color(image, alpha):
    if image.shape[2] == 1:
        return  # a blend of grey with itself
    pixels = image.reshape(image.shape[0] * image.shape[1], image.shape[2])
    for at in range(len(pixels)):
        degenerate = _grey(pixels, at)
        for channel in range(3):
            pixels[at, channel] = _blend(degenerate, pixels[at, channel], alpha)


@njit(cache=True, nogil=True)
def _posterize(image, value):
    pixels, mask = image.reshape(image.size), np.uint8(256 - (1 << (8 - max(1, int(value)))))
    for at in range(len(pixels)):
        pixels[at] &= mask


@njit(cache=True, nogil=True)
def _solarize(image, value):
    pixels, first = image.reshape(image.size), np.int32(math.ceil(value))
    for at in range(len(pixels)):
        pixel = pixels[at]
        pixels[at] = np.uint8(255) - pixel if np.int32(pixel) >= first else pixel


@njit(cache=True, nogil=True)
def apply_operations(image, codes, values, other, counts, table):
    """One operation after the other; where the result lies, `image` or `other`.

    Args:
        image: (S, S, C) uint8; overwritten.
        codes: (n,) of the operations above.
        values: (n, 6) float64: an AFFINE's coefficients, or one magnitude and five that are ignored.
        other: as image, for what does not work in place.
        counts: (C, 256) int64, room for a histogram.
        table: (C, 256) uint8, likewise.
    """
    for number in range(len(codes)):
        operation, value = codes[number], values[number, 0]
        if operation == AUTOCONTRAST:
            _autocontrast(image, counts, table)
        elif operation == BRIGHTNESS:
            _blend_with(image, np.int32(0), np.float32(value))
        elif operation == COLOR:
            _color(image, np.float32(value))
        elif operation == CONTRAST:
            _contrast(image, np.float32(value))
        elif operation == EQUALIZE:
            _equalize(image, counts, table)
        elif operation == POSTERIZE:
            _posterize(image, value)
        elif operation == SOLARIZE:
            _solarize(image, value)
        elif operation == SHARPNESS:
            _sharpness(image, other, np.float32(value))
        elif operation == AFFINE:
            _affine(image, values[number], other)
            image, other = other, image
    return image


@njit(cache=True, nogil=True)
def _cut_out(image, box):
    """Left, top, right and bottom of a box, all inside it; none where right is before left."""
    channels = image.shape[2]
    for row in range(box[1], min(image.shape[0] - 1, box[3]) + 1):
        for column in range(box[0], min(image.shape[1] - 1, box[2]) + 1):
            for channel in range(channels):
                image[row, column, channel] = CUTOUT_GREY if channels == 1 else CUTOUT_RGB[channel]


@njit(cache=True, nogil=True, inline="always")
def _gather_as(channels, image, rows, columns, first, step, out):
    for i in range(len(rows)):
        line, to = image[rows[i]], out[i]
        for j in range(len(columns)):
            column = np.uint64(columns[np.uint64(first + step * j)])
            for channel in range(channels):
                to[j, channel] = line[column, channel]


@njit(cache=True, nogil=True)
def _gather(image, rows, columns, flip, out):
    first, step = (len(columns) - 1, -1) if flip else (0, 1)
    if image.shape[2] == 3:
        _gather_as(3, image, rows, columns, first, step, out)
    else:
        _gather_as(1, image, rows, columns, first, step, out)


@njit(cache=True, nogil=True, inline="always")
def _normalise_as(channels, image, levels, out):
    pixels, to = image.reshape(image.shape[0] * image.shape[1], image.shape[2]), out.reshape(out.shape[0], out.shape[1] * out.shape[2])
    for at in range(len(pixels)):
        for channel in range(channels):
            to[channel, at] = levels[channel, pixels[at, channel]]


@njit(cache=True, nogil=True)
def _normalise(image, levels, out):
    if image.shape[2] == 3:
        _normalise_as(3, image, levels, out)
    else:
        _normalise_as(1, image, levels, out)


@njit(cache=True, nogil=True, inline="always")
def _weak_as(channels, image, rows, columns, first, step, levels, out):
    for i in range(len(rows)):
        line = image[rows[i]]
        for j in range(len(columns)):
            column = np.uint64(columns[np.uint64(first + step * j)])
            for channel in range(channels):
                out[channel, i, j] = levels[channel, line[column, channel]]


@njit(cache=True, nogil=True)
def weak_view(image, rows, columns, flip, levels, out):
    """A crop, flipped or not, normalised.

    Args:
        image: (H, W, C) uint8.
        rows: (S,) int64, which row of the image stands where.
        columns: (S,) int64, likewise; backwards where `flip`.
        flip: whether it is mirrored.
        levels: (C, 256) float32, what a pixel's value becomes.
        out: (C, S, S) float32.
    """
    first, step = (len(columns) - 1, -1) if flip else (0, 1)
    if image.shape[2] == 3:
        _weak_as(3, image, rows, columns, first, step, levels, out)
    else:
        _weak_as(1, image, rows, columns, first, step, levels, out)


@njit(cache=True, nogil=True)
def strong_view(image, rows, columns, flip, codes, values, box, levels, out):
    """A crop, flipped or not, RandAugment's operations, a cutout, normalised; see `weak_view`, `apply_operations`, `_cut_out`."""
    height, width, channels = len(rows), len(columns), image.shape[2]
    here, other = np.empty((height, width, channels), np.uint8), np.empty((height, width, channels), np.uint8)
    counts, table = np.empty((channels, 256), np.int64), np.empty((channels, 256), np.uint8)
    _gather(image, rows, columns, flip, here)
    here = apply_operations(here, codes, values, other, counts, table)
    _cut_out(here, box)
    _normalise(here, levels, out)


@njit(cache=True, nogil=True)
def fill_views(images, rows, columns, size, kinds, places, codes, values, boxes, levels, out):
    """All views of a batch.

    Here, beside what it calls: numba does not notice that compiled code of another file has changed.

    Args:
        images: (B, H, W, C) uint8.
        rows: (H + 2·padding,) int64, which row of the image stands where after reflection.
        columns: likewise.
        size: S.
        kinds: (V,) int64, WEAK or STRONG.
        places: (B, V, 3) int64: top, left, 1 if mirrored.
        codes: (B, V, n) int64, see `apply_operations`.
        values: (B, V, n, 6) float64, likewise.
        boxes: (B, V, 4) int64, see `_cut_out`.
        levels: (C, 256) float32, what a pixel's value becomes.
        out: (V, B, C, S, S) float32, written to.
    """
    for sample in range(len(images)):
        for view in range(len(kinds)):
            top, left, flip = places[sample, view, 0], places[sample, view, 1], places[sample, view, 2] == 1
            some_rows, some_columns = rows[top : top + size], columns[left : left + size]
            if kinds[view] == STRONG:
                box = boxes[sample, view]
                strong_view(
                    images[sample], some_rows, some_columns, flip, codes[sample, view], values[sample, view],
                    (box[0], box[1], box[2], box[3]), levels, out[view, sample],
                )  # fmt: skip
            else:
                weak_view(images[sample], some_rows, some_columns, flip, levels, out[view, sample])


# ------------------------------------------------------------------------------------------ one version of each
def _read(dtype: types.Type, ndim: int) -> types.Array:
    """What may be written to is taken too; the reverse is not so."""
    return types.Array(dtype, ndim, "C", readonly=True)


_IMAGE, _BYTES, _FLOATS = types.uint8[:, :, ::1], types.uint8[:, ::1], types.float32[:, :, ::1]
_PLACES, _LEVELS = _read(types.int64, 1), _read(types.float32, 2)
_CODES, _VALUES = _read(types.int64, 1), _read(types.float64, 2)
_VERSIONS = (
    (apply_operations, (_IMAGE, _CODES, _VALUES, _IMAGE, types.int64[:, ::1], _BYTES)),
    (weak_view, (_read(types.uint8, 3), _PLACES, _PLACES, types.boolean, _LEVELS, _FLOATS)),
    (
        strong_view,
        (_read(types.uint8, 3), _PLACES, _PLACES, types.boolean, _CODES, _VALUES, types.UniTuple(types.int64, 4), _LEVELS, _FLOATS),
    ),
)


_LOCK = threading.Lock()
_prepared = False


def prepare() -> None:
    """Compile the entries, each for one combination of types: called otherwise, they would be compiled again and again.

    Nothing is compiled twice; a call that was interrupted may be made again.
    """
    global _prepared
    with _LOCK:
        if _prepared or config.DISABLE_JIT:
            return
        for function, signature in _VERSIONS:
            function.disable_compile(False)
            function.compile(signature)
            function.disable_compile()
        _prepared = True
