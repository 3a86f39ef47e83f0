"""The Mersenne Twister that Python, numpy's `RandomState` and torch draw from on a CPU, compiled: their numbers, many at a time.

Python and numpy make a number of [0, 1) from two outputs of 32 bits; torch takes an integer as the remainder of one, and a float32 from
its lower 24 bits. A stream is its 624 words and, as the 625th, how many of them have been used.
"""

from __future__ import annotations

import random

import numpy as np
from numba import njit
from numpy.typing import NDArray

from usb_active.environment.compiling import use_writable_cache

WORDS = 624
_SHIFT = 397


def python_stream(seed: int) -> NDArray[np.uint32]:
    """That of `random.Random(seed)`."""
    return np.array(random.Random(seed).getstate()[1], dtype=np.uint32)


def numpy_stream(seed: int) -> NDArray[np.uint32]:
    """That of `numpy.random.RandomState(seed & 0xFFFFFFFF)`; torch's `manual_seed` begins in the same way."""
    state = np.random.RandomState(seed & 0xFFFFFFFF).get_state()
    return np.append(state[1].astype(np.uint32), np.uint32(state[2]))


use_writable_cache(python_stream)


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
