"""Operations on tensors against the compiled ones and against Pillow, byte for byte; on a GPU too where there is one (`-m cuda`)."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_makers import KINDS, SIDES, pixels_of
from PIL import Image
from semilearn.datasets.augmentation.randaugment import augment_list

from usb_active.images import kernels, tensor_kernels
from usb_active.usb.view_draws import NO_BOX, OPERATIONS, as_kernel, draw_box
from usb_active.usb.view_trial import operated

CALLS = augment_list()
kernels.prepare()
GPU = pytest.param("cuda", marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")])
on_every_device = pytest.mark.parametrize("device", ["cpu", GPU])


def on_tensors(images: list[np.ndarray], codes, values, device: str, boxes=None) -> list[np.ndarray]:
    """Images (S, S, C) after operations: codes (M, n), values (M, n, 6), and a cutout if there are `boxes` (M, 4)."""
    size = images[0].shape[0]
    made = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().to(device)
    codes = np.array(codes, np.int64)
    operations = tensor_kernels.group_operations(codes, np.array(values, np.float64).reshape(*codes.shape, kernels.NUM_VALUES), size)
    arrays = {name: torch.from_numpy(array).to(device) for name, array in operations.arrays.items()}
    tensor_kernels.apply_grouped(made, operations.counts, arrays)
    if boxes is not None:
        made = tensor_kernels.cut_out(made, torch.tensor(boxes, dtype=torch.int32, device=device))
    return list(made.permute(0, 2, 3, 1).cpu().numpy())


@on_every_device
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("number", range(len(CALLS)), ids=[call.__name__ for call, *_ in CALLS])
def test_an_operation_gives_the_kernels_bytes_and_pillows(number, side, device):
    rng = np.random.default_rng(100 * number + side)
    (operation, least, largest), call = OPERATIONS[number], CALLS[number][0]
    images = [pixels_of(kind, side, rng) for kind in KINDS for _ in range(6)]
    shares = [*(0.0, 1.0, *rng.random(4))] * len(KINDS)
    magnitudes = [least + float(largest - least) * share for share in shares]
    codes, values = zip(*(as_kernel(operation, magnitude, side, side) for magnitude in magnitudes), strict=True)
    codes, values = np.array(codes)[:, None], np.array(values)[:, None]
    made = on_tensors(images, codes, values, device)
    grey = on_tensors([image[:, :, :1] for image in images], codes, values, device)
    for image, magnitude, code, value, ours, of_grey in zip(images, magnitudes, codes, values, made, grey, strict=True):
        np.testing.assert_array_equal(ours, np.asarray(call(Image.fromarray(image), magnitude)), f"Pillow, {magnitude}")
        np.testing.assert_array_equal(ours, operated(image, code, value), f"kernel, {magnitude}")
        np.testing.assert_array_equal(of_grey, operated(image[:, :, :1].copy(), code, value), f"grey kernel, {magnitude}")


@on_every_device
@given(seed=st.integers(0, 2**32 - 1), side=st.sampled_from(SIDES[:4]), count=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_chains_with_a_cutout_give_the_kernels_bytes_and_pillows(seed, side, count, device):
    """A whole batch at once, every image with other operations."""
    rng, own = np.random.default_rng(seed), random.Random(seed)
    np.random.seed(seed)
    images = [pixels_of(own.choice(KINDS), side, rng) for _ in range(count)]
    pictures, codes, values, boxes = [], [], [], []
    for image in images:
        picture, drawn = Image.fromarray(image), []
        for number in own.choices(range(len(CALLS)), k=3):
            (operation, least, largest), call = OPERATIONS[number], CALLS[number][0]
            magnitude = least + float(largest - least) * own.random()
            picture = call(picture, magnitude)
            drawn.append(as_kernel(operation, magnitude, side, side))
        box = own.choice([NO_BOX, draw_box(own.random() / 2, side, side)])
        left, top, right, bottom = box
        picture.paste(kernels.CUTOUT_RGB, (left, top, max(left, right + 1), max(top, bottom + 1)))
        pictures.append(np.asarray(picture))
        codes.append([code for code, _ in drawn])
        values.append([value for _, value in drawn])
        boxes.append(box)
    made = on_tensors(images, codes, values, device, boxes)
    grey = on_tensors([image[:, :, :1] for image in images], codes, values, device, boxes)
    every, levels = np.arange(side), np.tile(np.arange(256, dtype=np.float32), (3, 1))
    for number, (image, picture) in enumerate(zip(images, pictures, strict=True)):
        np.testing.assert_array_equal(made[number], picture)
        for pixels, ours in ((image, made[number]), (image[:, :, :1].copy(), grey[number])):
            out = np.empty((pixels.shape[2], side, side), np.float32)
            its = np.array(codes[number]), np.array(values[number]), boxes[number]
            kernels.strong_view(pixels, every, every, False, *its, levels[: len(out)].copy(), out)
            np.testing.assert_array_equal(ours, out.transpose(1, 2, 0).astype(np.uint8))


@on_every_device
@pytest.mark.parametrize("by", [0.5 - 5 * 2**-53, 0.5 - 2**-53, -0.5, 2**-60 - 0.5, -(2**-54), 1.5 - 2**-52, -1.5, 3.0, -40.0, 40.0, 0.0])
def test_a_move_is_rounded_at_every_pixel_as_in_the_kernels(by, device):
    """Sums of one pixel and the next round to a whole number sooner than the places themselves would."""
    image = np.arange(9 * 9 * 3, dtype=np.uint8).reshape(9, 9, 3)
    maps = [(1.0, 0.0, by, 0.0, 1.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, by), (1.0, 0.0, by, 0.0, 1.0, -by)]
    made = on_tensors([image] * len(maps), [[kernels.AFFINE]] * len(maps), maps, device)
    for ours, values in zip(made, maps, strict=True):
        np.testing.assert_array_equal(ours, operated(image, [kernels.AFFINE], [values]))


@on_every_device
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width", "padding", "size"), [(9, 9, 2, 9), (9, 14, 0, 9), (8, 8, 0, 8), (11, 5, 3, 5)])
def test_crops_and_levels_are_the_kernels_to_the_bit(height, width, padding, size, channels, device):
    rng = np.random.default_rng(height)
    images = rng.integers(0, 256, (4, height, width, channels), dtype=np.uint8)
    levels = rng.normal(size=(channels, 256)).astype(np.float32)
    rows, columns = (np.pad(np.arange(side), padding, mode="reflect") for side in (height, width))
    places = np.stack([
        rng.integers(0, 4, 20), rng.integers(0, len(rows) - size + 1, 20), rng.integers(0, len(columns) - size + 1, 20), np.arange(20) % 2
    ], axis=1)  # fmt: skip
    at = lambda array: torch.from_numpy(array.astype(np.int32)).to(device)  # noqa: E731 — called three times
    pixels = tensor_kernels.crops(torch.from_numpy(images).to(device), at(places), at(rows), at(columns), size)
    assert pixels.dtype == torch.uint8 and pixels.is_contiguous()
    made = tensor_kernels.normalised(pixels, torch.from_numpy(levels).to(device)).cpu()
    for (image, top, left, flip), ours in zip(places, made, strict=True):
        out = np.empty((channels, size, size), np.float32)
        kernels.weak_view(images[image], rows[top : top + size], columns[left : left + size], bool(flip), levels, out)
        assert torch.equal(ours, torch.from_numpy(out))


@pytest.mark.parametrize("codes", [np.full((3, 2), kernels.IDENTITY), np.zeros((3, 0), np.int64), np.zeros((0, 3), np.int64)])
def test_there_may_be_nothing_to_do(codes):
    images = [np.full((8, 8, 3), 7, np.uint8)] * 3
    operations = tensor_kernels.group_operations(codes, np.zeros((*codes.shape, kernels.NUM_VALUES)), 8)
    assert not any(map(sum, operations.counts)) and not len(operations.arrays["order"])
    if len(codes):
        assert np.array_equal(on_tensors(images, codes, np.zeros((*codes.shape, 6)), "cpu"), images)


def test_equal_operations_of_a_step_stand_together_and_each_is_done_once():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 10, (50, 3))
    operations = tensor_kernels.group_operations(codes, rng.random((50, 3, kernels.NUM_VALUES)), 8)
    assert len(operations.counts) == 3 and {len(of_step) for of_step in operations.counts} == {10}
    order, first = operations.arrays["order"], 0
    for step, of_step in enumerate(operations.counts):
        here = order[first : first + sum(of_step)]
        first += sum(of_step)
        assert sorted(here) == np.flatnonzero(codes[:, step] != kernels.IDENTITY).tolist()
        found = codes[here, step]
        assert len(np.flatnonzero(np.diff(found))) + 1 == len(set(found.tolist()))
    assert first == len(order)
