"""Time of a step of active algorithms against USB's with nothing but the device mixin; the first step.

Run by hand: `OMP_NUM_THREADS=1 python benchmarks/training_overhead.py`. All train on the same 50,000 random images with as many workers, in
turns within one process; each figure is the median over the turns, of CPU time where there are no workers. "exact" is the default,
"vectorized" is that but for `active.views: vectorized`, "fast" is `active.fast: fast`, "weak apart" is that and
`weak_no_grad: true`, "bfloat16" is `fast` and `amp: true`; "compiled" is `fast` and `compile: true`; each of the three with "alone" is
without `fast`; "with ASSL" is exact, with an acquisition that looks at every step. Those with "alone", "compiled" and "bfloat16" are left
out unless they are asked for: some compile for half a minute or more first, others are imitated on many processors. The start is measured
in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from usb_active.contracts.dataset import ImageDataset, Samples
from usb_active.contracts.registry import REGISTRY

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
POOL, NUM_LABELS = 50_000, 40


# What the active block says beyond its first labels.
VARIANTS: dict[str, dict[str, Any]] = {
    "exact": {"cycles": 0},
    "vectorized": {"cycles": 0, "views": "vectorized"},
    "fast": {"cycles": 0, "fast": "fast"},
    "weak apart": {"cycles": 0, "fast": "fast", "weak_no_grad": True},
    "weak apart alone": {"cycles": 0, "weak_no_grad": True},
    "bfloat16": {"cycles": 0, "fast": "fast"},
    "bfloat16 alone": {"cycles": 0},
    "compiled": {"cycles": 0, "fast": "fast", "compile": True},
    "compiled alone": {"cycles": 0, "compile": True},
    "with ASSL": {"acquisition": "assl", "cycles": 1, "budget": 10},
}
ASKED_FOR = ("compiled", "bfloat16", "weak apart alone", "bfloat16 alone", "compiled alone")


class RandomImages(ImageDataset):
    """50,000 images of 32x32 random pixels in 10 classes."""

    mean, std = MEAN, STD
    img_size, in_channels = 32, 3
    class_names = tuple(str(c) for c in range(10))

    def prepare(self) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (POOL, 32, 32, 3), dtype=np.uint8)
        self.targets = rng.integers(0, 10, POOL)
        self.keys = [f"train/{i:05d}" for i in range(POOL)]
        self.queryable = np.ones(POOL, dtype=bool)
        self.test = Samples(lambda i: self.images[i], self.targets[:100])

    def load(self, index: int) -> np.ndarray:
        return self.images[index]


def configuration(
    folder: str,
    batch_size: int,
    uratio: int,
    workers: int,
    steps: int,
    algorithm: str = "flexmatch",
    variant: str = "exact",
    width: int = 8,
) -> dict[str, Any]:
    """A tiny network, unless `width` says otherwise, so that what surrounds it shows; `variant`: of VARIANTS."""
    block = VARIANTS[variant]
    return {
        "algorithm": algorithm, "dataset": "random_images", "net": {"name": "small_cnn", "width": width}, "save_dir": folder,
        "save_name": variant.replace(" ", "_"), "num_train_iter": steps, "epoch": 1, "num_eval_iter": steps, "num_log_iter": steps,
        "batch_size": batch_size, "uratio": uratio, "num_workers": workers, "p_cutoff": 0.3, "seed": 0,
        "amp": variant.startswith("bfloat16"), "active": {"initial": {"name": "random", "size": NUM_LABELS}, **block},
    }  # fmt: skip


def active(data: dict[str, Any]) -> Any:
    """The active algorithm, ready to train its first cycle."""
    from usb_active.config.settings import config_from_dict
    from usb_active.pool.split import Split
    from usb_active.usb.launcher import make_algorithm

    algorithm = make_algorithm(config_from_dict(data, base=Path.cwd(), source="benchmark"))
    idx, none = np.arange(NUM_LABELS), np.empty(0, dtype=np.int64)
    dataset = algorithm.session.dataset
    algorithm.prepare(0, Split(idx, dataset.targets[idx], np.arange(len(dataset)), none, none))
    algorithm.session.close()
    return algorithm


def plain(data: dict[str, Any]) -> Any:
    """USB's own: its samplers, loaders, dataset class, transforms and hooks, on whatever device there is."""
    from semilearn.core.utils import ALGORITHMS, get_net_builder
    from semilearn.datasets.augmentation import RandAugment
    from semilearn.datasets.cv_datasets.datasetbase import BasicDataset
    from torchvision import transforms as T

    from usb_active.config.settings import config_from_dict
    from usb_active.usb.arguments import make_args
    from usb_active.usb.device import DeviceMixin
    from usb_active.usb.networks import small_cnn

    images = RandomImages()
    crop = [T.Resize(32), T.RandomCrop(32, padding=4, padding_mode="reflect"), T.RandomHorizontalFlip()]
    tensor = [T.ToTensor(), T.Normalize(MEAN, STD)]
    weak, strong, fixed = T.Compose(crop + tensor), T.Compose([*crop, RandAugment(3, 5), *tensor]), T.Compose(tensor)

    class Plain(DeviceMixin, ALGORITHMS[data["algorithm"]]):
        def set_dataset(self) -> dict[str, Any]:
            few = images.images[:NUM_LABELS], images.targets[:NUM_LABELS]
            self.args.lb_dest_len, self.args.ulb_dest_len = NUM_LABELS, POOL
            return {
                "train_lb": BasicDataset("flexmatch", *few, 10, weak, False, strong),
                "train_ulb": BasicDataset("flexmatch", images.images, images.targets, 10, weak, True, strong),
                "eval": BasicDataset("flexmatch", *few, 10, fixed, False, None),
                "test": None,
            }

    args = make_args(config_from_dict(data, base=Path.cwd(), source="benchmark"))
    args.num_classes, args.img_size = 10, 32
    net = data["net"]
    builder = lambda num_classes, **_: small_cnn(num_classes, 32, 3, net["width"])  # noqa: E731 — USB calls it with keys of its own
    algorithm = Plain(args, get_net_builder(net, False) if isinstance(net, str) else builder)
    algorithm.place_networks()
    return algorithm


