"""Training on features instead of images: the pool as vectors, with views of our own in feature space."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from usb_active.contracts.dataset import Dataset, Samples
from usb_active.errors import UsageError
from usb_active.storage.artifacts import load_array

if TYPE_CHECKING:
    import torch

# Shares of the features that the weak and the strong view leave out (docs/features.md).
WEAK_DROPOUT, STRONG_DROPOUT = 0.1, 0.5
# The length of a normalised vector: small enough for the learning rates that fit networks on images.
LENGTH = 10.0


class FeatureInputs(Dataset):
    """The samples of another data set as their features: what a network is trained on under `active.train_on: features`.

    Keys, labels and classes are the other's. A sample is a vector (D,), which its views centre and scale; a network sees `in_channels` = D
    of images that are one pixel in size.

    Args:
        images: the data set itself, which is still what people are shown.
        width: D.
        make: makes the features (N, D) of the pool as it is now, (T, D) of its test samples or None, and the mean (D,) of those that the
            run began with; asked when the first sample is, and again when the pool has grown.
    """

    kind = "inputs"

    def __init__(self, images: Dataset, width: int, make: Callable[[], tuple[np.ndarray, np.ndarray | None, np.ndarray]] | None = None):
        self.images, self.name = images, images.name
        self.img_size, self.in_channels = 1, width
        self.make = make
        self.views = FeatureViews()
        self._pool: np.ndarray | None = None
        self._test: np.ndarray | None = None

    # What the other has, at this moment: its pool may grow.
    keys = property(lambda self: self.images.keys)
    targets = property(lambda self: self.images.targets)
    queryable = property(lambda self: self.images.queryable)
    class_names = property(lambda self: self.images.class_names)
    task = property(lambda self: self.images.task)

    @property
    def test(self) -> Samples | None:
        """The other's test samples, as features."""
        test = self.images.test
        return None if test is None else Samples(self._load_test, test.targets)

    def load(self, index: int) -> torch.Tensor:
        """(D,) float32, not scaled."""
        self.need()
        return _row(self._pool, index)

    def _load_test(self, row: int) -> torch.Tensor:
        self.need()
        return _row(self._test, row)

    def path(self, index: int) -> Path | None:
        return self.images.path(index)

    def need(self) -> None:
        """Have the features of all samples that there are now. UsageError where that cannot be."""
        if self._pool is not None and len(self._pool) == len(self.images):
            return
        if self.make is None:
            raise UsageError("active.train_on: features: there are none yet")
        self._pool, self._test, mean = self.make()
        if self._pool.shape != (len(self.images), self.in_channels):
            expected = (len(self.images), self.in_channels)
            raise UsageError(f"active.train_on: features: expected features of shape {expected}, got {self._pool.shape}")
        self.views.center(mean)

    def __getstate__(self) -> dict[str, Any]:
        # For a process that loads: what makes features stays here, and what is mapped is mapped there again.
        self.need()
        return {**vars(self), "make": None, "_pool": _as_path(self._pool), "_test": _as_path(self._test)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._pool, self._test = _mapped(self._pool), _mapped(self._test)


class FeatureViews:
    """Views of a vector of features: centred by the pool's mean and scaled to one length, then with some of it left out.

    Ours: papers define views of images alone. Dropout takes the place of augmentation: each entry is zero with a probability of
    `weak_dropout` or `strong_dropout`, the others are scaled up by as much. Draws come from torch's global generator, as those of images.

    They can be handed on before there are features; `center` is called before they are looked through.
    """

    def __init__(self, weak_dropout: float = WEAK_DROPOUT, strong_dropout: float = STRONG_DROPOUT):
        self._weak, self._strong = weak_dropout, strong_dropout
        self._mean: torch.Tensor | None = None

    def center(self, mean: np.ndarray) -> None:
        """Take the mean (D,) of the pool that the run began with."""
        import torch

        self._mean = torch.from_numpy(np.array(mean, dtype=np.float32))

    def eval(self, features: torch.Tensor) -> torch.Tensor:
        """(D,) of length `LENGTH`; zero for the mean itself."""
        return centered(features, self._mean)

    def weak(self, features: torch.Tensor) -> torch.Tensor:
        """(D,), little of it left out."""
        return _dropped(self.eval(features), self._weak)

    def strong(self, features: torch.Tensor) -> torch.Tensor:
        """(D,), much of it left out."""
        return _dropped(self.eval(features), self._strong)


def centered(features: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """(…, D), without the mean (D,), and scaled to `LENGTH`."""
    import torch

    return torch.nn.functional.normalize(features - mean, dim=-1).mul_(LENGTH)


def _dropped(features: torch.Tensor, share: float) -> torch.Tensor:
    import torch

    return torch.nn.functional.dropout(features, share)


def _row(array: np.ndarray, index: int) -> torch.Tensor:
    import torch

    # A tensor: USB's rows and ours would take an array for an image. Copied: what is mapped cannot be written.
    return torch.from_numpy(np.array(array[index], dtype=np.float32))


def _as_path(array: np.ndarray | None) -> np.ndarray | Path | None:
    filename = getattr(array, "filename", None)
    return array if filename is None else Path(filename)


def _mapped(found: np.ndarray | Path | None) -> np.ndarray | None:
    return load_array(found) if isinstance(found, Path) else found
