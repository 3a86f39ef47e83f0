"""Randomness that depends on position in the run, never on the history of the process."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


def position_words(seed: int, *position: int | str) -> list[int]:
    """The position as 32-bit words: integers as they are, names by their CRC, so that it is the same on every machine."""
    return [seed & 0xFFFFFFFF, *(zlib.crc32(p.encode()) if isinstance(p, str) else int(p) & 0xFFFFFFFF for p in position)]


def generator(seed: int, *position: int | str) -> np.random.Generator:
    """A numpy generator that depends on nothing but (seed, position)."""
    return np.random.default_rng(np.random.SeedSequence(position_words(seed, *position)))


def position_seed(seed: int, *position: int | str) -> int:
    """A 63-bit seed that depends on nothing but (seed, position)."""
    low, high = np.random.SeedSequence(position_words(seed, *position)).generate_state(2)
    return (int(high) << 31) ^ int(low)


def seed_globals(seed: int, *position: int | str) -> None:
    """Seed python's, numpy's and torch's global generators (CUDA's too): augmentation and dropout draw from them."""
    import torch

    value = position_seed(seed, *position)
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    torch.manual_seed(value)


@contextmanager
def global_generators_kept() -> Iterator[None]:
    """Whatever happens inside, python's, numpy's and torch's global generators are afterwards as before."""
    import torch

    python, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@contextmanager
def seeded_globals(seed: int, *position: int | str) -> Iterator[None]:
    """Global generators seeded by position inside, and as before afterwards."""
    with global_generators_kept():
        seed_globals(seed, *position)
        yield


