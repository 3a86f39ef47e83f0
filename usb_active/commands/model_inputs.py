"""What a run's model takes, from its directory alone: for images that are no part of its data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from usb_active.config.settings import RunConfig
from usb_active.contracts.dataset import Dataset, ImageDataset
from usb_active.contracts.task import Task
from usb_active.images.given import as_sample
from usb_active.images.reading import AS_USUAL, Reading
from usb_active.loop.setup import build_dataset, take_pinned
from usb_active.storage.run_dir import RunDir
from usb_active.storage.run_format import run_format
from usb_active.storage.schemas import read_dataset

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ModelInputs:
    """Size and channels of the images, what comes out, how files are read, and the views (only `eval` is meant)."""

    img_size: int
    in_channels: int
    task: Task
    reading: Reading
    views: Any
    collate: Any = None

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
    task = cls.task_of(config.dataset.config, tuple(pinned["class_names"]))
    return ModelInputs(pinned["img_size"], pinned["in_channels"], task, reading, views)


def inputs_of(dataset: Dataset, reading: Reading = AS_USUAL) -> ModelInputs:
    """The same, of a data set that is there."""
    return ModelInputs(dataset.img_size, dataset.in_channels, dataset.task, reading, dataset.views, dataset.collate)
