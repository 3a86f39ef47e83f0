"""What a run's model takes, from its directory alone: for images that are no part of its data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from usb_active.config.settings import RunConfig
from usb_active.contracts.dataset import Dataset, ImageDataset
from usb_active.contracts.plugin import overrides
from usb_active.contracts.task import Task
from usb_active.errors import UsageError
from usb_active.images.given import as_sample
from usb_active.images.reading import AS_USUAL, Reading
from usb_active.loop.setup import build_dataset, make, take_pinned
from usb_active.storage.artifacts import check_array, load_array
from usb_active.storage.classes import trained_names, with_added
from usb_active.storage.run_dir import RunDir
from usb_active.storage.run_format import run_format
from usb_active.storage.schemas import read_dataset

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ModelInputs:
    """Size and channels of the images, what comes out, how files are read, and the views (only `eval` is meant).

    Attributes:
        width: D where the run's network was trained on features (B, D); None: on images.
        of_images: that network → one of the images in their `eval` view; None: it takes features alone.
    """

    img_size: int
    in_channels: int
    task: Task
    reading: Reading
    views: Any
    collate: Any = None
    width: int | None = None
    of_images: Callable[[Any], Any] | None = None

    def transform(self, image: Any) -> torch.Tensor:
        """The `eval` view of one image: a path, a PIL image or an array of uint8. UsageError where it is none, or not readable."""
        return self.views.eval(as_sample(image, self.in_channels, self.reading))


def model_inputs(run: RunDir, config: RunConfig) -> ModelInputs:
    """As the run began with them; its data set is asked only where it has views of its own, or version 0.1.0 made the run.

    Raises:
        UsageError: the data set has to be asked, and is not there.
    """
    cls, pinned = config.dataset.cls, read_dataset(run) or {}
    images = issubclass(cls, ImageDataset)
    number = run_format(run)
    reading = cls.reading(config.dataset.config, number) if images else Reading.of_run(number)
    known = (pinned["mean"], pinned["std"]) if "mean" in pinned and "std" in pinned else None
    if known is None and images:
        known = cls.normalization(config.dataset.config)
    if known is None or not {"img_size", "in_channels", "class_names"} <= pinned.keys():
        dataset = build_dataset(config, run)
        take_pinned(run, dataset)
        return inputs_of(dataset, reading)
    # Imported late: it takes seconds.
    from usb_active.usb.transforms import ImageViews

    views = ImageViews(pinned["img_size"], config.usb["crop_ratio"], *known, strong=False)
    task = cls.task_of(config.dataset.config, with_added(run, pinned["class_names"]))
    return ModelInputs(pinned["img_size"], pinned["in_channels"], task, reading, views)


def of_cycle(inputs: ModelInputs, run: RunDir, config: RunConfig, checkpoint: Path) -> ModelInputs:
    """The same with the classes that the model of a checkpoint knows: some may have been added since."""
    names = trained_names(run, int(checkpoint.parent.name.removeprefix("cycle_"))) if inputs.task.class_names else None
    if names is None or names == tuple(inputs.task.class_names):
        return inputs
    return replace(inputs, task=config.dataset.cls.task_of(config.dataset.config, names))


def inputs_of(dataset: Dataset, reading: Reading = AS_USUAL) -> ModelInputs:
    """The same, of a data set that is there."""
    return ModelInputs(dataset.img_size, dataset.in_channels, dataset.task, reading, dataset.views, dataset.collate)


def with_encoder(run: RunDir, config: RunConfig, inputs: ModelInputs) -> ModelInputs:
    """The same for a run whose network was trained on features: `eval` is what their encoder takes.

    Raises:
        UsageError: features that cannot be made of other images, as those of a table on disk; their mean is gone.
    """
    if config.active.train_on == "images":
        return inputs
    # Imported late: they take seconds.
    import torch

    from usb_active.pool.feature_networks import OnFeatures
    from usb_active.usb.device import pick_device

    source = make(config.active.features)
    encoder = source.encoder(inputs, pick_device(config.usb["gpu"])) if overrides(source, "encoder") else None
    if encoder is None:
        raise UsageError(f"{run.path}: its network was trained on features of '{source.name}', which cannot be made of other images")
    width = source.width(inputs)
    mean = torch.from_numpy(np.array(features_mean(run, width)))
    views = SimpleNamespace(eval=encoder.transform)
    return replace(inputs, views=views, collate=None, width=width, of_images=lambda network: OnFeatures(encoder, mean, network))


def features_mean(run: RunDir, width: int) -> np.ndarray:
    """(D,) what a run that is trained on features subtracts from them."""
    path = run.path / "artifacts" / "inputs_mean.npy"
    return check_array(path, load_array(path), "f", (width,), "restore it from a copy")
