"""CPU milliseconds of the views of a batch: by USB's pipeline, by one sample at a time, by the batch in one compiled pass, on tensors.

Run by hand: OMP_NUM_THREADS=1 python benchmarks/views_speed.py [--samples 448 --turns 9]. A weak and a strong view of each sample; medians
over turns in one process, each way once a turn. "one by one, Pillow" are the views as they are where an installed Pillow disagrees with
the compiled operations; "on tensors" is `active.views_on: device` with images kept there, this CPU being the device. Before anything is
timed, all ways have been compared to the bit, but for "vectorized", which is the batch at once under `active.views: vectorized`. "draws"
and "draws, vectorized" are the drawing alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from semilearn.datasets.augmentation import RandAugment
from torch.utils.data import default_collate
from torchvision import transforms as T

from usb_active.images import kernels
from usb_active.pool.sampling import SeededRows
from usb_active.randomness import position_seed, seed_globals
from usb_active.usb import transforms
from usb_active.usb.batch_draws import Draw, draw_exact, draw_vectorized
from usb_active.usb.data import UNMADE, PoolStream
from usb_active.usb.device_views import DevicePool, DeviceViews
from usb_active.usb.transforms import ImageViews

SIZES = ((3, 32), (1, 28), (1, 8), (3, 96))
POSITION = (0, 1, "train_ulb", "views", 5)


class Pool:
    """Random images in memory."""

    collate = kept_pixels = None
    task = SimpleNamespace(num_outputs=10, target=int)

    def __init__(self, channels: int, side: int, count: int):
        self.views = ImageViews(side, 0.875, [0.5] * channels, [0.25] * channels, flip=channels == 3)
        shape = (count, side, side, 3) if channels == 3 else (count, side, side)
        self.images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> np.ndarray:
        return self.images[index]

    def path(self, index: int) -> None:
        return None


def usb_pipeline(pool: Pool) -> Callable[[], dict[str, torch.Tensor]]:
    """USB's Compose of its CIFAR; grey images by way of RGB."""
    views, channels = pool.views, pool.views.in_channels
    crop = [T.Resize(views.img_size), T.RandomCrop(views.img_size, padding=views.padding, padding_mode="reflect")]
    flip = [T.RandomHorizontalFlip()] if views.flip else []
    grey = [] if channels == 3 else [T.Lambda(lambda picture: picture.convert("L"))]
    colour = [] if channels == 3 else [T.Lambda(lambda picture: picture.convert("RGB"))]
    last = [T.ToTensor(), T.Normalize([0.5] * channels, [0.25] * channels)]
    weak, strong = T.Compose([*crop, *flip, *last]), T.Compose([*crop, *flip, *colour, RandAugment(3, 5), *grey, *last])

    def batch() -> dict[str, torch.Tensor]:
        seed_globals(*POSITION)
        rows = []
        for index in range(len(pool.images)):
            picture = Image.fromarray(pool.load(index))
            rows.append({"x_ulb_w": weak(picture), "x_ulb_s": strong(picture)})
        return default_collate(rows)

    return batch


def of_stream(pool: Pool, at_once: bool, pillow: bool = False, draw: Draw = draw_exact) -> Callable[[], dict[str, torch.Tensor]]:
    """The unlabelled stream of FixMatch, as a loader asks it."""
    stream = PoolStream("fixmatch", pool, np.arange(len(pool.images)), None, draw=draw)
    if not at_once:
        stream.plan = None
    rows, every = SeededRows(stream, *POSITION[:-1]), np.arange(len(pool.images))

    def batch() -> dict[str, torch.Tensor]:
        compiled = transforms.agree_with_pillow
        if pillow:
            transforms.agree_with_pillow = lambda: False
        try:
            made = rows.__getitems__((POSITION[-1], every))
        finally:
            transforms.agree_with_pillow = compiled
        return made.entries if at_once else default_collate(made)

    return batch


def on_tensors(pool: Pool) -> Callable[[], dict[str, torch.Tensor]]:
    """The same stream with its views made on the device."""
    device, every = torch.device("cpu"), np.arange(len(pool.images))
    stream, kept = PoolStream("fixmatch", pool, every, None), DevicePool.of(pool, every, device)
    stream.leaves_unmade, stream.kept = True, (kept.places, kept.sides)
    rows, views = SeededRows(stream, *POSITION[:-1]), DeviceViews(pool.views, device, kept)

    def batch() -> dict[str, torch.Tensor]:
        unmade = rows.__getitems__((POSITION[-1], every)).entries[UNMADE]
        return views.made(unmade, unmade.packed)

    return batch


def draws_alone(pool: Pool, draw: Draw) -> Callable[[], Any]:
    """What is drawn for a weak and a strong view of each sample."""
    side = pool.views.img_size + 2 * pool.views.padding
    return lambda: draw(position_seed(*POSITION), (kernels.WEAK, kernels.STRONG), [(side, side)] * len(pool), pool.views)


def milliseconds(ways: dict[str, Callable[[], Any]], turns: int) -> dict[str, list[float]]:
    """Of each way the CPU time of every turn."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            began = time.process_time()
            way()
            found[name].append(1000 * (time.process_time() - began))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=448)
    parser.add_argument("--turns", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    assert position_seed(*POSITION) >= 2**32, "a seed that all three generators take whole would show less"
    for channels, side in SIZES:
        pool = Pool(channels, side, args.samples)
        ways = {
            "USB's pipeline": usb_pipeline(pool), "one by one, Pillow": of_stream(pool, False, pillow=True),
            "one by one": of_stream(pool, False), "the batch at once": of_stream(pool, True), "on tensors": on_tensors(pool),
        }  # fmt: skip
        made = [way() for way in ways.values()]
        assert all(torch.equal(made[0][name], other[name]) for other in made[1:] for name in ("x_ulb_w", "x_ulb_s"))
        ways |= {
            "vectorized": of_stream(pool, True, draw=draw_vectorized), "draws": draws_alone(pool, draw_exact),
            "draws, vectorized": draws_alone(pool, draw_vectorized),
        }  # fmt: skip
        found = milliseconds(ways, args.turns)
        usb = statistics.median(found["USB's pipeline"])
        for name, values in found.items():
            median, least = statistics.median(values), min(values)
            shape, ratio = f"{channels}×{side}×{side}", usb / median
            print(f"{shape}  {name:18s} {median:7.1f} ms (least {least:.1f}), USB's / this {ratio:5.1f}", flush=True)


if __name__ == "__main__":
    main()
