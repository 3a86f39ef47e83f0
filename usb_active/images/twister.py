"""The Mersenne Twister that Python, numpy's `RandomState` and torch draw from on a CPU, compiled: their numbers, many at a time.

Python and numpy make a number of [0, 1) from two outputs of 32 bits; torch takes an integer as the remainder of one, and a float32 from
its lower 24 bits. A stream is its 624 words and, as the 625th, how many of them have been used.
"""

from __future__ import annotations

import random

import numpy as np
from numba import njit
from numpy.typing import NDArray

from usb_active.environment.compiling import prepare_compiling

WORDS = 624
_SHIFT = 397


def python_stream(seed: int) -> NDArray[np.uint32]:
    """That of `random.Random(seed)`."""
    return np.array(random.Random(seed).getstate()[1], dtype=np.uint32)


def numpy_stream(seed: int) -> NDArray[np.uint32]:
    """That of `numpy.random.RandomState(seed & 0xFFFFFFFF)`; torch's `manual_seed` begins in the same way."""
    state = np.random.RandomState(seed & 0xFFFFFFFF).get_state()
    return np.append(state[1].astype(np.uint32), np.uint32(state[2]))


prepare_compiling(python_stream, "the draws of the views")


@njit(cache=True, nogil=True)
def _renew(stream):
    for i in range(WORDS):
        mixed = (stream[i] & np.uint32(0x80000000)) | (stream[(i + 1) % WORDS] & np.uint32(0x7FFFFFFF))
        odd = np.uint32(0x9908B0DF) if mixed & np.uint32(1) else np.uint32(0)
        stream[i] = stream[(i + _SHIFT) % WORDS] ^ (mixed >> np.uint32(1)) ^ odd
    stream[WORDS] = np.uint32(0)


@njit(cache=True, nogil=True)
def next_word(stream):
    """32 random bits, as an int64."""
    if stream[WORDS] >= np.uint32(WORDS):
        _renew(stream)
    word = stream[np.int64(stream[WORDS])]
    stream[WORDS] += np.uint32(1)
    word ^= word >> np.uint32(11)
    word ^= (word << np.uint32(7)) & np.uint32(0x9D2C5680)
    word ^= (word << np.uint32(15)) & np.uint32(0xEFC60000)
    word ^= word >> np.uint32(18)
    return np.int64(word)


@njit(cache=True, nogil=True)
def next_double(stream):
    """`random.random()`, or `RandomState.random_sample()`."""
    high = next_word(stream) >> 5
    low = next_word(stream) >> 6
    return (high * 67108864.0 + low) / 9007199254740992.0


@njit(cache=True, nogil=True)
def next_below(stream, count):
    """`torch.randint(0, count, (1,))`, for a count below 2^24."""
    return next_word(stream) % count


@njit(cache=True, nogil=True)
def next_half(stream):
    """Whether `torch.rand(1) < 0.5`."""
    return (next_word(stream) & 0xFFFFFF) < 0x800000


@njit(cache=True, nogil=True)
def draw_views(
    of_python, of_numpy, of_torch, strong, sides, size, flip, codes, least, largest, cutout, places, operations, magnitudes, boxes
):  # fmt: skip
    """USB's draws of B samples with V views each: a crop, then for a strong view RandAugment's operations, magnitudes and cutout.

    Here, beside the generators: numba does not notice that compiled code of another file has changed.

    Args:
        of_python: stream of the operations, their magnitudes and the side of the cutout.
        of_numpy: of its centre.
        of_torch: of the crop and of mirroring.
        strong: (V,) bool.
        sides: (B, 2) int64, height and width of the reflected images; a crop's place is drawn where one is more than `size`.
        size: side of a view.
        flip: whether there are mirrored views.
        codes: (K,) int64, the operations to choose from.
        least: (K,) float64, their least magnitudes.
        largest: (K,) float64.
        cutout: largest side of the cutout, as a share of `size`.
        places: (B, V, 3) int64, written to: top, left, 1 if mirrored.
        operations: (B, V, n) int64, written to.
        magnitudes: (B, V, n) float64, written to.
        boxes: (B, V, 4) int64, written to: left, top, right, bottom of the cutout.
    """
    for sample in range(places.shape[0]):
        height, width = sides[sample, 0], sides[sample, 1]
        for view in range(len(strong)):
            if height > size or width > size:
                places[sample, view, 0] = next_below(of_torch, height - size + 1)
                places[sample, view, 1] = next_below(of_torch, width - size + 1)
            if flip and next_half(of_torch):
                places[sample, view, 2] = 1
            if strong[view]:
                chosen = operations[sample, view]
                for number in range(len(chosen)):
                    chosen[number] = int(next_double(of_python) * len(codes))
                for number in range(len(chosen)):
                    at = chosen[number]
                    magnitudes[sample, view, number] = least[at] + (largest[at] - least[at]) * next_double(of_python)
                    chosen[number] = codes[at]
                side = next_double(of_python) * cutout * size
                if side > 0:
                    box = boxes[sample, view]
                    for axis in range(2):
                        box[axis] = int(max(0.0, size + (1.0 - size) * next_double(of_numpy) - side / 2.0))
                        box[axis + 2] = int(min(float(size), box[axis] + side))
