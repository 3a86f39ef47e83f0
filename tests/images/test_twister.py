"""The compiled Mersenne Twister against those of Python, numpy and torch."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from usb_active.images.twister import next_below, next_double, next_half, next_word, numpy_stream, python_stream

SEEDS = (0, 1, 2**31 + 7, 2**32, 2**40 + 3, 2**62 + 11)
# Beyond two renewals of the 624 words.
DRAWS = 1500


def test_the_first_words_are_the_published_ones():
    """Matsumoto and Nishimura's generator with the seed 5489."""
    stream = numpy_stream(5489)
    assert [next_word(stream) for _ in range(4)] == [3499211612, 581869302, 3890346734, 3586334585]
    for _ in range(9995):
        next_word(stream)
    # The ten-thousandth, which C++ states.
    assert next_word(stream) == 4123659995


@pytest.mark.parametrize("seed", SEEDS)
def test_numbers_are_pythons(seed):
    stream, theirs = python_stream(seed), random.Random(seed)
    assert [next_double(stream) for _ in range(DRAWS)] == [theirs.random() for _ in range(DRAWS)]


@pytest.mark.parametrize("seed", SEEDS)
def test_numbers_are_numpys(seed):
    stream, theirs = numpy_stream(seed), np.random.RandomState(seed & 0xFFFFFFFF)
    assert [next_double(stream) for _ in range(DRAWS)] == theirs.random_sample(DRAWS).tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_numbers_are_torchs(seed):
    stream, theirs = numpy_stream(seed), torch.Generator()
    theirs.manual_seed(seed)
    for number in range(DRAWS):
        count = 2 + number % 40
        assert next_below(stream, count) == torch.randint(0, count, (1,), generator=theirs).item()
        assert next_half(stream) == (torch.rand(1, generator=theirs).item() < 0.5)
