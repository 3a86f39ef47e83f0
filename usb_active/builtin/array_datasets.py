"""Datasets whose images are arrays in memory: scikit-learn's digits, MNIST, and USB's CIFAR, SVHN and STL-10.

All but the digits are read from the standard files below `data_dir/<name>`, in their own order, never split again and
never downloaded. torchvision's classes read USB's, after comparing each file with its published checksum. This
matters beyond damage: CIFAR's files are pickles, which can run code, and only the known ones are loaded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from usb_active.builtin.augmentation import Augmentation, ViewKeys, choose_views
from usb_active.contracts.dataset import DatasetOptions, ImageDataset, Samples
from usb_active.contracts.plugin import PluginConfig
from usb_active.errors import UsageError, name_some
from usb_active.images.idx_files import find_idx, read_idx

DIGIT_NAMES = tuple("0123456789")


class ArrayConfig(ViewKeys):
    """Keys of every set whose images are arrays: those of `ViewKeys`."""

    # From the start, so that every run's configuration has it.
    augmentation: Augmentation = "usb"


class ArrayDataset(ImageDataset):
    """What sets whose images are arrays have in common: the choice of their views."""

    Config = ArrayConfig

    def __init__(self, config: PluginConfig | None = None, options: DatasetOptions | None = None):
        super().__init__(config, options)
        choose_views(self, self.config)


class ImageParts:
    """Several (N_i, H, W[, 3]) uint8 arrays read as one, without a joint copy."""

    def __init__(self, *parts: np.ndarray):
        self.parts = parts
        self.starts = np.cumsum([0, *map(len, parts)]).tolist()

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: int) -> np.ndarray:
        """Image `index`, (H, W[, 3]) uint8, contiguous."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        part = bisect_right(self.starts, index) - 1
        # The parts are transposed views of the files' content; an image is put in order when it is asked for.
        return np.ascontiguousarray(self.parts[part][index - self.starts[part]])


def numbered_keys(prefix: str, count: int) -> list[str]:
    """`train/00017`: numbers in the order of the file, padded so that sorted text is in that order too."""
    width = max(5, len(str(count - 1)))
    return [f"{prefix}/{number:0{width}d}" for number in range(count)]


class Digits(ArrayDataset):
    """scikit-learn's 1,797 handwritten digits, 8×8, part of the package's dependencies: nothing to download.

    The split is fixed, whatever a run's seed: a quarter of each class, drawn with seed 0, is the test set
    (454 images), the rest the pool (1,343). Keys are numbers in scikit-learn's order, `digits/0017`.
    """

    name = "digits"
    loads_in_threads: ClassVar[bool] = True
    flip = False

    class Config(ArrayConfig):
        """in_channels: 1, or 3 for networks that want colour (three equal channels)."""

        in_channels: Literal[1, 3] = 1

    def prepare(self) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        targets = digits.target.astype(np.int64)
        in_test = _quarter_of_each_class(targets)
        self.in_channels = self.config.in_channels
        self.img_size = self.options.img_size or 8
        self.mean, self.std = (0.3053,) * self.in_channels, (0.3759,) * self.in_channels
        self.class_names = DIGIT_NAMES
        self.keys = [f"digits/{number:04d}" for number in np.flatnonzero(~in_test)]
        self.targets = targets[~in_test]
        self.queryable = np.ones(len(self.targets), dtype=bool)
        self._images = images[~in_test]
        self.test = Samples(partial(_with_channels, images[in_test], self.in_channels), targets[in_test])

    def load(self, index: int) -> np.ndarray:
        """(8, 8) uint8, or (8, 8, 3) with three channels."""
        return _with_channels(self._images, self.in_channels, index)


def _with_channels(images: np.ndarray, in_channels: int, index: int) -> np.ndarray:
    """Image `index` of (N, H, W): as it is, or as three equal channels."""
    return images[index] if in_channels == 1 else np.repeat(images[index][:, :, None], 3, axis=2)


def _quarter_of_each_class(targets: np.ndarray) -> np.ndarray:
    """(N,) bool: every fourth sample of each class in a shuffled order, the same everywhere and always."""
    # numpy freezes the stream of RandomState, while those of Generator may change between its versions.
    rng = np.random.RandomState(0)
    chosen = np.zeros(len(targets), dtype=bool)
    for label in np.unique(targets):
        chosen[rng.permutation(np.flatnonzero(targets == label))[::4]] = True
    return chosen


