"""The contract of a source of features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np
from pydantic import ValidationError

from usb_active.contracts.plugin import Plugin, optional
from usb_active.contracts.registry import REGISTRY
from usb_active.errors import UsageError

if TYPE_CHECKING:
    import torch

    from usb_active.pool.view import PoolView


class ImageKind(Protocol):
    """What is to be known of images before there is one: a data set has all of it, and so has a run that predicts others."""

    img_size: int
    in_channels: int
    views: Any


@dataclass(frozen=True)
class Encoder:
    """How features are made of images, whether they are of the pool or not.

    Attributes:
        transform: an undecorated sample to a tensor (channels, height, width), nothing random; it is sent to the processes that load.
        encode: a batch (B, channels, height, width) on the device to features (B, D), without gradients.
        batch_size: images at a time.
    """

    transform: Callable[[Any], torch.Tensor]
    encode: Callable[[torch.Tensor], torch.Tensor]
    batch_size: int


class Kept(NamedTuple):
    """Features on disk: an array (N, D), and what a report calls it ("features of resnet18")."""

    path: Path
    title: str


class Features(Plugin):
    """Where `view.features` come from."""

    kind: ClassVar[str] = "features"
    # True when the features are those of the task model: they are made again at every query, and there are none before the first training.
    follows_model: bool = False
    # True when they come from the run's pretrainer: a run without one is refused.
    from_pretraining: bool = False

    def get(self, view: PoolView) -> np.ndarray:
        """(N, D) float32, one row per sample of the pool, in dataset order."""
        raise NotImplementedError(f"{type(self).__name__}.get")

    @optional
    def kept(self, run_path: Path, num_samples: int) -> Kept | None:
        """Where a run that has used them keeps them; a report draws its map of the pool from them.

        Args:
            run_path: the run's folder.
            num_samples: the size of the pool.

        Returns:
            The place, or None where there is none. The map then takes what pretraining left, or the pixels.
        """

    @optional
    def kept_test(self, run_path: Path) -> Path | None:
        """Where a run that was trained on these features keeps those of its test samples, (T, D); None where there are none."""

    @optional
    def width(self, images: ImageKind) -> int:
        """D, before any features are there: what a network that is trained on them (`active.train_on: features`) is built for."""

    @optional
    def test(self, view: PoolView) -> np.ndarray:
        """(T, D) float32 of the data set's test samples, in their order; asked only where there are some."""

    @optional
    def encoder(self, images: ImageKind, device: torch.device) -> Encoder | None:
        """How to make the same features of images that are not in the pool; None where there is no way, as for a table on disk."""


def independent_sources() -> str:
    """Names of the sources that need no task model, for a message: "a, b or c"."""
    names = [name for name in REGISTRY.names("features") if not _follows_model(name)]
    return " or ".join(part for part in (", ".join(names[:-1]), names[-1] if names else "") if part)


def _follows_model(name: str) -> bool:
    try:
        return REGISTRY.get("features", name).follows_model
    except UsageError:
        return True  # it does not import: nothing to recommend


def source_of(block: Any, where: str) -> Features | None:
    """The source that a finished run's configuration names under `features`; None where it is of a plugin that is not at hand.

    Raises:
        UsageError: keys that the source does not take.
    """
    if not isinstance(block, dict) or block.get("name") not in REGISTRY.names("features"):
        return None
    cls = REGISTRY.get("features", block["name"])
    try:
        config = cls.Config.model_validate({key: value for key, value in block.items() if key != "name"})
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"])) or block["name"]
        raise UsageError(f"{where}: features: '{block['name']}': {key}: {error.errors()[0]['msg']}") from None
    return cls(config)
