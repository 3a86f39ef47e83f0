"""Tiny stand-ins of real data sets, written in the real formats."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def picture(seed: int, side: int = 8, channels: int = 3) -> np.ndarray:
    """(side, side[, channels]) uint8, different for every seed."""
    shape = (side, side) if channels == 1 else (side, side, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_image(path: Path, pixels: np.ndarray | None = None) -> Path:
    """A picture in the format that the name asks for; the folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = picture(sum(map(ord, path.name))) if pixels is None else pixels
    Image.fromarray(pixels).save(path)
    return path


def write_folder(root: Path, counts: Mapping[str, int], side: int = 8, suffix: str = ".png") -> Path:
    """`counts` images in each folder: `{"train/cat": 3, "unlabeled": 2}` gives train/cat/000.png and so on."""
    seed = 0
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            write_image(root / folder / f"{number:03d}{suffix}", picture(seed, side))
            seed += 1
    return root


def write_cifar(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str, per_file: int = 3
) -> tuple[np.ndarray, list[int]]:
    """CIFAR's pickles with a few images per file. Returns all of train, (N, 32, 32, 3), and its labels, file by file."""
    import torchvision

    reader = getattr(torchvision.datasets, name.upper())
    folder = data_dir / name / reader.base_folder
    folder.mkdir(parents=True)
    label_key = "fine_labels" if name == "cifar100" else "labels"
    images, labels = [], []
    for number, (file, _) in enumerate(reader.train_list + reader.test_list):
        rows = np.stack([picture(100 * number + i, 32).reshape(-1) for i in range(per_file)])
        row_labels = [(number + i) % 10 for i in range(per_file)]
        (folder / file).write_bytes(pickle.dumps({"data": rows, label_key: row_labels}))
        images.append(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels += row_labels
    names = [f"class {i}" for i in range(100 if name == "cifar100" else 10)]
    meta = reader.meta
    (folder / meta["filename"]).write_bytes(pickle.dumps({meta["key"]: names}))
    for table in ("train_list", "test_list"):
        monkeypatch.setattr(reader, table, _checksums(folder, getattr(reader, table)))
    monkeypatch.setattr(reader, "meta", {**meta, "md5": _md5(folder / meta["filename"])})
    train = len(reader.train_list) * per_file
    return np.concatenate(images)[:train], labels[:train]


def write_svhn(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, sizes: Mapping[str, int]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """SVHN's .mat files, where digit 0 has label 10. Returns (N, 32, 32, 3) images and labels 0..9 by split."""
    import torchvision
    from scipy.io import savemat

    reader = torchvision.datasets.SVHN
    folder = data_dir / "svhn"
    folder.mkdir(parents=True)
    written, table = {}, dict(reader.split_list)
    for offset, (split, size) in enumerate(sizes.items()):
        images = np.stack([picture(1000 * offset + i, 32) for i in range(size)])
        labels = np.arange(offset, offset + size) % 10
        url, file, _ = reader.split_list[split]
        content = {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None]}
        savemat(folder / file, {key: value.astype(np.uint8) for key, value in content.items()})
        table[split] = [url, file, _md5(folder / file)]
        written[split] = (images, labels)
    monkeypatch.setattr(reader, "split_list", table)
    return written


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of bytes as an IDX file: two zeros, the type 8, the number of dimensions, their sizes, the content."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_mnist(folder: Path, train: int = 12, test: int = 5, compress: bool = False) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """MNIST's four IDX files, plain or gzipped. Returns (N, 28, 28) images and (N,) labels of "train" and "t10k"."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for offset, (split, size) in enumerate((("train", train), ("t10k", test))):
        images = np.stack([picture(1000 * offset + i, 28, 1) for i in range(size)])
        labels = np.arange(offset, offset + size) % 10
        for name, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            data = idx_bytes(array)
            path = folder / f"{split}-{name}"
            if compress:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(data))
            else:
                path.write_bytes(data)
        written[split] = (images, labels)
    return written


def write_stl10(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, sizes: Mapping[str, int]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """STL-10's .bin files: columns first, labels from 1. Returns (N, 96, 96, 3) images and labels 0..9 by split."""
    import torchvision

    reader = torchvision.datasets.STL10
    folder = data_dir / "stl10" / reader.base_folder
    folder.mkdir(parents=True)
    written = {}
    for offset, (split, size) in enumerate(sizes.items()):
        images = np.stack([picture(1000 * offset + i, 96) for i in range(size)])
        labels = np.arange(offset, offset + size) % 10
        (folder / f"{split}_X.bin").write_bytes(images.transpose(0, 3, 2, 1).tobytes())
        if split != "unlabeled":
            (folder / f"{split}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
        written[split] = (images, labels)
    for table in ("train_list", "test_list"):
        monkeypatch.setattr(reader, table, _checksums(folder, getattr(reader, table)))
    return written


def _checksums(folder: Path, table: list[list[str]]) -> list[list[str]]:
    """torchvision's table with the stand-ins' checksums, so that its check runs on them too."""
    return [[file, _md5(folder / file)] for file, _ in table]


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()
