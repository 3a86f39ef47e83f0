"""`active.views_on: device`: a batch travels as uint8 images, or their numbers, and what was drawn; its views are made where it arrives.

The draws are those of `batch_draws`, on the CPU, so that equal seeds give equal bits wherever the views are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from usb_active.contracts.dataset import Dataset, is_in_memory, sample_for_views
from usb_active.images import tensor_kernels
from usb_active.usb.batch_draws import Draw, Drawn, values_of
from usb_active.usb.batched_views import STRONG, Plan, picture_of
from usb_active.usb.transforms import ImageViews
from usb_active.usb.view_draws import reflected

# Up to so many bytes of images are kept on the device; of a GPU's free memory, no more than this share.
POOL_BYTES = 2**30
POOL_SHARE = 0.25
# Every array in the bytes that are sent begins at a multiple of this, so that its bytes can be read as numbers of any type.
_ALIGNED = 16


@dataclass(frozen=True)
class UnmadeViews:
    """The views of a batch that are still to be made.

    Attributes:
        packed: (n,) uint8: all arrays, one behind the other, so that one copy brings them to the device.
        fields: name → where in it the array begins, its type, its shape.
        counts: see `tensor_kernels.Operations`.
        sides: height and width of the images.
        plan: of the row.
    """

    packed: torch.Tensor
    fields: Mapping[str, tuple[int, torch.dtype, tuple[int, ...]]]
    counts: tuple[tuple[int, ...], ...]
    sides: tuple[int, int]
    plan: Plan

    def arrays(self, packed: torch.Tensor) -> dict[str, torch.Tensor]:
        """The arrays, of a copy of `packed` on any device."""
        found = {}
        for name, (first, dtype, shape) in self.fields.items():
            size = int(np.prod(shape)) * dtype.itemsize
            found[name] = packed[first : first + size].view(dtype).view(shape)
        return found


def unmade_views(
    views: ImageViews,
    samples: Sequence[Any] | NDArray[np.int64],
    plan: Plan,
    seed: int,
    draw: Draw,
    sides: tuple[int, int] | None = None,
) -> UnmadeViews | None:
    """What the views of a batch are made of, as `batched_views.views_of` makes them; None where its images differ in size.

    Args:
        samples: as the data set loads them; or, with `sides`, (B,) their places among the images on the device.
        seed: see `batch_draws.draw_exact`.
        draw: what decides on crops and operations.
        sides: height and width of the images on the device.
    """
    if sides is not None:
        at, images = np.asarray(samples), {}
    else:
        pixels = [views.as_pixels(picture_of(sample)) for sample in samples]
        if len({image.shape for image in pixels}) > 1:
            return None
        at, images, sides = np.arange(len(pixels)), {"images": np.stack(pixels)}, pixels[0].shape[:2]
    drawn = draw(seed, plan.kinds, [tuple(side + 2 * views.padding for side in sides)] * len(at), views)
    places = np.concatenate([np.broadcast_to(at[:, None, None], (*drawn.places.shape[:2], 1)), drawn.places], axis=2)
    counts, augmentation = _augmentation(drawn, np.array(plan.kinds) == STRONG, views.img_size)
    return UnmadeViews(*_packed({**images, "places": by_view(places).astype(np.int32), **augmentation}), counts, sides, plan)


def _augmentation(drawn: Drawn, is_strong: NDArray[np.bool_], size: int) -> tuple[tuple[tuple[int, ...], ...], dict[str, NDArray[Any]]]:
    """What `tensor_kernels.apply_grouped` and `cut_out` take, of the strong views among all; nothing where there is none."""
    if not is_strong.any():
        return (), {}
    codes, values = values_of(drawn.of_views(is_strong), size)
    grouped = tensor_kernels.group_operations(by_view(codes), by_view(values), size)
    rows = np.flatnonzero(np.repeat(is_strong, len(drawn.places)))
    order = rows[grouped.arrays["order"]]
    return grouped.counts, {**grouped.arrays, "order": order, "boxes": by_view(drawn.boxes).astype(np.int32)}


def by_view(drawn: NDArray[Any]) -> NDArray[Any]:
    """(B, V, …) as (V·B, …), all of the first view first."""
    return drawn.swapaxes(0, 1).reshape(-1, *drawn.shape[2:])


def _packed(arrays: Mapping[str, NDArray[Any]]) -> tuple[torch.Tensor, dict[str, tuple[int, torch.dtype, tuple[int, ...]]]]:
    fields, end = {}, 0
    for name, array in arrays.items():
        first = -(-end // _ALIGNED) * _ALIGNED
        fields[name] = (first, torch.from_numpy(array[:0]).dtype, array.shape)
        end = first + array.nbytes
    packed = np.zeros(end, np.uint8)
    for name, array in arrays.items():
        first = fields[name][0]
        packed[first : first + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return torch.from_numpy(packed), fields


class DevicePool:
    """Images of a pool, all of one size, on the device.

    Attributes:
        images: (n, H, W, C) uint8.
        places: (N,) int64, where among them a sample of the data set is; -1 for one that is not there.
    """

    def __init__(self, images: torch.Tensor, places: NDArray[np.int64]):
        self.images, self.places = images, places

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of every image."""
        return self.images.shape[1], self.images.shape[2]

    @classmethod
    def of(cls, dataset: Dataset, idx: NDArray[np.int64], device: torch.device) -> DevicePool | None:
        """Those samples' images, or None: where one would have to be decoded, where they differ in size, where they are too many.

        Args:
            dataset: with `ImageViews`.
            idx: distinct dataset indices.
        """
        views, room = dataset.views, _room(device)
        if not len(idx) or len(idx) * views.in_channels * views.img_size**2 > room or not is_in_memory(dataset, int(idx[0])):
            return None
        pixels = lambda index: views.as_pixels(picture_of(sample_for_views(dataset, int(index), views)))  # noqa: E731 — called twice
        first = pixels(idx[0])
        if len(idx) * first.size > room:
            return None
        images = np.empty((len(idx), *first.shape), np.uint8)
        for place, index in enumerate(idx):
            image = pixels(index)
            if image.shape != first.shape:
                return None
            images[place] = image
        places = np.full(len(dataset), -1, np.int64)
        places[idx] = np.arange(len(idx))
        return cls(torch.from_numpy(images).to(device), places)


