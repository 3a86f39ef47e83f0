"""Prior pseudo-labels by clusters (AS3L, §3.3), how they meet the model's predictions (Eq. 5), and how good they are.

Dimension letters: N pool, L labelled, C classes, D feature dimension, K clusters, B batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from usb_active.plugins.as3l.clustering import constrained_kmeans

from usb_active.numerics.arrays import SUM_TOLERANCE, blocks, check_count, check_range, checked_idx, named
from usb_active.numerics.kmeans import as_points

Probs = NDArray[np.float32]
# Of a bin's width. The confidences of a prior are averaged fractions, often of as many parts as there are bins.
EDGE = 1e-4


def prior(
    features: ArrayLike,
    labeled: ArrayLike,
    labels: ArrayLike,
    num_classes: int,
    *,
    ks: Sequence[int] | None = None,
    rng: np.random.Generator,
) -> Probs:
    """Class probabilities (N, C) of all samples from a few labels, spread over clusterings of several sizes K.

    For each K a k-means seeded and constrained by the labelled samples, one seed to a cluster (see `constrained_kmeans`). Every
    sample takes the histogram of the labels in its cluster, none where there are none; these are added over the ks and
    normalised, so a row sums to one, or is zero where no label arrived in any.

    Open in the paper, and ours:
        - each histogram is divided by its number of labels before it is added. Otherwise a clustering would count by how many labels
          its cluster happens to hold, the coarse ones most, which mix the classes; only so is the calibration error low with 40
          labels, as in the paper's Table 6;
        - the sum is divided by its own total, not by the number of clusterings: a row says which class, not how many clusterings had a
          label;
        - seeds by sample, not by class; a random K of them where K < L;
        - the rows of labelled samples are one-hot.

    Args:
        features: (N, D), finite.
        labeled: (L,) idx.
        labels: (L,) their classes, 0 … C−1.
        num_classes: C.
        ks: the sizes; by default 1 … 6 times the number of classes, at most N. (The paper's 10, 20, …, 60 are those of CIFAR-10.
            Fewer clusters than classes must mix classes.)
        rng: what draws the clusterings.

    Raises:
        ValueError: features of another shape or not finite (names the rows); labelled idx out of range or repeated; as many
            labels as idx, or labels out of range; C below 1; a K outside 1 … N, or none.
    """
    points = as_points(features)
    check_count("num_classes", num_classes)
    labeled, labels = _checked_labels(labeled, labels, len(points), num_classes)
    sizes = [min(num_classes * times, len(points)) for times in range(1, 7)] if ks is None else list(ks)
    if not sizes:
        raise ValueError("ks: empty, expected at least one number of clusters")
    for clusters in sizes:
        check_count("ks", clusters, len(points), "samples")
    probs = np.zeros((len(points), num_classes), dtype=np.float32)
    if not len(labeled):
        return probs
    for clusters in sizes:
        _spread(probs, constrained_kmeans(points, clusters, labeled, rng), labeled, labels, clusters)
    _normalise(probs)
    probs[labeled] = np.eye(num_classes, dtype=np.float32)[labels]
    return probs


def partly_true(truth: ArrayLike, num_classes: int, correct: float, rng: np.random.Generator) -> Probs:
    """One-hot rows (N, C): a share of them of the true class, the others of one of the other classes, each as likely.

    Args:
        truth: (N,) classes, 0 … C−1.
        num_classes: C.
        correct: the share, 0 … 1; `round(correct · N)` rows are right.
        rng: what draws which rows are wrong, and how.

    Raises:
        ValueError: labels that are no classes; a share outside 0 … 1; or C = 1, where no other class is left for a wrong row.
    """
    truth = np.asarray(truth)
    check_count("num_classes", num_classes)
    check_labels(truth, len(truth) if truth.ndim else 1, num_classes)
    if not 0 <= correct <= 1:
        raise ValueError(f"correct: {correct} is no share, valid: 0 to 1")
    classes = truth.astype(np.int64)
    wrong = rng.permutation(len(classes))[round(correct * len(classes)) :]
    if len(wrong) and num_classes == 1:
        raise ValueError("correct: with one class there is no wrong one, valid: 1")
    if len(wrong):
        classes[wrong] = (classes[wrong] + rng.integers(1, num_classes, size=len(wrong))) % num_classes
    return np.eye(num_classes, dtype=np.float32)[classes]


def posterior(prior: ArrayLike, probs: ArrayLike) -> Probs:
    """Prior and prediction together, normalize(y_prior + y_pred) (B, C), Eq. 5; rows whose prior is zero are the prediction.

    Args:
        prior: (B, C) rows that sum to one, or are zero.
        probs: (B, C) predictions.

    Raises:
        ValueError: shapes that differ, or rows that are neither (names them).
    """
    prior, probs = np.asarray(prior), np.asarray(probs)
    if prior.shape != probs.shape:
        raise ValueError(f"prior: expected the shape of probs, {probs.shape}, got {prior.shape}")
    _check_rows("prior", prior)
    _check_rows("probs", probs)
    total = prior + probs
    return np.where(prior.any(axis=1, keepdims=True), total / np.maximum(total.sum(axis=1, keepdims=True), 1e-30), probs)


def expected_calibration_error(probs: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over bins of confidence, weighted by their samples (Naeini et al. 2015), in [0, 1].

    Args:
        probs: (N, C) rows that sum to one, or are zero, which is wrong, with confidence 0.
        labels: (N,) classes.
        bins: equally wide, (0, 1/bins], …, (1 − 1/bins, 1]; confidence 0 belongs to the first, and one that single precision has
            put just above an edge to the bin below it.

    Raises:
        ValueError: other shapes, no sample, rows that are neither (names them), labels out of range, or no bin.
    """
    probs, labels = np.asarray(probs), np.asarray(labels)
    check_count("bins", bins)
    _check_rows("probs", probs)
    check_labels(labels, len(probs), probs.shape[1])
    if not len(probs):
        raise ValueError("probs: no row to judge")
    confidence = probs.max(axis=1).astype(np.float64)
    correct = is_correct(probs, labels)
    place = np.clip(np.ceil(confidence * bins - EDGE).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(probs))


