"""A folder of images as a pool: `train/<class>/…`, `test/<class>/…`, `unlabeled/…` below `data_dir`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import field_validator, model_validator

from usb_active.datasets import ImageDataset, Samples
from usb_active.errors import UsageError, name_some, nearest
from usb_active.image_files import ImageFiles, image_size, list_images
from usb_active.plugin import PluginConfig

if TYPE_CHECKING:
    from PIL import Image

LOGGER = logging.getLogger(__name__)
# By number of channels; grey is the mean of ImageNet's three.
IMAGENET_MEAN = {3: (0.485, 0.456, 0.406), 1: (0.449,)}
IMAGENET_STD = {3: (0.229, 0.224, 0.225), 1: (0.226,)}
SIZES_LOOKED_AT = 32
LARGEST_OWN_SIZE = 224


class FolderConfig(PluginConfig):
    """The keys of `ImageFolder`.

    class_names: all classes, in order; needed when there are no class folders, may name more than there are.
    mean, std: a value a channel; ImageNet's unless given. verify: read every image once before training.
    """

    class_names: tuple[str, ...] | None = None
    in_channels: Literal[1, 3] = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    verify: bool = True

    @field_validator("class_names")
    @classmethod
    def _each_name_once(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        twice = sorted({name for name in names or () if names.count(name) > 1})
        if twice:
            raise ValueError(f"named twice: {name_some(twice)}")
        return names

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> FolderConfig:
        for key in ("mean", "std"):
            values = getattr(self, key)
            if values is not None and len(values) != self.in_channels:
                raise ValueError(f"{key} has {len(values)} values where in_channels is {self.in_channels}")
        return self


class ImageFolder(ImageDataset):
    """Images in class folders `train/<class>/`, `test/<class>/` (optional), of unknown class in `unlabeled/`.

    Keys are paths below `data_dir`. The pool is in the order of its keys, classes in the order of their names
    unless `class_names` gives another. Without a `test` folder there is no test set. Every sample is
    queryable: a person can answer for `unlabeled/` too (target −1); a simulated oracle cannot, and the core
    sees to that.

    img_size, where the configuration gives none: the side of the images if 32 of them, spread over the pool,
    are all square, equal and at most 224; else 224.
    """

    name = "folder"
    Config = FolderConfig

    def prepare(self) -> None:
        self.root = self.options.data_dir
        if not self.root.is_dir():
            raise UsageError(f"data_dir: {self.root} is not a folder")
        self.in_channels = self.config.in_channels
        self.mean = self.config.mean or IMAGENET_MEAN[self.in_channels]
        self.std = self.config.std or IMAGENET_STD[self.in_channels]
        self._listing = self._list_pool()
        self.class_names = self._find_class_names()
        self._use(self._listing)
        self.img_size = self.options.img_size or self._own_size()
        self.test = self._find_test()

    def load(self, index: int) -> Image.Image:
        """A PIL image in mode RGB, or L with one channel."""
        return self._files.load(index)

    def path(self, index: int) -> Path:
        return Path(self._files.path(index))

    def verify(self, cache: Path | None = None) -> None:
        """Read every image in use, pool and test, once; those `cache` knows unchanged are not read again.

        Raises:
            UsageError: names the first images that cannot be read, and says how many there are.
        """
        # Imported late: it brings a thread pool and a progress bar, which listing and loading do not need.
        from usb_active.image_check import check_images

        if self.config.verify:
            check_images(self._image_files([*self.keys, *self._test_keys]), cache)

    def align(self, keys: Sequence[str], grow: bool) -> None:
        present, known = set(self._listing), set(keys)
        gone = [key for key in keys if key not in present]
        if gone:
            raise UsageError(self._describe_vanished(gone, known))
        self._use([*keys, *(key for key in self._listing if grow and key not in known)])

    def _use(self, keys: list[str]) -> None:
        self.keys = keys
        self.targets = self._targets(keys)
        self.queryable = np.ones(len(keys), dtype=bool)
        self._files = self._image_files(keys)

    def _image_files(self, keys: list[str]) -> ImageFiles:
        return ImageFiles(str(self.root), keys, self.in_channels)

    def _targets(self, keys: list[str]) -> np.ndarray:
        index = {name: index for index, name in enumerate(self.class_names)}
        classes = (-1 if key.startswith("unlabeled/") else index[key.split("/", 2)[1]] for key in keys)
        return np.fromiter(classes, dtype=np.int64, count=len(keys))

    def _list_pool(self) -> list[str]:
        parts = [part for part in ("train", "unlabeled") if (self.root / part).is_dir()]
        if not parts:
            raise UsageError(f"data_dir: {self.root} has neither train/<class>/ nor unlabeled/")
        # "train/…" comes before "unlabeled/…" in the order of text, so the whole is sorted.
        listing = [key for part in parts for key in list_images(self.root, part)]
        if not listing:
            raise UsageError(f"data_dir: no image in {' or '.join(str(self.root / part) for part in parts)}")
        _refuse_outside_classes(key for key in listing if key.startswith("train/"))
        return listing

    def _class_folders(self, part: str) -> list[str]:
        folder = self.root / part
        if not folder.is_dir():
            return []
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")

    def _find_class_names(self) -> tuple[str, ...]:
        names = self.config.class_names
        names = tuple(self._class_folders("train")) if names is None else names
        if not names:
            raise UsageError(f"class_names: needed, because {self.root / 'train'} has no class folders")
        if len(names) < 2:
            raise UsageError(f"class_names: at least two classes are needed, there is only {names[0]!r}")
        # People type names into files, where blanks at the ends are lost.
        blank = [repr(name) for name in names if name != name.strip() or not name]
        if blank:
            raise UsageError(f"class_names: a class must not begin or end with a blank: {name_some(blank)}")
        self._refuse_unknown_classes("train", names)
        return names

    def _refuse_unknown_classes(self, part: str, names: tuple[str, ...]) -> None:
        known = set(names)
        unknown = [name for name in self._class_folders(part) if name not in known]
        if unknown:
            missing_from = "train" if self.config.class_names is None else "class_names"
            raise UsageError(
                f"{self.root / part}: class folders that {missing_from} does not have: {name_some(unknown)}"
                f"{nearest(unknown[0], names)}"
            )

    def _find_test(self) -> Samples | None:
        self._test_keys: list[str] = []
        folder = self.root / "test"
        if not folder.is_dir():
            return None
        keys = list_images(self.root, "test")
        if not keys:
            raise UsageError(f"{folder} has no image; fill it, or remove it to go without a test set")
        _refuse_outside_classes(keys)
        self._refuse_unknown_classes("test", self.class_names)
        self._test_keys = keys
        return Samples(self._image_files(keys).load, self._targets(keys))

    def _own_size(self) -> int:
        chosen = np.linspace(0, len(self) - 1, min(len(self), SIZES_LOOKED_AT)).astype(int)
        # Unreadable files are left out: `verify` names them, together with those not looked at here.
        sizes = {size for size in map(image_size, map(self._files.path, chosen)) if size is not None}
        width, height = sizes.pop() if len(sizes) == 1 else (0, 1)
        size = width if width == height <= LARGEST_OWN_SIZE else LARGEST_OWN_SIZE
        LOGGER.debug("img_size: %d, from the sizes of %d images", size, len(chosen))
        return size

    def _describe_vanished(self, gone: list[str], known: set[str]) -> str:
        message = f"data_dir: images of the run are gone from {self.root}: {name_some(gone)}"
        new = {os.path.basename(key): key for key in self._listing if key not in known}
        moved = [key for key in gone if os.path.basename(key) in new]
        if not moved:
            return f"{message}; put them back"
        return (
            f"{message}; {moved[0]} was perhaps moved to {new[os.path.basename(moved[0])]}: put it back, a "
            "moved file is another sample, and labels are given to the oracle, not by moving files"
        )


def _refuse_outside_classes(keys: Iterable[str]) -> None:
    outside = [key for key in keys if key.count("/") < 2]
    if outside:
        raise UsageError(
            f"data_dir: images outside a class folder: {name_some(outside)}; move them into one, or to "
            "unlabeled/ if their class is unknown"
        )
