"""Folders of images that have something in them to learn: bars as drawings, coloured gradients as photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

BARS = ("across", "down", "dot")
# Sides of images, and what is in them, for operations on pixels.
SIDES = (8, 9, 28, 32, 64, 96)
KINDS = ("noise", "constant", "two levels", "saturated", "narrow", "grey", "ramp")


def pixels_of(kind: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """(side, side, 3) uint8."""
    shape = (side, side, 3)
    noise = rng.integers(0, 256, shape, dtype=np.uint8)
    if kind == "constant":
        return np.full(shape, rng.integers(256), dtype=np.uint8)
    if kind == "two levels":
        return np.where(noise < 128, rng.integers(0, 256, 3), rng.integers(0, 256, 3)).astype(np.uint8)
    if kind == "saturated":
        return np.where(noise < 128, 0, 255).astype(np.uint8)
    if kind == "narrow":
        return (noise // 8 + rng.integers(0, 220)).astype(np.uint8)
    if kind == "grey":
        return np.repeat(noise[:, :, :1], 3, axis=2)
    if kind == "ramp":
        return np.broadcast_to((np.arange(side) * 255 // side)[:, None, None], shape).astype(np.uint8)
    return noise


def bar(kind: str, rng: np.random.Generator, side: int = 12) -> np.ndarray:
    """(side, side) uint8: white on black, a bar across or down, or a dot, somewhere."""
    pixels = np.zeros((side, side), dtype=np.uint8)
    row, column = rng.integers(2, side - 4, size=2)
    if kind == "across":
        pixels[row : row + 2, 1:-1] = 255
    elif kind == "down":
        pixels[1:-1, column : column + 2] = 255
    else:
        pixels[row : row + 3, column : column + 3] = 255
    return pixels


def gradient(rng: np.random.Generator, side: int = 16) -> np.ndarray:
    """(side, side, 3) uint8: colours that change smoothly, and some noise."""
    coarse = Image.fromarray(rng.integers(30, 226, (5, 5, 3), dtype=np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(coarse) + rng.normal(0, 6, (side, side, 3)), 0, 255).astype(np.uint8)


def save(pixels: np.ndarray, path: Path) -> None:
    """As the format that the name asks for; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_drawings(root: Path, train: int = 0, unlabeled: int = 0, test: int = 0) -> Path:
    """So many of each class in `train/<class>/` and `test/<class>/`, and in all in `unlabeled/`."""
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        for name in BARS:
            for number in range(count):
                save(bar(name, rng), root / part / name / f"{number:04d}.png")
    for number in range(unlabeled):
        save(bar(BARS[number % 3], rng), root / "unlabeled" / f"{number:04d}.png")
    return root


def write_photos(root: Path, train: int) -> Path:
    """So many of each of two classes, the second one darker, in `train/<class>/`."""
    rng = np.random.default_rng(0)
    for name, shade in (("day", 1.0), ("night", 0.6)):
        for number in range(train):
            save((gradient(rng) * shade).astype(np.uint8), root / "train" / name / f"{number:04d}.jpg")
    return root
