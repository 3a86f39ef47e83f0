"""A folder of images as a pool: `train/<class>/…`, `test/<class>/…`, `unlabeled/…` below `data_dir`."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from usb_active.builtin.augmentation import choose_views
from usb_active.builtin.folder_config import IMAGENET_MEAN, IMAGENET_STD, FolderConfig, colour_of
from usb_active.contracts.dataset import ImageDataset, Samples
from usb_active.errors import UsageError, name_some, nearest
from usb_active.images.depth import describe_depth
from usb_active.images.files import ImageFiles
from usb_active.images.listing import HEIF_SUFFIXES, Listing, is_system_folder, look_through
from usb_active.images.reading import WHITE, Reading, highest_value, image_size, image_suffixes
from usb_active.storage.paths import nfc
from usb_active.storage.run_format import FIRST

if TYPE_CHECKING:
    from PIL import Image

LOGGER = logging.getLogger(__name__)
LOOKED_AT = 32
LARGEST_OWN_SIZE = 224


class ImageFolder(ImageDataset):
    """Images in class folders `train/<class>/`, `test/<class>/` (optional), of unknown class in `unlabeled/`.

    Keys are paths below `data_dir`, accents composed (NFC) however the disk has them. The pool is in the order of its keys,
    classes in the order of their names unless `class_names` gives another; a class folder without an image is a class.
    Without a `test` folder there is no test set, unless `test_share` takes it from `train`. Every sample is queryable: a person
    can answer for `unlabeled/` too (target −1); a simulated oracle cannot, and the core sees to that.

    Hidden folders and those that archivers and file servers make are neither classes nor images. Runs that version 0.1.0
    began continue as it found and read their images: `options.run_format` says so.

    img_size, where the configuration gives none: the side of the images if 32 of them, spread over the pool,
    are all square, equal and at most 224; else 224.
    """

    name = "folder"
    loads_in_threads = True
    Config = FolderConfig

    def prepare(self) -> None:
        self.root = self.options.data_dir
        if not self.root.is_dir():
            raise UsageError(f"data_dir: {self.root} is not a folder")
        self.in_channels = self.config.in_channels
        self.mean, self.std = self.normalization(self.config)
        self._reading = self.reading(self.config, self.options.run_format)
        self._depth_said = False
        self._pool = self._list_pool()
        self._listing = self._by_key(self._pool.images)
        self._held_out = self._hold_out()
        self.class_names = self._find_class_names()
        self._use(self._listing)
        self.img_size = self.options.img_size or self._own_size()
        choose_views(self, self.config)
        self.test = self._find_test()

    @classmethod
    def normalization(cls, config: FolderConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, std), which do not depend on the images."""
        return config.mean or IMAGENET_MEAN[config.in_channels], config.std or IMAGENET_STD[config.in_channels]

    @classmethod
    def reading(cls, config: FolderConfig, run_format: int) -> Reading:
        """How files become pixels in a run of this format."""
        return Reading.of_run(run_format, colour_of(config.background) or WHITE, config.value_range)

    def load(self, index: int) -> Image.Image:
        """A PIL image in mode RGB, or L with one channel."""
        return self._files.load(index)

    def path(self, index: int) -> Path:
        return Path(self._files.path(index))

    def verify(self, cache: Path | None = None) -> None:
        """Read every image in use, pool and test, once; those `cache` knows unchanged are not read again.

        Images that have changed since, and dark ones of more than 8 bits, are named in a warning.

        Raises:
            UsageError: names the first images that cannot be read, and says how many there are.
        """
        # Imported late: it brings a thread pool and a progress bar, which listing and loading do not need.
        from usb_active.images.checking import check_images

        if not self.config.verify:
            return
        checked = check_images(self._image_files([*self._files.keys, *self._test_paths]), cache)
        if checked.changed:
            what = f"{len(checked.changed)} image{'s' * (len(checked.changed) != 1)}"
            names = name_some(checked.changed)
            LOGGER.warning("%s changed since the run last read them (size or time); it continues with them as they are: %s", what, names)
        if not self._depth_said:
            for line in describe_depth(checked.deep):
                LOGGER.warning("%s", line)

    def remarks(self) -> list[str]:
        lines = [f"{self.root}: {line}" for line in (self._pool + self._test_listing).remarks()]
        filled = {key.split("/", 2)[1] for key in self._listing if key.startswith("train/")}
        empty = [name for name in self._class_folders("train") if name not in filled]
        if empty:
            names = name_some(empty)
            lines.append(f"{self.root / 'train'}: class folders without an image are classes all the same, remove them if not: {names}")
        if self.options.run_format == FIRST:
            lines.append(
                "this run reads its images as version 0.1.0 did, which began it: EXIF orientation and transparency are not looked at; "
                "a run with a new save_name does"
            )
        found = {self._files.keys[index]: highest_value(self._files.path(index), self._reading) for index in self._some()}
        depth = describe_depth({key: info for key, info in found.items() if info})
        self._depth_said = bool(depth)
        if self._held_out:
            which = f"the first {100 * self.config.test_share:g} % of each class by name"
            lines.append(f"{self.root / 'train'}: {len(self._held_out)} images, {which}, are the test set")
            tested = {key.split("/", 2)[1] for key in self._held_out}
            if few := sorted(filled - tested):
                what = "too few images for one in the test set, which says nothing of these classes"
                lines.append(f"{self.root / 'train'}: {what}: {name_some(few)}")
        return [*lines, *depth]

    def align(self, keys: Sequence[str], grow: bool) -> None:
        taken = self._locate(keys)
        gone = [key for key in keys if key not in taken]
        used = set(taken.values())
        new = {key: path for key, path in self._listing.items() if path not in used}
        if gone:
            raise UsageError(self._describe_vanished(gone, new))
        self._use({**taken, **new} if grow else taken)

    def _hold_out(self) -> dict[str, str]:
        """Take the test set of `test_share` out of the listing: key → path."""
        share = self.config.test_share
        if share is None:
            return {}
        if (self.root / "test").is_dir():
            raise UsageError(f"test_share: {share:g}, but there is a folder {self.root / 'test'}; leave one of them out")
        held: dict[str, str] = {}
        of_class: dict[str, list[str]] = {}
        for key in self._listing:  # in the order of the keys
            if key.startswith("train/"):
                of_class.setdefault(key.split("/", 2)[1], []).append(key)
        for keys in of_class.values():
            # Rounded first: 0.29 of 100 is 28.999… in floating point.
            held |= {key: self._listing.pop(key) for key in keys[: int(round(share * len(keys), 9))]}
        if not held:
            largest = max(map(len, of_class.values()), default=0)
            raise UsageError(f"test_share: {share:g} of no class in {self.root / 'train'} is one image (the largest has {largest})")
        return held

    def _locate(self, keys: Sequence[str]) -> dict[str, str]:
        """The paths of a run's keys, without those that are gone. On another disk, accents may be composed otherwise."""
        taken = {key: self._listing[key] for key in keys if key in self._listing}
        missing = [key for key in keys if key not in taken]
        if missing:
            used = set(taken.values())
            composed = {nfc(key): path for key, path in self._listing.items() if path not in used}
            taken |= {key: composed[nfc(key)] for key in missing if nfc(key) in composed}
        # In the order of the run.
        return {key: taken[key] for key in keys if key in taken}

    def _use(self, paths: Mapping[str, str]) -> None:
        """Take samples: key → path on disk, below the root."""
        self.keys = list(paths)
        self.targets = self._targets(self.keys)
        self.queryable = np.ones(len(self.keys), dtype=bool)
        self._files = self._image_files(list(paths.values()))

    def _image_files(self, paths: list[str]) -> ImageFiles:
        return ImageFiles(str(self.root), paths, self.in_channels, self._reading)

    def _name(self, name: str) -> str:
        """A key or a class as the run knows it; version 0.1.0 took names as the disk has them."""
        return name if self.options.run_format == FIRST else nfc(name)

    def _by_key(self, paths: Sequence[str]) -> dict[str, str]:
        """Key → path, in the order of the keys. UsageError for two files that people cannot tell apart."""
        found: dict[str, str] = {}
        for key, path in sorted((self._name(path), path) for path in paths):
            if key in found:
                what = "two files whose names differ in nothing but how their accents are composed"
                raise UsageError(f"data_dir: {what}: {self.root / path}; rename one")
            found[key] = path
        return found

    def _targets(self, keys: list[str]) -> np.ndarray:
        index = {nfc(name): index for index, name in enumerate(self.class_names)}
        # Exact names come first: version 0.1.0 told apart what differs in its accents' composition only.
        index |= {name: index for index, name in enumerate(self.class_names)}

        def target(key: str) -> int:
            folder = key.split("/", 2)[1]
            return index[folder] if folder in index else index[nfc(folder)]

        classes = (-1 if key.startswith("unlabeled/") else target(key) for key in keys)
        return np.fromiter(classes, dtype=np.int64, count=len(keys))

    def _look_through(self, part: str) -> Listing:
        return look_through(self.root, part, everything=self.options.run_format == FIRST)

    def _list_pool(self) -> Listing:
        parts = [part for part in ("train", "unlabeled") if (self.root / part).is_dir()]
        if not parts:
            raise UsageError(f"data_dir: {self.root} has neither train/<class>/ nor unlabeled/")
        # "train/…" comes before "unlabeled/…" in the order of text, so the whole is sorted.
        listing = sum(map(self._look_through, parts), Listing())
        if not listing.images:
            places = " or ".join(str(self.root / part) for part in parts)
            raise UsageError("; ".join([f"data_dir: no image in {places}", *listing.remarks()]))
        _refuse_outside_classes(key for key in listing.images if key.startswith("train/"))
        return listing

    def _class_folders(self, part: str) -> list[str]:
        folder = self.root / part
        if not folder.is_dir():
            return []
        left_out = is_system_folder if self.options.run_format != FIRST else lambda name: name[0] == "."
        return sorted({self._name(entry.name) for entry in folder.iterdir() if entry.is_dir() and not left_out(entry.name)})

    def _find_class_names(self) -> tuple[str, ...]:
        names = self.config.class_names
        names = tuple(self._class_folders("train")) if names is None else tuple(map(self._name, names))
        if not names:
            raise UsageError(f"class_names: needed, because {self.root / 'train'} has no class folders")
        if len(names) < 2:
            raise UsageError(f"class_names: at least two classes are needed, there is only {names[0]!r}")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UsageError(f"class_names: named twice, with accents composed in two ways: {name_some(twice)}")
        # People type names into files, where blanks at the ends are lost.
        blank = [repr(name) for name in names if name != name.strip() or not name]
        if blank:
            raise UsageError(f"class_names: a class must not begin or end with a blank: {name_some(blank)}")
        self._refuse_unknown_classes("train", names)
        return names

    def _refuse_unknown_classes(self, part: str, names: tuple[str, ...]) -> None:
        known = set(map(nfc, names))
        unknown = [name for name in self._class_folders(part) if nfc(name) not in known]
        if unknown:
            missing_from = "train" if self.config.class_names is None else "class_names"
            raise UsageError(
                f"{self.root / part}: class folders that {missing_from} does not have: {name_some(unknown)}"
                f"{nearest(unknown[0], names)}"
            )

    def _find_test(self) -> Samples | None:
        self._test_paths: list[str] = []
        self._test_listing = Listing()
        folder = self.root / "test"
        if not folder.is_dir():
            if self._held_out:
                # Which are the first images of a class depends on all of them.
                self.test_digest = hashlib.sha256("\n".join(map(nfc, self._held_out)).encode()).hexdigest()
                return self._test_samples(self._held_out)
            return None
        self._test_listing = self._look_through("test")
        if not self._test_listing.images:
            raise UsageError(f"{folder} has no image; fill it, or remove it to go without a test set")
        _refuse_outside_classes(self._test_listing.images)
        self._refuse_unknown_classes("test", self.class_names)
        return self._test_samples(self._by_key(self._test_listing.images))

    def _test_samples(self, paths: Mapping[str, str]) -> Samples:
        """Key → path, as samples to evaluate on."""
        self._test_paths = list(paths.values())
        files = self._image_files(self._test_paths)
        return Samples(files.load, self._targets(list(paths)), list(paths), files.path)

    def _some(self) -> list[int]:
        """Up to 32 samples, spread over the pool."""
        return np.linspace(0, len(self) - 1, min(len(self), LOOKED_AT)).astype(int).tolist()

    def _own_size(self) -> int:
        chosen = self._some()
        # Unreadable files are left out: `verify` names them, together with those not looked at here.
        sizes = {size for size in (image_size(self._files.path(index), self._reading) for index in chosen) if size is not None}
        width, height = sizes.pop() if len(sizes) == 1 else (0, 1)
        size = width if width == height <= LARGEST_OWN_SIZE else LARGEST_OWN_SIZE
        LOGGER.debug("img_size: %d, from the sizes of %d images", size, len(chosen))
        return size

    def _describe_vanished(self, gone: list[str], new: Mapping[str, str]) -> str:
        message = f"data_dir: images of the run are gone from {self.root}: {name_some(gone)}"
        suffixes = {os.path.splitext(key)[1].lower() for key in gone} - image_suffixes()
        if suffixes:
            way_out = " (pip install pillow-heif)" if suffixes & HEIF_SUFFIXES else ""
            return f"{message}; Pillow cannot read {', '.join(sorted(suffixes))} here: install the plugin again that could{way_out}"
        names = {os.path.basename(key): key for key in new}
        moved = [key for key in gone if os.path.basename(key) in names]
        if not moved:
            return f"{message}; put them back"
        return (
            f"{message}; {moved[0]} was perhaps moved to {names[os.path.basename(moved[0])]}: put it back, a "
            "moved file is another sample, and labels are given to the oracle, not by moving files"
        )


def _refuse_outside_classes(keys: Iterable[str]) -> None:
    outside = [key for key in keys if key.count("/") < 2]
    if outside:
        raise UsageError(
            f"data_dir: images outside a class folder: {name_some(outside)}; move them into one, or to "
            "unlabeled/ if their class is unknown"
        )
