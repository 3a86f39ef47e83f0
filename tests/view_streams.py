"""Streams of a pool of random images in memory, for tests of their views."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from usb_active.usb.batch_draws import draw_exact
from usb_active.usb.data import PoolStream
from usb_active.usb.transforms import ImageViews


class Images:
    """A data set of random images in memory."""

    name, collate, kept_pixels, loads_in_threads = "images", None, None, True
    task = SimpleNamespace(num_outputs=10, target=int)

    def __init__(self, side: int = 12, channels: int = 3, sizes: tuple[tuple[int, int], ...] = ((12, 12),), **keys):
        self.views = ImageViews(side, 0.875, [0.4] * channels, [0.3] * channels, **keys)
        rng, tail = np.random.default_rng(side), (3,) if channels == 3 else ()
        self.images = [rng.integers(0, 256, (*sizes[i % len(sizes)], *tail), dtype=np.uint8) for i in range(40)]

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int):
        return self.images[index]

    def path(self, index: int) -> None:
        return None


def stream_of(dataset, algorithm: str = "fixmatch", labeled: bool = False, declared=None, draw=draw_exact) -> PoolStream:
    idx = np.arange(3, 40)
    return PoolStream(algorithm, dataset, idx, idx % 10 if labeled else None, declared, draw)
