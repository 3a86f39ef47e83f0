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

from usb_active.environment.compiling import said_where_long, use_writable_cache

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


use_writable_cache(_probe)


@njit(cache=True, nogil=True, inline="always")
def _blend(degenerate, pixel, alpha):
    return np.uint8(np.int32(np.float32(degenerate) + alpha * np.float32(np.int32(pixel) - np.int32(degenerate))))


@njit(cache=True, nogil=True, inline="always")
def _grey(image, row, column):
    if image.shape[2] == 1:
        return np.int32(image[row, column, 0])
    red, green, blue = np.int32(image[row, column, 0]), np.int32(image[row, column, 1]), np.int32(image[row, column, 2])
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


@njit(cache=True, nogil=True)
def _look_up(image, table):
    """Every channel through its own row of table (C, 256), in place."""
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            for channel in range(image.shape[2]):
                image[row, column, channel] = table[channel, image[row, column, channel]]


@njit(cache=True, nogil=True)
def _histogram(image, counts):
    counts[:] = 0
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            for channel in range(image.shape[2]):
                counts[channel, image[row, column, channel]] += 1


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
    lines, smoothed = image.reshape(height, length), smooth.reshape(height, length)
    columns = np.empty(length, np.uint32)
    for row in range(1, height - 1):
        above, here, below, out = lines[row - 1], lines[row], lines[row + 1], smoothed[row]
        for at in range(length):
            columns[at] = np.uint32(above[at]) + np.uint32(here[at]) + np.uint32(below[at])
        for at in range(channels, length - channels):
            total = columns[at - channels] + columns[at] + columns[at + channels] + np.uint32(4) * np.uint32(here[at])
            out[at] = np.uint8((np.uint32(2) * total + np.uint32(13)) // np.uint32(26))
    for row in range(1, height - 1):
        here, out = lines[row], smoothed[row]
        for at in range(channels, length - channels):
            here[at] = _blend(out[at], here[at], alpha)


@njit(cache=True, nogil=True)
def _blend_with(image, degenerate, alpha):
    pixels = image.reshape(image.size)
    for at in range(len(pixels)):
        pixels[at] = _blend(degenerate, pixels[at], alpha)


@njit(cache=True, nogil=True)
def _contrast(image, alpha):
    total = 0
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            total += _grey(image, row, column)
    _blend_with(image, np.int32(total / (image.shape[0] * image.shape[1]) + 0.5), alpha)


@njit(cache=True, nogil=True)
def _affine(source, values, out):
    """out[y, x] = source at (x', y') = (a x + b y + c, d x + e y + f) of the pixels' centres; 0 outside."""
    height, width, channels = source.shape
    moved_only = values[1] == 0 and values[3] == 0
    step_x, step_y = int(math.floor(values[0] * _FIXED + 0.5)), int(math.floor(values[3] * _FIXED + 0.5))
    turn_x, turn_y = int(math.floor(values[1] * _FIXED + 0.5)), int(math.floor(values[4] * _FIXED + 0.5))
    first_x = int(math.floor((values[2] + values[0] * 0.5 + values[1] * 0.5) * _FIXED + 0.5))
    first_y = int(math.floor((values[5] + values[3] * 0.5 + values[4] * 0.5) * _FIXED + 0.5))
    y_moved = values[5] + values[4] * 0.5
    for row in range(height):
        x_moved = values[2] + values[0] * 0.5
        x_fixed, y_fixed = first_x + row * turn_x, first_y + row * turn_y
        for column in range(width):
            if moved_only:
                i = -1 if y_moved < 0 else int(y_moved)
                j = -1 if x_moved < 0 else int(x_moved)
                x_moved += values[0]
            else:
                i, j = y_fixed >> 16, x_fixed >> 16
                x_fixed, y_fixed = x_fixed + step_x, y_fixed + step_y
            inside = 0 <= i < height and 0 <= j < width
            for channel in range(channels):
                out[row, column, channel] = source[i, j, channel] if inside else np.uint8(0)
        y_moved += values[4]


@njit(cache=True, nogil=True)
def _color(image, alpha):
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            degenerate = _grey(image, row, column)
            for channel in range(image.shape[2]):
                image[row, column, channel] = _blend(degenerate, image[row, column, channel], alpha)


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


@njit(cache=True, nogil=True)
def _gather(image, rows, columns, flip, out):
    first, step = (len(columns) - 1, -1) if flip else (0, 1)
    for i in range(len(rows)):
        line, to = image[rows[i]], out[i]
        for j in range(len(columns)):
            column = columns[np.uint64(first + step * j)]
            for channel in range(image.shape[2]):
                to[j, channel] = line[np.uint64(column), channel]


@njit(cache=True, nogil=True)
def _normalise(image, levels, out):
    for channel in range(image.shape[2]):
        of_channel = levels[channel]
        for row in range(image.shape[0]):
            line, to = image[row], out[channel, row]
            for column in range(image.shape[1]):
                to[column] = of_channel[line[column, channel]]


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
    for channel in range(image.shape[2]):
        of_channel = levels[channel]
        for i in range(len(rows)):
            line, to = image[rows[i]], out[channel, i]
            for j in range(len(columns)):
                column = columns[np.uint64(first + step * j)]
                to[j] = of_channel[line[np.uint64(column), channel]]


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
        with said_where_long("the augmentation of images, about ten seconds"):
            for function, signature in _VERSIONS:
                function.disable_compile(False)
                function.compile(signature)
                function.disable_compile()
        _prepared = True
