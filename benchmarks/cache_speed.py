"""CPU milliseconds of the views of a batch from image files, with and without `active.cache_images`.

Run by hand: OMP_NUM_THREADS=1 python benchmarks/cache_speed.py [--samples 448 --turns 9]. A weak and a strong view of each sample of
FixMatch's unlabelled stream, as a loader asks it: JPEG files of 32 × 32 pixels, and of 224 × 224 resized to 64. Medians over turns in one
process, each way once a turn; files are in the system's cache. Before anything is timed, both ways have been compared to the bit.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from views_speed import milliseconds

from usb_active.builtin.image_folder import ImageFolder
from usb_active.contracts.dataset import DatasetOptions
from usb_active.pool.image_cache import ImageCache
from usb_active.pool.sampling import SeededRows
from usb_active.usb.data import PoolStream

# Side of the files, side of the views.
SIZES = ((32, 32), (224, 64))


def write_photos(root: Path, side: int, count: int) -> None:
    """JPEG files of smooth colours with some noise, which take as many bytes as photographs do."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(30, 226, (5, 5, 3), dtype=np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
        pixels = np.clip(np.asarray(coarse) + rng.normal(0, 6, (side, side, 3)), 0, 255).astype(np.uint8)
        path = root / "train" / "ab"[number % 2] / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)


def batch_of(root: Path, side: int) -> tuple[ImageFolder, Callable[[], dict[str, torch.Tensor]]]:
    """A pool, and what makes a batch of all its samples."""
    dataset = ImageFolder(ImageFolder.Config(verify=False), DatasetOptions(root, img_size=side))
    every = np.arange(len(dataset))
    rows = SeededRows(PoolStream("fixmatch", dataset, every, None), 0, 1, "train_ulb", "views")
    return dataset, lambda: rows.__getitems__((5, every)).entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=448)
    parser.add_argument("--turns", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for files, side in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write_photos(root, files, args.samples)
            (_, from_files), (dataset, kept) = batch_of(root, side), batch_of(root, side)
            began = time.process_time()
            cache = ImageCache(dataset, root / "run", True)
            cache.fill()
            filling = 1000 * (time.process_time() - began)
            one, other = from_files(), kept()
            assert all(torch.equal(one[name], other[name]) for name in ("x_ulb_w", "x_ulb_s"))
            ways: dict[str, Callable] = {"from files": from_files, "cache_images": kept}
            found = milliseconds(ways, args.turns)
            cache.close()
        before = statistics.median(found["from files"])
        for name, values in found.items():
            median = statistics.median(values)
            shape, ratio = f"files of {files} px, views of {side} px", before / median
            print(f"{shape}  {name:12s} {median:7.1f} ms (least {min(values):.1f}), from files / this {ratio:5.1f}", flush=True)
        print(f"files of {files} px: decoding all of them once took {filling:.0f} ms", flush=True)


if __name__ == "__main__":
    main()