def steps(algorithm: Any, mark: Callable[[str], None] = lambda phase: None) -> Iterator[None]:
    """USB's training loop, a step at a time; `mark` is called at the end of each of its phases."""
    algorithm.model.train()
    algorithm.epoch = 0
    algorithm.call_hook("before_run")
    algorithm.call_hook("before_train_epoch")
    for lb, ulb in zip(algorithm.loader_dict["train_lb"], algorithm.loader_dict["train_ulb"]):  # noqa: B905 — as USB does
        algorithm.call_hook("before_train_step")
        inputs = algorithm.process_batch(**lb, **ulb)
        mark("views")
        algorithm.out_dict, algorithm.log_dict = algorithm.train_step(**inputs)
        mark("forward")
        algorithm.call_hook("after_train_step")
        mark("rest")
        algorithm.it += 1
        yield


def compare(
    algorithm: str, sizes: tuple[int, int], workers: int, turns: int, each: int, width: int, variants: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """By variant, and "usb": median milliseconds a step, and median speed against USB's, turn by turn."""
    clock = time.perf_counter if workers else time.process_time
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        # More steps than are run, so that neither evaluates or saves.
        length = 10 * turns * each
        of = {name: configuration(folder, *sizes, workers, length, algorithm, name, width) for name in variants}
        plain_data = configuration(folder, *sizes, workers, length, algorithm, width=width)
        runs = {"usb": steps(plain(plain_data)), **{name: steps(active(data)) for name, data in of.items()}}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for run in runs.values():
            _advance(run, each, clock)
        for turn in range(turns):
            for name in list(runs)[:: 1 if turn % 2 else -1]:
                times[name].append(_advance(runs[name], each, clock))
        for run in runs.values():
            run.close()
    return {
        name: (1000 * statistics.median(own), statistics.median(u / o for u, o in zip(times["usb"], own, strict=True)))
        for name, own in times.items()
    }


def _advance(run: Iterator[None], count: int, clock: Callable[[], float]) -> float:
    started = clock()
    for _ in range(count):
        next(run)
    return (clock() - started) / count


def first_step(which: str) -> dict[str, float]:
    """Seconds and megabytes from an imported USB to the end of the first step, at AS3L's length, in this process."""
    import semilearn  # noqa: F401 — not what is measured

    import usb_active.usb.launcher  # noqa: F401

    # Importing peaks higher than a small start: begin to measure the peak again (Linux).
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_mb()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        # One epoch of them all, of which USB's sampler makes one list.
        data = configuration(folder, 64, 7, 0, 112 * 1024)
        next(steps({"usb": plain, "active": active}[which](data)))
    return {"seconds": time.perf_counter() - started, "mb": _peak_mb() - before}


def _peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20, help="steps a turn")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--width", type=int, default=8, help="channels of the network's first convolution")
    parser.add_argument("--algorithms", nargs="+", default=["flexmatch", "fixmatch"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=[name for name in VARIANTS if name not in ASKED_FOR])
    parser.add_argument("--no-first-step", action="store_true", help="without the table of the first step")
    parser.add_argument("--first-step", choices=("usb", "active"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.first_step:
        print(json.dumps(first_step(args.first_step)))
        return
    import torch

    torch.set_num_threads(1)
    what = "ms" if args.workers else "CPU ms"
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {args.workers} workers, pool of {POOL}, small_cnn of width {args.width}\n")
    print(f"| algorithm | batch / uratio | USB, {what} a step |" + "".join(f" {name}, {what} | speed |" for name in args.variants))
    print("|---|---|---|" + "---|---|" * len(args.variants))
    for algorithm in args.algorithms:
        for sizes, each in (((16, 2), args.steps), ((64, 7), max(2, args.steps // 5))):
            found = compare(algorithm, sizes, args.workers, args.turns, each, args.width, args.variants)
            ours = " | ".join(f"{found[name][0]:.1f} | {found[name][1]:.2f}" for name in args.variants)
            print(f"| {algorithm} | {sizes[0]} / {sizes[1]} | {found['usb'][0]:.1f} | {ours} |", flush=True)
    if args.no_first_step:
        return
    print("\n| until the first of 112 x 1,024 steps | seconds | MB |\n|---|---|---|")
    for which in ("usb", "active"):
        result = subprocess.run([sys.executable, __file__, "--first-step", which], check=True, capture_output=True, text=True)
        found = json.loads(result.stdout.splitlines()[-1])
        print(f"| {which} | {found['seconds']:.1f} | {found['mb']:.0f} |", flush=True)


REGISTRY.add("dataset", "random_images", RandomImages)

if __name__ == "__main__":
    main()
