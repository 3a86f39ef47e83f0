"""What a pool is made of: the contract of a dataset. Light to import: neither torch nor semilearn.

The package's own datasets are in `usb_active.builtin.array_datasets` and `usb_active.builtin.image_folder`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from usb_active.contracts.plugin import Plugin, PluginConfig
from usb_active.contracts.task import Classification, Task
from usb_active.errors import UsageError, name_some
from usb_active.images.decoded import DecodedImages
from usb_active.images.reading import Reading
from usb_active.storage.run_format import CURRENT

# Operations of a strong view in all of USB's data sets.
RANDAUGMENT_N = 3


@dataclass(frozen=True)
class DatasetOptions:
    """USB's keys that concern the data, and the format of the run.

    Attributes:
        data_dir: the folder of the data.
        img_size: the side of a view; None: the data set's own.
        crop_ratio: as for `usb_active.usb.transforms`, in (0, 1].
        num_classes: how many classes the YAML says; None: as many as the data set has.
        run_format: see `usb_active.storage.run_format`.
    """

    data_dir: Path = Path("./data")
    img_size: int | None = None
    crop_ratio: float = 0.875
    num_classes: int | None = None
    run_format: int = CURRENT


@dataclass
class Samples:
    """A list of samples with targets: what evaluation needs.

    Attributes:
        load: index i → the undecorated sample i.
        targets: (N,) as a data set's.
        keys: (N,) a stable name of each, where they have one.
        path: index → the sample's own file; None where samples are not files.
        kept_pixels: the core's, under `active.cache_images`; see `sample_for_views`.
    """

    load: Callable[[int], Any]
    targets: np.ndarray
    keys: Sequence[str] | None = None
    path: Callable[[int], Path] | None = None
    kept_pixels: DecodedImages | None = None

    def __len__(self) -> int:
        return len(self.targets)


class Dataset(Plugin):
    """A pool. A subclass implements `prepare`, which sets the attributes, and `load`.

    Attributes:
        keys: (N,) a stable name of every sample (`train/00017`, a path under `data_dir`).
        targets: (N,) int64 labels, -1 where the label is unknown: class indices, or what `self.task.encode(text)` gave.
        queryable: (N,) bool: whether this sample can be queried.
        class_names: (C,) texts; files hold these, integers are used inside. None of them where labels are no classes.
        img_size: the side of a view.
        in_channels: the channels of a view.
        views: an object with the callables `weak`, `strong`, `eval`: undecorated sample → tensor. Made when
            first asked for, because making it may import torch and semilearn.
        test: held-out samples for evaluation, or None.
        test_digest: a checksum of the test set's keys where it is taken from the same images as the pool, else None. A run keeps it, and
            is refused when it changes: other images in the folder would make another test set.
        collate: a collate function for loaders, or None for torch's.
        kept_pixels: the core's, under `active.cache_images`; see `sample_for_views`.
        loads_in_threads: whether several threads may call `load`, and that of the test samples, at once: `active.cache_images` then does,
            and with `num_workers: 0` a thread makes the next batch. A subclass that replaces `load` says it again.
    """

    kind: ClassVar[str] = "dataset"
    loads_in_threads: ClassVar[bool] = False
    keys: Sequence[str]
    targets: np.ndarray
    queryable: np.ndarray
    class_names: tuple[str, ...] = ()
    img_size: int
    in_channels: int
    views: Any
    test: Samples | None = None
    test_digest: str | None = None
    collate: Callable | None = None
    kept_pixels: DecodedImages | None = None
    _task: Task | None = None

    def __init__(self, config: PluginConfig | None = None, options: DatasetOptions | None = None):
        super().__init__(config)
        self.options = options or DatasetOptions()
        self.prepare()
        self._check()

    def prepare(self) -> None:
        """Find the samples and set the attributes. Deterministic: the same files give the same order."""
        raise NotImplementedError(f"{type(self).__name__}.prepare")

    def load(self, index: int) -> Any:
        """The undecorated sample: a PIL image, or an (H, W) or (H, W, 3) uint8 array."""
        raise NotImplementedError(f"{type(self).__name__}.load")

    def path(self, index: int) -> Path | None:
        """The sample's own file, or None where samples are not files."""
        return None

    def verify(self, cache: Path | None = None) -> None:
        """Whatever can be wrong with the samples in use, before training starts; UsageError names them.

        Called at the start of a run and before each later query, when `align` may have grown the pool: what is known already should cost
        next to nothing.

        Args:
            cache: a file in which the dataset may remember what it found in order.
        """

    def remarks(self) -> list[str]:
        """What people should know of the samples that were found, or not taken: a line each, shown by `check` and at the start of a run."""
        return []

    def align(self, keys: Sequence[str], grow: bool) -> None:
        """Take an earlier run's order.

        May be called several times; what was left out earlier can come in later.

        Args:
            keys: of the earlier run; they come first.
            grow: new samples come at the end, else they are left out.

        Raises:
            UsageError: a key has vanished, or the dataset's kind cannot change its order.
        """
        if list(keys) != list(self.keys):
            differing = sorted(set(keys) ^ set(self.keys))
            what = name_some(differing) or "the same ones in another order"
            raise UsageError(f"dataset '{self.name}': the samples differ from those of the run: {what}")

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def task_of(cls, config: PluginConfig, class_names: Sequence[str]) -> Task:
        """What the labels of a data set with these keys are. A class of its own where they are no classes: see `usb_active.contracts.task`.

        Also asked without the samples: by `predict --data`, and by `labels` where a query names no classes.
        """
        return Classification(class_names)

    @property
    def task(self) -> Task:
        """What the labels are; one object for as long as the classes keep their names."""
        names = tuple(self.class_names)
        if self._task is None or self._task.class_names != names:
            self._task = self.task_of(self.config, names)
        return self._task

    @property
    def num_classes(self) -> int:
        """C. UsageError where labels are no classes."""
        if not self.class_names:
            raise UsageError(f"dataset '{self.name}': its labels are no classes, but of the task '{self.task.name}'")
        return len(self.class_names)

    def _check(self) -> None:
        for name in ("targets", "queryable"):
            entries = len(getattr(self, name))
            if entries != len(self.keys):
                raise UsageError(
                    f"dataset '{self.name}': {name} has {entries} entries for {len(self.keys)} samples"
                )
        wanted = self.options.num_classes
        if wanted is not None and wanted != self.task.num_outputs:
            has = f"{len(self.class_names)} classes" if self.class_names else f"no classes, and {self.task.num_outputs} outputs"
            raise UsageError(f"num_classes: {wanted} given, but dataset '{self.name}' has {has}")