class Mnist(ArrayDataset):
    """MNIST: 60,000 images of 28×28 to train, 10,000 to test, from its four IDX files, plain or `.gz`.

    They are looked for in `data_dir/mnist` and in `data_dir/mnist/MNIST/raw`, where torchvision puts them. Keys are numbers
    in the order of the file, `train/00017`. Views do not mirror the digits, unless `augmentation: translate_flip`.
    """

    name = "mnist"
    loads_in_threads: ClassVar[bool] = True
    flip = False
    # Of all pixels of the training images.
    _MEAN, _STD = 0.1307, 0.3081

    class Config(ArrayConfig):
        """in_channels: 1, or 3 for networks that want colour (three equal channels)."""

        in_channels: Literal[1, 3] = 1

    def prepare(self) -> None:
        self.in_channels = self.config.in_channels
        self.img_size = self.options.img_size or 28
        self.mean, self.std = (self._MEAN,) * self.in_channels, (self._STD,) * self.in_channels
        self.class_names = DIGIT_NAMES
        self._images, self.targets = self._split("train")
        self.keys = numbered_keys("train", len(self.targets))
        self.queryable = np.ones(len(self.targets), dtype=bool)
        images, targets = self._split("t10k")
        self.test = Samples(partial(_with_channels, images, self.in_channels), targets)

    def load(self, index: int) -> np.ndarray:
        """(28, 28) uint8, or (28, 28, 3) with three channels."""
        return _with_channels(self._images, self.in_channels, index)

    def _split(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Images (N, 28, 28) and targets (N,) of "train" or "t10k"."""
        images, labels = (self._file(f"{split}-{part}") for part in ("images-idx3-ubyte", "labels-idx1-ubyte"))
        pixels, targets = read_idx(images, 3), read_idx(labels, 1).astype(np.int64)
        if pixels.shape[1:] != (28, 28):
            raise UsageError(f"dataset 'mnist': {images}: images of {pixels.shape[1]}×{pixels.shape[2]}; MNIST's are 28×28")
        if len(pixels) != len(targets) or not len(targets):
            raise UsageError(f"dataset 'mnist': {images} has {len(pixels)} images and {labels} {len(targets)} labels")
        if targets.max() > 9:
            raise UsageError(f"dataset 'mnist': {labels}: label {targets.max()}; MNIST's are 0 to 9")
        return pixels, targets

    def _file(self, name: str) -> Path:
        root = self.options.data_dir / self.name
        path = find_idx([root, root / "MNIST" / "raw"], name)
        if path is None:
            raise UsageError(
                f"dataset 'mnist': no {name} or {name}.gz in {root} (from data_dir) or in MNIST/raw below it; get the files with "
                f"torchvision.datasets.MNIST('{root}', download=True)"
            )
        return path


class _TorchvisionDataset(ArrayDataset):
    """What USB's own sets have in common. A subclass names torchvision's class and implements `prepare`."""

    loads_in_threads: ClassVar[bool] = True
    torchvision_name: ClassVar[str]
    folder: ClassVar[str]
    in_channels = 3

    @property
    def root(self) -> Path:
        """Where the files are expected: `data_dir/<name>`, as in USB."""
        return self.options.data_dir / self.folder

    def load(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8."""
        return self._images[index]

    def _set_pool(self, images: ImageParts, keys: Sequence[str], targets: np.ndarray) -> None:
        self._images, self.keys = images, keys
        self.targets = np.asarray(targets, dtype=np.int64)
        self.queryable = self.targets >= 0

    def _set_test(self, images: np.ndarray, targets: Any) -> None:
        self.test = Samples(ImageParts(images).__getitem__, np.asarray(targets, dtype=np.int64))

    def _reader(self) -> type:
        """torchvision's class, with the checksums of one root computed once instead of at every split."""
        import torchvision

        base = getattr(torchvision.datasets, self.torchvision_name)

        class Checked(base):
            intact = False

            def _check_integrity(self) -> bool:
                Checked.intact = Checked.intact or super()._check_integrity()
                return Checked.intact

        return Checked

    def _read(self, reader: type, files: Mapping[str, str], hint: str = "", **split: Any) -> Any:
        """torchvision's dataset of a split, or a UsageError. `files`: their checksums by name below `root`."""
        try:
            return reader(self.root, download=False, **split)
        except RuntimeError as error:  # what torchvision raises when a file is missing or fails its checksum
            what = self._what_is_wrong(files) or str(error)
            choice = "".join(f"{key}={value!r}, " for key, value in split.items())
            raise UsageError(
                f"dataset '{self.folder}': {what} in {self.root} (from data_dir); get the files with "
                f"torchvision.datasets.{self.torchvision_name}('{self.root}', {choice}download=True){hint}"
            ) from error

    def _what_is_wrong(self, files: Mapping[str, str]) -> str:
        from torchvision.datasets.utils import check_integrity

        missing = [name for name in files if not (self.root / name).is_file()]
        if missing:
            return f"no {name_some(missing)}"
        damaged = [name for name, checksum in files.items() if not check_integrity(self.root / name, checksum)]
        return f"wrong checksum: {name_some(damaged)}" if damaged else ""


def _below(folder: str, table: list[list[str]]) -> dict[str, str]:
    """torchvision's table of (name, checksum), as checksums by path."""
    return {f"{folder}/{name}": checksum for name, checksum in table}


class Cifar10(_TorchvisionDataset):
    """CIFAR-10: 50,000 images of 32×32 in the order of its files, 10,000 to test; normalised as in USB."""

    name = folder = "cifar10"
    torchvision_name = "CIFAR10"
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def prepare(self) -> None:
        reader = self._reader()
        meta = [reader.meta["filename"], reader.meta["md5"]]
        files = _below(reader.base_folder, [*reader.train_list, *reader.test_list, meta])
        train, test = (self._read(reader, files, train=train) for train in (True, False))
        self.img_size = self.options.img_size or 32
        self.class_names = tuple(train.classes)
        self._set_pool(ImageParts(train.data), numbered_keys("train", len(train.data)), train.targets)
        self._set_test(test.data, test.targets)


class Cifar100(Cifar10):
    """CIFAR-100: 50,000 images of 32×32, 10,000 to test, the 100 fine classes; normalised as in USB."""

    name = folder = "cifar100"
    torchvision_name = "CIFAR100"
    mean = (129.3 / 255, 124.1 / 255, 112.4 / 255)
    std = (68.2 / 255, 65.4 / 255, 70.4 / 255)


class Svhn(_TorchvisionDataset):
    """SVHN, cropped digits of 32×32: 73,257 of train, then 531,131 of extra, as in USB; 26,032 to test.

    Papers on active learning use train alone: `svhn_split: train`. Views mirror the digits, because USB's do; FixMatch's do not:
    `flip: false`.
    """

    name = folder = "svhn"
    torchvision_name = "SVHN"
    mean = (0.4380, 0.4440, 0.4730)
    std = (0.1751, 0.1771, 0.1744)

    class Config(ArrayConfig):
        """svhn_split: what the pool is made of. size: only its first so many images (the ASSL paper: 60,000 of train)."""

        svhn_split: Literal["train+extra", "train"] = "train+extra"
        size: int | None = Field(None, ge=1)

    def prepare(self) -> None:
        splits = self.config.svhn_split.split("+")
        parts = [self._split(split) for split in splits]
        keys: list[str] = []
        for split, part in zip(splits, parts, strict=True):
            keys += numbered_keys(split, len(part))
        test = self._split("test")
        self.img_size = self.options.img_size or 32
        self.class_names = DIGIT_NAMES
        size = self.config.size or len(keys)
        if size > len(keys):
            raise UsageError(f"dataset 'svhn': size: {size}, but {self.config.svhn_split} has {len(keys)} images")
        images = ImageParts(*(part.data.transpose(0, 2, 3, 1) for part in parts))
        self._set_pool(images, keys[:size], np.concatenate([part.labels for part in parts])[:size])
        self._set_test(test.data.transpose(0, 2, 3, 1), test.labels)

    def _split(self, split: str) -> Any:
        # A reader of its own for each split: SVHN's checksums are those of one split's file.
        reader = self._reader()
        hint = ", or do without it: svhn_split: train" if split == "extra" else ""
        _, name, checksum = reader.split_list[split]
        return self._read(reader, {name: checksum}, hint, split=split)


class Stl10(_TorchvisionDataset):
    """STL-10: 100,000 images of 96×96 of unknown class, then the 5,000 of train, as in USB; 8,000 to test.

    The first 100,000 cannot be queried (target −1); they are used for training only.
    """

    name = folder = "stl10"
    torchvision_name = "STL10"
    mean = (112.4 / 255, 109.1 / 255, 98.6 / 255)
    std = (68.4 / 255, 66.6 / 255, 68.5 / 255)

    def prepare(self) -> None:
        reader = self._reader()
        files = _below(reader.base_folder, [*reader.train_list, *reader.test_list])
        unlabeled, train, test = (
            self._read(reader, files, split=split) for split in ("unlabeled", "train", "test")
        )
        self.img_size = self.options.img_size or 96
        self.class_names = (
            "airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck",
        )  # fmt: skip
        images = ImageParts(unlabeled.data.transpose(0, 2, 3, 1), train.data.transpose(0, 2, 3, 1))
        keys = numbered_keys("unlabeled", len(unlabeled.data)) + numbered_keys("train", len(train.data))
        # torchvision's labels of train are uint8, which cannot hold the -1 of the others.
        targets = np.concatenate([np.full(len(unlabeled.data), -1), train.labels.astype(np.int64)])
        self._set_pool(images, keys, targets)
        self._set_test(test.data.transpose(0, 2, 3, 1), test.labels)
