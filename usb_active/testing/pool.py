"""A pool that is real and small, for the suites: made images of three classes, sorted by class, a network, samples in every state."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from usb_active.contracts.dataset import Dataset
from usb_active.pool.pool import Pool
from usb_active.pool.view import PoolView, ViewSource
from usb_active.usb.networks import small_cnn

CLASSES, PER_CLASS, SIZE = 3, 20, 8


class Blobs(Dataset):
    """Images (N, 8, 8) given as an array, one blob of noise around a pattern for each class, sorted by class."""

    name = "blobs"

    def __init__(self, images: np.ndarray, targets: np.ndarray, queryable: np.ndarray | None = None):
        self.images, self.targets = images, targets
        self.queryable = np.ones(len(targets), dtype=bool) if queryable is None else queryable
        super().__init__()

    def prepare(self) -> None:
        self.keys = [f"blobs/{i:03d}" for i in range(len(self.targets))]
        self.class_names = tuple(f"class {i}" for i in range(CLASSES))
        self.img_size, self.in_channels = SIZE, 1
        self.views = SimpleNamespace(eval=_tensor, weak=_noisy, strong=_noisy)

    def load(self, index: int) -> np.ndarray:
        return self.images[index]


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image)[None]


def _noisy(image: np.ndarray) -> torch.Tensor:
    return _tensor(image) + 0.1 * torch.randn(1, SIZE, SIZE)


def made_images(seed: int = 0) -> np.ndarray:
    """(60, 8, 8) float32: 20 images of each class."""
    rng = np.random.default_rng(seed)
    patterns = 2 * rng.standard_normal((CLASSES, 1, SIZE, SIZE))
    noise = rng.standard_normal((CLASSES, PER_CLASS, SIZE, SIZE))
    return (patterns + noise).reshape(-1, SIZE, SIZE).astype(np.float32)


class Pictures(Dataset):
    """Thirty images (8, 8) uint8, ten of each class, sorted by class; every class has its own brightness."""

    name = "pictures"

    def prepare(self) -> None:
        rng = np.random.default_rng(0)
        self.targets = np.arange(30) // 10
        self.images = (rng.integers(0, 120, (30, SIZE, SIZE)) + 60 * self.targets[:, None, None]).astype(np.uint8)
        self.keys = [f"pictures/{i:03d}" for i in range(30)]
        self.queryable = np.ones(30, dtype=bool)
        self.class_names = tuple(f"class {i}" for i in range(CLASSES))
        self.img_size, self.in_channels = SIZE, 1
        self.views = SimpleNamespace(eval=_scaled, weak=_scaled_noisy, strong=_scaled_noisy)

    def load(self, index: int) -> np.ndarray:
        return self.images[index]


def _scaled(image: Any) -> torch.Tensor:
    # An array, or a PIL image that a pretrainer has cropped.
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 128 - 1)[None]


def _scaled_noisy(image: Any) -> torch.Tensor:
    return _scaled(image) + 0.1 * torch.randn(1, SIZE, SIZE)


class World:
    """A pool in the middle of a run; of every class 15 candidates, 2 labelled, 1 skipped, 1 pending and 1 not queryable.

    Args:
        order: (60,) the samples stand in this order instead of that of their classes.
        fresh: nothing has happened yet: no label, no trained model.
    """

    def __init__(self, folder: Path, images: np.ndarray | None = None, order: np.ndarray | None = None, fresh: bool = False):
        order = np.arange(CLASSES * PER_CLASS) if order is None else order
        self.images = (made_images() if images is None else images)[order]
        number, targets = order % PER_CLASS, order // PER_CLASS
        self.dataset = Blobs(self.images, targets, queryable=number != 7)
        self.pool = Pool(self.dataset.queryable)
        if not fresh:
            labeled = np.flatnonzero((number == 0) | (number == 11))
            self.pool.set_labels(labeled, targets[labeled], 0)
            self.pool.skip(np.flatnonzero(number == 3))
            self.pool.set_pending(np.flatnonzero(number == 15))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            # A network whose predictions differ between samples, as a trained one's do.
            self.net = small_cnn(CLASSES, SIZE, 1, width=4)
            self.net.classifier.weight.data.mul_(4)
        self.fresh, self.folder = fresh, folder
        # Of the view; and (60, D) that a pretrainer has left.
        self.batch_size = 32
        self.pretrained: np.ndarray | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """All that belongs to the pool, and may be changed by the core alone."""
        pool = self.pool
        return {
            "dataset.targets": self.dataset.targets, "dataset.queryable": self.dataset.queryable, "images": self.images,
            "pool.labels": pool.labels, "pool.pending": pool.pending, "pool.skipped": pool.skipped,
        }  # fmt: skip

    def source(self, seed: int) -> ViewSource:
        return ViewSource(
            dataset=self.dataset, pool=self.pool, run_path=self.folder, seed=seed, device=torch.device("cpu"),
            model=lambda: None if self.fresh else self.net, batch_size=self.batch_size, num_workers=0, simulated=True,
            pretrained_features=lambda: self.pretrained,
        )  # fmt: skip

    def view(self, needs: Iterable[str], features: Any = None, *, cycle: int = 1, seed: int = 0, role: str = "acquisition") -> PoolView:
        view = PoolView(self.source(seed), cycle, role, frozenset(needs), features)
        view.prepare()
        return view
