"""The compiled operations against Pillow itself, byte for byte."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_makers import KINDS, SIDES, pixels_of
from PIL import Image
from semilearn.datasets.augmentation.randaugment import Cutout, augment_list

from usb_active.images import kernels
from usb_active.usb.view_draws import OPERATIONS, as_kernel, draw_box
from usb_active.usb.view_trial import operated

CALLS = augment_list()
kernels.prepare()


def test_the_list_is_usbs():
    assert len(OPERATIONS) == len(CALLS) == 14
    for (_, least, largest), (_, usb_least, usb_largest) in zip(OPERATIONS, CALLS, strict=True):
        assert (least, largest) == (usb_least, usb_largest)


@pytest.mark.parametrize("number", range(len(CALLS)), ids=[call.__name__ for call, *_ in CALLS])
def test_an_operation_gives_pillows_bytes(number):
    """Of 2,016 colour images, and of as many grey ones."""
    rng = np.random.default_rng(number)
    (operation, least, largest), call = OPERATIONS[number], CALLS[number][0]
    for side, kind in itertools.product(SIDES, KINDS):
        for share in (0.0, 1.0, *rng.random(46)):
            image, magnitude = pixels_of(kind, side, rng), least + float(largest - least) * share
            code, values = as_kernel(operation, magnitude, side, side)
            for pixels in (image, np.repeat(image[:, :, 1:2], 3, axis=2)):
                expected = np.asarray(call(Image.fromarray(pixels), magnitude))
                np.testing.assert_array_equal(operated(pixels, [code], [values]), expected, f"{kind}, {side}, {magnitude}")
            # Of the last ones the channels are equal.
            np.testing.assert_array_equal(operated(pixels[:, :, :1].copy(), [code], [values]), expected[:, :, :1])


@given(seed=st.integers(0, 2**32 - 1), side=st.sampled_from(SIDES), kind=st.sampled_from(KINDS))
@settings(max_examples=300, deadline=None)
def test_chains_of_three_give_pillows_bytes(seed, side, kind):
    rng, own = np.random.default_rng(seed), random.Random(seed)
    image = pixels_of(kind, side, rng)
    picture, codes, values = Image.fromarray(image), [], []
    for number in own.choices(range(len(CALLS)), k=3):
        (operation, least, largest), call = OPERATIONS[number], CALLS[number][0]
        magnitude = least + float(largest - least) * own.random()
        picture = call(picture, magnitude)
        code, its = as_kernel(operation, magnitude, side, side)
        codes, values = [*codes, code], [*values, its]
    np.testing.assert_array_equal(operated(image, codes, values), np.asarray(picture))


@pytest.mark.parametrize("side", SIDES)
def test_a_cutout_is_usbs(side):
    rng, levels = np.random.default_rng(side), np.tile(np.arange(256, dtype=np.float32), (3, 1))
    every = np.arange(side)
    none = np.full(1, kernels.IDENTITY), np.zeros((1, kernels.NUM_VALUES))
    for seed in range(60):
        image, share = pixels_of("noise", side, rng), (0.0, 0.5, *rng.random(1) / 2)[seed % 3]
        np.random.seed(seed)
        expected = np.asarray(Cutout(Image.fromarray(image), share))
        np.random.seed(seed)
        box, out = draw_box(share, side, side), np.empty((3, side, side), np.float32)
        kernels.strong_view(image, every, every, False, *none, box, levels, out)
        np.testing.assert_array_equal(out.transpose(1, 2, 0), expected)


def test_a_crop_is_what_its_rows_and_columns_say():
    image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    rows, columns, levels = np.array([4, 0, 2]), np.array([1, 6, 6]), np.arange(768, dtype=np.float32).reshape(3, 256)
    out = np.empty((3, 3, 3), np.float32)
    for flip in (False, True):
        kernels.weak_view(image, rows, columns, flip, levels, out)
        taken = image[rows][:, columns[::-1] if flip else columns]
        np.testing.assert_array_equal(out, taken.transpose(2, 0, 1) + np.array([0, 256, 512], np.float32)[:, None, None])
