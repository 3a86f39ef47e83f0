"""The augmentation of `kernels` on torch tensors, for a whole batch at once and on any device: the same bytes, the same float32 values.

Images are (M, C, S, S) uint8, one for each view, C being 1 or 3. What is done to them is known on the host, so that equal operations are
sorted together there (`group_operations`): no shape depends on what lies on the device, and nothing waits for it.

Every step is one that all devices round alike: integers, comparisons, and single products, sums and quotients in float32 or float64. Two
of these are never one call, which might round once where the kernels round twice; nor is a number divided by a tensor or a tensor by a
number, for which torch multiplies by a reciprocal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from usb_active.images import kernels

# Of AFFINE what only moves, which Pillow does in floating point.
_MOVED = kernels.AFFINE + 1
# How operations that are done at the same time are sorted; IDENTITY is not there.
_ORDER = (
    kernels.BRIGHTNESS, kernels.CONTRAST, kernels.COLOR, kernels.SHARPNESS, kernels.AUTOCONTRAST, kernels.EQUALIZE, kernels.POSTERIZE,
    kernels.SOLARIZE, kernels.AFFINE, _MOVED,
)  # fmt: skip
_BLENDED = 4
_FIXED = 65536.0


# ------------------------------------------------------------------------------------------ on the host
@dataclass(frozen=True)
class Operations:
    """What is done to M images in n steps, equal operations of a step beside each other, in the order of steps.

    Attributes:
        counts: (n, 10) how many images of each step have which operation.
        arrays: by name, all of these together; what an operation needs stands in the order of its images:
            order (K,) int64, which images; alphas (…,) float32 of blends; masks (…,) uint8 of POSTERIZE; firsts (…,) int16 of SOLARIZE,
            the least value that is inverted; turned (…, 6) int64 of maps in fixed point: where x begins, its steps by column and by row,
            and so for y; moved (…, 2, S) int64 of the others: which row and which column stands where, -1 outside.
    """

    counts: tuple[tuple[int, ...], ...]
    arrays: Mapping[str, NDArray[Any]]


def group_operations(codes: NDArray[np.int64], values: NDArray[np.float64], size: int) -> Operations:
    """Sort operations as `apply_grouped` takes them.

    Args:
        codes: (M, n), see `kernels.apply_operations`.
        values: (M, n, 6), likewise.
        size: S.
    """
    codes = np.where((codes == kernels.AFFINE) & (values[..., 1] == 0) & (values[..., 3] == 0), _MOVED, codes)
    ranks = np.full(_MOVED + 1, len(_ORDER))
    ranks[list(_ORDER)] = np.arange(len(_ORDER))
    # By step first.
    of_image = ranks[codes].T
    order = np.argsort(of_image, axis=1, kind="stable")
    counts = np.stack([np.bincount(row, minlength=len(_ORDER) + 1)[: len(_ORDER)] for row in of_image]) if len(of_image) else of_image
    kept = np.arange(len(codes)) < counts.sum(axis=1, keepdims=True)
    sorted_ranks = np.take_along_axis(of_image, order, axis=1)[kept]
    images, steps = order[kept], np.nonzero(kept)[0]
    of_rank = lambda which: values[images[which], steps[which]]  # noqa: E731 — called often
    of = lambda code: of_rank(sorted_ranks == ranks[code])  # noqa: E731 — called often
    arrays = {
        "order": images.astype(np.int64),
        "alphas": of_rank(sorted_ranks < _BLENDED)[:, 0].astype(np.float32),
        "masks": (256 - (1 << (8 - np.maximum(1, of(kernels.POSTERIZE)[:, 0].astype(np.int64))))).astype(np.uint8),
        "firsts": np.ceil(of(kernels.SOLARIZE)[:, 0]).astype(np.int16),
        "turned": _turned(of(kernels.AFFINE)),
        "moved": _moved(of(_MOVED), size),
    }
    return Operations(tuple(map(tuple, counts.tolist())), arrays)


def _turned(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """(G, 6): x of the first pixel, its steps by column and by row, and y's, with 16 bits behind the point."""
    a, b, c, d, e, f = values.T
    in_order = (c + a * 0.5 + b * 0.5, a, b, f + d * 0.5 + e * 0.5, d, e)
    return np.floor(np.stack(in_order, axis=1) * _FIXED + 0.5).astype(np.int64)