def _room(device: torch.device) -> float:
    if device.type != "cuda":
        return POOL_BYTES
    return min(POOL_BYTES, POOL_SHARE * torch.cuda.mem_get_info(device)[0])


class DeviceViews:
    """Makes views on a device, and keeps there what every batch needs.

    Args:
        views: of the data set.
        device: on which they are made.
        pool: the images, where they are kept there.
    """

    def __init__(self, views: ImageViews, device: torch.device, pool: DevicePool | None = None):
        self._size, self._padding, self._device, self._pool = views.img_size, views.padding, device, pool
        self._levels = torch.from_numpy(views.levels).to(device)
        self._reflections: dict[int, torch.Tensor] = {}

    def made(self, unmade: UnmadeViews, packed: torch.Tensor) -> dict[str, torch.Tensor]:
        """Argument of the step → (B, C, S, S) float32, to the bit what `batched_views.views_of` gives.

        Args:
            packed: that of `unmade`, on the device.
        """
        arrays = unmade.arrays(packed)
        images = self._pool.images if self._pool is not None and "images" not in arrays else arrays["images"]
        rows, columns = map(self._reflection, unmade.sides)
        pixels = tensor_kernels.crops(images, arrays["places"], rows, columns, self._size)
        if unmade.counts:
            tensor_kernels.apply_grouped(pixels, unmade.counts, arrays)
            pixels = tensor_kernels.cut_out(pixels, arrays["boxes"])
        out = tensor_kernels.normalised(pixels, self._levels)
        of_view = out.view(len(unmade.plan.kinds), -1, *out.shape[1:])
        return {name: of_view[number] for name, number in unmade.plan.outputs.items()}

    def _reflection(self, side: int) -> torch.Tensor:
        if side not in self._reflections:
            self._reflections[side] = torch.from_numpy(reflected(side, self._padding).astype(np.int32)).to(self._device)
        return self._reflections[side]
