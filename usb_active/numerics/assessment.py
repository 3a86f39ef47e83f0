"""How good a classifier is, as few labels say or none at all; and whether successive ones still differ.

Dimension letters: n labelled samples, U samples without a label, C classes. scipy is imported where it is needed: a command that measures
nothing does not wait for it.
"""

from __future__ import annotations

import numpy as np

CONFIDENCE = 0.95


def clopper_pearson(right: int, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The exact interval (low, high) of a share of which `right` of `total` draws are known.

    Clopper and Pearson, Biometrika 26 (1934): the shares that neither tail of the binomial rules out, each with (1 - confidence) / 2. It
    covers the true share with at least this probability, whatever the share is, so that it is rather too wide. With all right it is
    (α/2)^(1/n) to 1. The draws are independent; of a pool without replacement, as an audit is, it is wider still than it must be.

    Args:
        right: at least 0, at most `total`.
        total: n; 0 gives (0, 1).
        confidence: above 0, below 1.

    Raises:
        ValueError: values beyond these.
    """
    if not 0 <= right <= total:
        raise ValueError(f"right: {right} of {total}, must be from 0 to {total}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: {confidence}, must be above 0 and below 1")
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    low = 0.0 if right == 0 else float(betaincinv(right, total - right + 1, tail))
    high = 1.0 if right == total else float(betaincinv(right + 1, total - right, 1 - tail))
    return low, high


def paired_gain(before: str, after: str) -> float:
    """How likely it is that a classifier which is no better looks at least so much better on the same samples: the exact p, one-sided.

    McNemar (Psychometrika 12, 1947), by the binomial: of the samples that one of the two classifies right and the other wrong, as many are
    the later one's as in fair draws, or more. What both are right about, or wrong, says nothing.

    Args:
        before: for each sample "1" where the earlier classifier is right, "0" where it is wrong, another mark where nobody knows.
        after: the same of the later one.

    Returns:
        Above 0, at most 1; 1 where they differ in nothing.

    Raises:
        ValueError: of different lengths.
    """
    if len(before) != len(after):
        raise ValueError(f"marks of {len(before)} and of {len(after)} samples")
    from scipy.stats import binomtest

    pairs = [one + other for one, other in zip(before, after, strict=True)]
    gained, lost = pairs.count("01"), pairs.count("10")
    return 1.0 if gained + lost == 0 else float(binomtest(gained, gained + lost, alternative="greater").pvalue)


def mean_confidence(probs: np.ndarray) -> float:
    """The mean of the largest probability of each row of probs (U, C): what a calibrated classifier's accuracy would be.

    The score of Hendrycks and Gimpel (ICLR 2017), averaged: "average confidence" in Guillory et al. (ICCV 2021). In 1/C … 1.

    Raises:
        ValueError: no row, or not two dimensions.
    """
    return float(_rows(probs).max(axis=1).mean(dtype=np.float64))


def mean_entropy(probs: np.ndarray) -> float:
    """The mean entropy in nats of the rows of probs (U, C): 0 … ln C. The overall uncertainty of Zhu, Wang and Hovy (COLING 2008).

    Raises:
        ValueError: no row, or not two dimensions.
    """
    values = _rows(probs).astype(np.float64)
    logs = np.log(np.where(values > 0, values, 1.0))
    return float(-(values * logs).sum(axis=1).mean())


def cohen_kappa(one: np.ndarray, other: np.ndarray, num_classes: int) -> float:
    """The agreement of two classifiers beyond chance, of their classes (U,): 1 the same, 0 as by chance, down to -1.

    Cohen, Educational and Psychological Measurement 20 (1960): (a - e) / (1 - e), a the share of equal classes, e what it would be if
    both drew from their own shares of the classes. Both always of one and the same class: 1.

    Raises:
        ValueError: no sample, other lengths, or classes that do not exist.
    """
    one, other = np.asarray(one), np.asarray(other)
    if one.ndim != 1 or one.shape != other.shape or one.size == 0:
        raise ValueError(f"two classifications of the same samples, got shapes {one.shape} and {other.shape}")
    if min(one.min(), other.min()) < 0 or max(one.max(), other.max()) >= num_classes:
        raise ValueError(f"classes must be from 0 to {num_classes - 1}")
    shares = [np.bincount(classes, minlength=num_classes) / len(one) for classes in (one, other)]
    agreed, by_chance = float((one == other).mean()), float(shares[0] @ shares[1])
    return 1.0 if agreed == 1 else (agreed - by_chance) / (1 - by_chance)


def _rows(probs: np.ndarray) -> np.ndarray:
    probs = np.asarray(probs)
    if probs.ndim != 2 or len(probs) == 0:
        raise ValueError(f"probs must be (U, C) with a row at least, got {probs.shape}")
    return probs