def _moved(values: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    """(G, 2, S) of rows and columns. Each place is the one before and a step, rounded anew, as in the kernels."""
    steps = np.repeat(values[:, [4, 0]][:, :, None], size, axis=2)
    steps[:, :, 0] = values[:, [5, 2]] + values[:, [4, 0]] * 0.5
    places = np.add.accumulate(steps, axis=2)
    return np.where((places < 0) | (places >= size), -1, places).astype(np.int64)


# ------------------------------------------------------------------------------------------ on the device
def crops(images: torch.Tensor, places: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, size: int) -> torch.Tensor:
    """(M, C, S, S) uint8: crops, mirrored or not.

    Args:
        images: (N, H, W, C) uint8, contiguous, of less than 2^31 bytes.
        places: (M, 4) int32: which image, top, left, 1 if mirrored.
        rows: (H + 2·padding,) int32, which row of the image stands where after reflection.
        columns: likewise.
        size: S.
    """
    _, height, width, channels = images.shape
    every = torch.arange(size, dtype=torch.int32, device=images.device)
    image, top, left, mirrored = (values[:, None] for values in places.unbind(1))
    row = _looked_up(rows, top + every)
    column = _looked_up(columns, left + every + mirrored * (size - 1 - 2 * every))
    line = (image * height + row) * (width * channels)
    of_channel = torch.arange(channels, dtype=torch.int32, device=images.device)[:, None, None]
    return _looked_up(images.flatten(), line[:, None, :, None] + (column * channels)[:, None, None, :] + of_channel)


def _looked_up(table: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    return table.index_select(0, where.flatten()).view(where.shape)


def apply_grouped(images: torch.Tensor, counts: Sequence[Sequence[int]], arrays: Mapping[str, torch.Tensor]) -> None:
    """Do what `group_operations` gave, step by step, in place.

    Args:
        images: (M, C, S, S) uint8, contiguous.
        counts: of `Operations`.
        arrays: of `Operations`, on the images' device.
    """
    size = images.shape[-1]
    of_maps = {"turned": _turned_sources(arrays["turned"], size), "moved": _moved_sources(arrays["moved"], size)}
    rest = _Rest({**arrays, **of_maps})
    for of_step in counts:
        _apply_step(images, of_step, rest)


class _Rest:
    """Arrays of which every step takes its part, from the front."""

    def __init__(self, arrays: Mapping[str, torch.Tensor]):
        self._arrays = dict(arrays)

    def take(self, name: str, count: int) -> torch.Tensor:
        array = self._arrays[name]
        self._arrays[name] = array[count:]
        return array[:count]


def _apply_step(images: torch.Tensor, counts: Sequence[int], rest: _Rest) -> None:
    """The images that have an operation now, those of each kind at once; what one needs is taken from `rest` in their order."""
    order = rest.take("order", sum(counts))
    here = images.index_select(0, order)
    operations = (
        lambda some: _blended(some, counts[:_BLENDED], rest.take("alphas", len(some))),
        _autocontrasted,
        _equalized,
        lambda some: some & _each(rest.take("masks", len(some))),
        lambda some: torch.where(some >= _each(rest.take("firsts", len(some))), ~some, some),
        lambda some: _mapped(some, rest.take("turned", len(some))),
        lambda some: _mapped(some, rest.take("moved", len(some))),
    )
    bounds = np.cumsum([0, sum(counts[:_BLENDED]), *counts[_BLENDED:]]).tolist()
    for operation, (first, last) in zip(operations, pairwise(bounds), strict=True):
        if last > first:
            images.index_copy_(0, order[first:last], operation(here[first:last]))


def _each(values: torch.Tensor) -> torch.Tensor:
    """(M,) as (M, 1, 1, 1)."""
    return values[:, None, None, None]


def _blended(images: torch.Tensor, counts: Sequence[int], alphas: torch.Tensor) -> torch.Tensor:
    """A blend with black, with the mean of the grey image, with the grey image, with the smoothed image: so many of each."""
    pixels = images.to(torch.float32)
    degenerate = torch.zeros_like(pixels)
    contrast, color, sharp = np.cumsum(counts).tolist()[:-1]
    if contrast < sharp:
        grey = _grey(images[contrast:sharp])
        if color > contrast:
            count = grey.shape[-2] * grey.shape[-1]
            # The whole part of total / count + 0.5.
            mean = _divided(2 * grey[: color - contrast].sum(dim=(1, 2, 3), keepdim=True) + count, 2 * count)
            degenerate[contrast:color] = mean
        degenerate[color:sharp] = grey[color - contrast :]
    if sharp < len(images):
        degenerate[sharp:] = _smoothed(images[sharp:])
    return pixels.sub_(degenerate).mul_(_each(alphas)).add_(degenerate).to(torch.uint8)


def _divided(total: torch.Tensor, by: torch.Tensor | int) -> torch.Tensor:
    return torch.div(total, by, rounding_mode="floor")


def _grey(images: torch.Tensor) -> torch.Tensor:
    """(M, 1, S, S) int32."""
    wide = images.to(torch.int32)
    if images.shape[1] == 1:
        return wide
    red, green, blue = wide.split(1, dim=1)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def _smoothed(images: torch.Tensor) -> torch.Tensor:
    """A 3×3 mean, the centre five times; the border is as it was."""
    wide = images.to(torch.int32)
    lines = wide[..., :-2, :] + wide[..., 1:-1, :] + wide[..., 2:, :]
    total = lines[..., :-2] + lines[..., 1:-1] + lines[..., 2:] + 4 * wide[..., 1:-1, 1:-1]
    wide[..., 1:-1, 1:-1] = _divided(2 * total + 13, 26)
    return wide


def _autocontrasted(images: torch.Tensor) -> torch.Tensor:
    low, high = (extreme(dim=(2, 3), keepdim=True) for extreme in (images.amin, images.amax))
    span = (high - low).clamp_(min=1).to(torch.float64)
    scale = torch.full_like(span, 255.0).div_(span)
    offset = low.to(torch.float64).neg_().mul_(scale)
    stretched = images.to(torch.float64).mul_(scale).add_(offset).clamp_(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, images)


def _equalized(images: torch.Tensor) -> torch.Tensor:
    """By a table for each channel of each image, of its histogram."""
    count, channels, size, _ = images.shape
    tables = count * channels
    of_table = torch.arange(tables, device=images.device)[:, None] * 256
    where = images.reshape(tables, size * size) + of_table
    ones = torch.ones_like(where, dtype=torch.int32)
    counts = ones.new_zeros(tables * 256).index_add_(0, where.flatten(), ones.flatten()).view(tables, 256)
    below = counts.cumsum(dim=1) - counts
    last = counts.gather(1, images.amax(dim=(2, 3)).view(tables, 1).to(torch.int64))
    step = _divided(size * size - last, 255)
    table = _divided(_divided(step, 2) + below, step.clamp(min=1)).clamp_(max=255)
    levels = torch.arange(256, device=images.device)
    return _looked_up(torch.where(step > 0, table, levels).to(torch.uint8).flatten(), where).view(images.shape)


def _turned_sources(turned: torch.Tensor, size: int) -> torch.Tensor:
    """(G, S·S) int64: which pixel of the image each is; S·S: none."""
    every = torch.arange(size, device=turned.device)
    first_x, right_x, down_x, first_y, right_y, down_y = turned.t()[..., None, None]
    column = (first_x + every[:, None] * down_x + every * right_x) >> 16
    row = (first_y + every[:, None] * down_y + every * right_y) >> 16
    return _sources(row, column, size)


def _moved_sources(moved: torch.Tensor, size: int) -> torch.Tensor:
    return _sources(moved[:, 0, :, None], moved[:, 1, None, :], size)


def _sources(row: torch.Tensor, column: torch.Tensor, size: int) -> torch.Tensor:
    inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
    # Not `where` with a number, which would be copied to the device.
    return (row * size + column).masked_fill_(~inside, size * size).flatten(1)


def _mapped(images: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
    """Pixels from other places, black where there is none."""
    channels = images.shape[1]
    with_black = torch.nn.functional.pad(images.flatten(2), (0, 1))
    return with_black.gather(2, sources[:, None].expand(-1, channels, -1)).view(images.shape)


def cut_out(images: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Images with a box of each in the cutout's colour.

    Args:
        images: (M, C, S, S) uint8.
        boxes: (M, 4) int32: left, top, right and bottom, all inside it; none where right is before left.
    """
    size, channels = images.shape[-1], images.shape[1]
    every = torch.arange(size, dtype=torch.int32, device=images.device)
    left, top, right, bottom = (values[:, None] for values in boxes.unbind(1))
    row, column = (every >= top) & (every <= bottom), (every >= left) & (every <= right)
    inside = (row[:, :, None] & column[:, None, :])[:, None]
    if channels == 1:
        return images.masked_fill(inside, kernels.CUTOUT_GREY)
    each = [image.masked_fill(inside, colour) for image, colour in zip(images.split(1, dim=1), kernels.CUTOUT_RGB, strict=True)]
    return torch.cat(each, dim=1)


def normalised(images: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """(M, C, S, S) float32, what the values of pixels become.

    Args:
        images: (M, C, S, S) uint8.
        levels: (C, 256) float32.
    """
    of_channel = torch.arange(len(levels), dtype=torch.int32, device=images.device)[:, None, None] * levels.shape[1]
    return _looked_up(levels.flatten(), images + of_channel)
