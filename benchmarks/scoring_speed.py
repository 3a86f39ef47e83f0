"""CPU seconds of scoring a pool (features and probabilities of the EMA network): as before, exact, fast, and fast and compiled.

Run by hand: OMP_NUM_THREADS=1 python benchmarks/scoring_speed.py [--samples 50000 --turns 3 --compile]. Random images of 32 pixels in
memory and `small_cnn`, in batches of 256; each way once a turn, in turns within one process. "as before" makes each image's view by
itself, and gives the network whole batches under `no_grad`; exact is compared with it to the bit. fast is `active.fast: fast`. Compiling
is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from usb_active.pool.compiled import compile_forward
from usb_active.pool.inference import PoolRows, collect, evaluating, pool_loader, predict
from usb_active.pool.memory_format import use_channels_last
from usb_active.usb.networks import small_cnn
from usb_active.usb.transforms import ImageViews

BATCH, SIDE = 256, 32
OUTPUTS = ("features", "probs")


class Pool:
    """Random images in memory."""

    collate = None

    def __init__(self, count: int):
        self.views = ImageViews(SIDE, 0.875, [0.5] * 3, [0.25] * 3)
        self.images = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)

    def load(self, index: int) -> np.ndarray:
        return self.images[index]


class OneByOne(PoolRows):
    """Rows whose views are made one by one, as they were."""

    def __getitems__(self, batch: tuple[int, np.ndarray]) -> dict[str, torch.Tensor]:
        _, rows = batch
        idx = self.idx[rows]
        views = torch.stack([self.dataset.views.eval(self.dataset.load(int(i))) for i in idx])
        return {"idx": torch.from_numpy(idx), "x": torch.stack([views])}


def before(network: torch.nn.Module, rows: PoolRows) -> dict[str, np.ndarray]:
    """The former loop."""

    def stream() -> Any:
        for batch in pool_loader(OneByOne(**vars(rows)), BATCH, 0):
            with torch.no_grad(), evaluating(network):
                out = network(batch["x"].flatten(0, 1))
            logits = out["logits"].float()
            values = {"features": out["feat"].float(), "probs": torch.softmax(logits, dim=-1)}
            yield batch["idx"].numpy(), {name: value[None].numpy() for name, value in values.items()}

    return _collected(stream(), len(rows))


def now(network: torch.nn.Module, rows: PoolRows) -> dict[str, np.ndarray]:
    """As selections do."""
    return _collected(predict(network, rows, OUTPUTS, BATCH, 0, torch.device("cpu")), len(rows))


def _collected(stream: Any, size: int) -> dict[str, np.ndarray]:
    return collect(stream, size, lambda name, shape: np.empty(shape, dtype=np.float32))


Way = Callable[[PoolRows], dict[str, np.ndarray]]


def ways(width: int, compiled: bool) -> dict[str, Way]:
    """By name; each has a network of its own, of the same weights."""

    def network(fast: bool = False, compiled: bool = False) -> torch.nn.Module:
        torch.manual_seed(0)
        made = small_cnn(10, SIDE, 3, width)
        if fast:
            use_channels_last(made)
        if compiled:
            compile_forward(made)
        return made

    found = {"as before": partial(before, network()), "exact": partial(now, network()), "fast": partial(now, network(fast=True))}
    return {**found, "fast, compiled": partial(now, network(fast=True, compiled=True))} if compiled else found


def check(made: dict[str, dict[str, np.ndarray]]) -> None:
    """Exact is what it was, to the bit; the others are but for rounding."""
    for name, values in made.items():
        for output, expected in made["as before"].items():
            same = np.array_equal(values[output], expected) if name == "exact" else np.allclose(values[output], expected, atol=1e-4)
            assert same, (name, output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 32], help="channels of small_cnn's first convolution")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {args.samples} images\n")
    print("| width | way | CPU seconds | least | as before / this |\n|---|---|---|---|---|")
    for width in args.widths:
        found = ways(width, args.compile)
        some, rows = (PoolRows(Pool(count), np.arange(count), "eval", 1, 0, ("benchmark",)) for count in (3 * BATCH, args.samples))
        # Compiles whatever is compiled at the first use.
        check({name: way(some) for name, way in found.items()})
        seconds: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(args.turns):
            for name, way in found.items():
                began = time.process_time()
                way(rows)
                seconds[name].append(time.process_time() - began)
        for name, own in seconds.items():
            ratio = statistics.median(b / o for b, o in zip(seconds["as before"], own, strict=True))
            print(f"| {width} | {name} | {statistics.median(own):.2f} | {min(own):.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
