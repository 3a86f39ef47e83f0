"""Small arrays, made here, on which the authors' public code was run; and what it gave, in fixtures/authors.npz.

The generator is numpy's frozen one, whose numbers no version changes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIZE, DIM, CLASSES = 60, 8, 3
# Idx of the labelled samples: three, two and one of the classes.
LABELED, LABELS = np.array([0, 3, 7, 21, 25, 40]), np.array([0, 0, 0, 1, 1, 2])
# Neighbours of each node in the graph of jLP.
K = 6
OUTPUTS = Path(__file__).parent / "fixtures" / "authors.npz"


def features() -> NDArray[np.float32]:
    """(60, 8): three classes of twenty, in order, that overlap; all cosines are positive."""
    random = np.random.RandomState(0)
    means = random.standard_normal((CLASSES, DIM)).repeat(SIZE // CLASSES, axis=0)
    return np.abs(means + 0.7 * random.standard_normal((SIZE, DIM))).astype(np.float32)


def probs(classes: int = CLASSES, size: int = SIZE) -> NDArray[np.float64]:
    """(N, C) distributions; no entry is below 0.0009 with 19 classes."""
    logits = np.random.RandomState(classes).standard_normal((size, classes))
    rows = np.exp(logits)
    return rows / rows.sum(axis=1, keepdims=True)


# Of ALFA-Mix: dimensions, classes (of the fourth no sample is labelled), and the first mixing, of which each further one is a multiple.
MIXED = ((8, 3, 0.2), (16, 4, 0.2), (32, 4, 0.03125), (64, 3, 0.03125))
# How many samples each is asked for.
MIXED_BUDGETS = (2, 12, 30)


def relu_features(dim: int, classes: int) -> NDArray[np.float32]:
    """(60, dim): as of a network with ReLU, more than half of it zeros; a third of the coordinates is zero in all of a class."""
    random = np.random.RandomState(dim)
    rows = np.maximum(random.standard_normal((SIZE, dim)), 0)
    silent = random.random_sample((classes, dim)) < 1 / 3
    return np.where(silent[np.arange(SIZE) * classes // SIZE], 0, rows).astype(np.float32)


def linear_head(dim: int, classes: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight (classes, dim) and bias (classes,)."""
    random = np.random.RandomState(1000 + dim)
    return random.standard_normal((classes, dim)).astype(np.float32), random.standard_normal(classes).astype(np.float32)


def outputs() -> dict[str, NDArray]:
    """What the authors' code gave, by name; the tests say which code it was."""
    with np.load(OUTPUTS, allow_pickle=False) as found:
        return dict(found)