class ImageDataset(Dataset):
    """A pool of images: adds the views of USB. A subclass also sets `mean` and `std`, on the scale of [0, 1].

    Attributes:
        mean: (in_channels,) for normalisation.
        std: (in_channels,) for normalisation.
        flip: whether the weak and the strong view may mirror the image.
        padding: pixels by which the weak and the strong view may shift the image; None: as `crop_ratio` says.
        randaugment_n: how many operations RandAugment does to a strong view.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool = True
    padding: int | None = None
    randaugment_n: int = RANDAUGMENT_N

    @classmethod
    def normalization(cls, config: PluginConfig) -> tuple[Sequence[float], Sequence[float]] | None:
        """(mean, std) where they are known without the samples; else None. For runs that have not kept them."""
        return None

    @classmethod
    def reading(cls, config: PluginConfig, run_format: int) -> Reading:
        """How a run of this format turns image files into pixels, those to be predicted included."""
        return Reading.of_run(run_format)

    @cached_property
    def views(self) -> Any:
        # Imported late: commands that only look at keys and labels must not wait for semilearn.
        from usb_active.usb.transforms import ImageViews

        return ImageViews(
            self.img_size, self.options.crop_ratio, self.mean, self.std,
            flip=self.flip, padding=self.padding, randaugment_n=self.randaugment_n,
        )  # fmt: skip


def are_image_views(views: Any) -> bool:
    """Whether all of a data set's views are those of `ImageViews` itself.

    They take an image as its pixels of the right size too, and the eval views of many at once, to the same bits.
    """
    from usb_active.usb.transforms import ImageViews

    replaced = {"weak", "eval", "as_pixels"} & vars(views).keys() if type(views) is ImageViews else True
    # A strong view that there is not is None.
    return not replaced and vars(views).get("strong") is None


def may_load_in_threads(dataset: Any) -> bool:
    """Whether several threads may call a data set's `load`: what says so must know the `load` that there is.

    A subclass that replaces `load` says `loads_in_threads` again. False for what is no data set.
    """
    for cls in type(dataset).__mro__:
        if "loads_in_threads" in vars(cls):
            return bool(vars(cls)["loads_in_threads"])
        if "load" in vars(cls):
            return False
    return False


def is_in_memory(dataset: Dataset, index: int) -> bool:
    """Whether a sample is an array, or was decoded by `active.cache_images`: then all of them can be had at once in little time."""
    from_file = dataset.kept_pixels is None and dataset.path(index) is not None
    return not from_file and isinstance(sample_for_views(dataset, index, dataset.views), np.ndarray)


def sample_for_views(samples: Any, index: int, views: Any) -> Any:
    """What views of a sample are to be made of: its decoded pixels where they are kept, else the sample, loaded.

    Args:
        samples: a data set, `Samples`, or anything else that has `load`.
        index: of the sample.
        views: the object whose views are made of it, and nothing else.
    """
    decoded = getattr(samples, "kept_pixels", None)
    if not isinstance(decoded, DecodedImages):
        return samples.load(index)
    key = None if samples.keys is None or index >= len(samples.keys) else samples.keys[index]
    pixels = decoded.pixels_of(index, key, views)
    return samples.load(index) if pixels is None else pixels