def is_correct(probs: NDArray, labels: NDArray) -> NDArray[np.bool_]:
    """(N,) whether the likeliest class is the label; never for a row of zeros, which says nothing."""
    return (probs.argmax(axis=1) == labels) & probs.any(axis=1)


def class_coverage(labels: ArrayLike, num_classes: int) -> int:
    """How many of the classes occur among the labels (L,). ValueError for labels that are no classes."""
    labels = np.asarray(labels)
    check_count("num_classes", num_classes)
    check_labels(labels, len(labels) if labels.ndim else 1, num_classes)
    return len(np.unique(labels))


def check_labels(labels: NDArray, size: int, num_classes: int) -> None:
    """ValueError when these are not `size` integers from 0 to C−1."""
    if labels.shape != (size,) or (size and not np.issubdtype(labels.dtype, np.integer)):
        raise ValueError(f"labels: expected {size} integers, got {labels.dtype} of shape {labels.shape}")
    bad = labels[(labels < 0) | (labels >= num_classes)] if size else labels
    if len(bad):
        raise ValueError(f"labels: {int(bad[0])} is no class, valid: 0 to {num_classes - 1}")


def _checked_labels(
    labeled: ArrayLike, labels: ArrayLike, size: int, num_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    labeled, labels = checked_idx("labeled", labeled), np.asarray(labels)
    check_range("labeled", labeled, size)
    check_labels(labels, len(labeled), num_classes)
    return labeled, labels.astype(np.int64)


def _check_rows(name: str, probs: NDArray) -> None:
    """ValueError naming the rows that are neither a distribution nor zero."""
    if probs.ndim != 2 or probs.shape[1] < 1:
        raise ValueError(f"{name}: expected shape (N, C), got {probs.shape}")
    total = probs.sum(axis=1, dtype=np.float64)
    bad = ~((np.abs(total - 1) <= SUM_TOLERANCE) | (total == 0)) | (probs < 0).any(axis=1)
    if bad.any():
        raise ValueError(f"{name}: must not be negative and sum to 1, or be zero, and does not in {named('row', np.flatnonzero(bad))}")


def _spread(probs: Probs, assignment: NDArray[np.int64], labeled: NDArray[np.int64], labels: NDArray[np.int64], clusters: int) -> None:
    """Add to each row the histogram of the labels in its cluster, in place."""
    histogram = np.zeros((clusters, probs.shape[1]))
    np.add.at(histogram, (assignment[labeled], labels), 1)
    histogram /= np.maximum(histogram.sum(axis=1, keepdims=True), 1)
    histogram = histogram.astype(np.float32)
    for rows in blocks(np.arange(len(probs)), probs.shape[1]):
        part = slice(rows[0], rows[-1] + 1)
        probs[part] += histogram[assignment[part]]


def _normalise(probs: Probs) -> None:
    for rows in blocks(np.arange(len(probs)), probs.shape[1]):
        part = probs[rows[0] : rows[-1] + 1]
        total = part.sum(axis=1, keepdims=True)
        np.divide(part, total, out=part, where=total > 0)
