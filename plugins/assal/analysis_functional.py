"""What the analysis of an autoencoder computes: numpy alone, so that a report brings no torch.

Dimension letters: B batch, d length of the code, R images, T steps of a traversal, c channels, H height, W width, N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Of the histogram of D = P(labelled), from 0 to 1.
BINS = 20


class CodeSpread:
    """Mean and variance of each dimension of the codes that were shown, batch by batch (Chan et al. 1979).

    Args:
        length: d.
    """

    def __init__(self, length: int):
        self.count, self.mean, self._squares = 0, np.zeros(length), np.zeros(length)

    def add(self, codes: NDArray) -> None:
        """Take (B, d) more into account."""
        codes = np.asarray(codes, dtype=np.float64)
        total = self.count + len(codes)
        if not len(codes):
            return
        mean = codes.mean(axis=0)
        apart = mean - self.mean
        self._squares += ((codes - mean) ** 2).sum(axis=0) + apart**2 * self.count * len(codes) / total
        self.mean += apart * len(codes) / total
        self.count = total

    @property
    def variance(self) -> NDArray[np.float64]:
        """(d,) over the samples so far, not corrected for their number."""
        return self._squares / max(1, self.count)


def widest_directions(variance: NDArray, number: int = 2) -> NDArray[np.int64]:
    """The dimensions with the largest of (d,) variances, largest first; of equal ones the first. At most d of them."""
    return np.argsort(-np.asarray(variance), kind="stable")[:number]


def traversal_values(mean: float, variance: float, steps: int, deviations: float = 2.0) -> NDArray[np.float64]:
    """(T,) values of a dimension, evenly from `deviations` standard deviations below its mean to as many above."""
    return mean + np.linspace(-deviations, deviations, steps) * np.sqrt(variance)


def traversal_codes(starts: NDArray, direction: int, values: NDArray) -> NDArray[np.float32]:
    """(R, T, d) of codes (R, d), of which one dimension takes each of the values (T,), and the others stay."""
    codes = np.repeat(np.asarray(starts, dtype=np.float32)[:, None], len(values), axis=1)
    codes[:, :, direction] = values
    return codes


def to_pixels(views: NDArray, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.uint8]:
    """(…, H, W, c) of views (…, c, H, W): the normalisation undone, clipped to 0 and 1, on a scale of 255.

    Args:
        mean: (c,) or (1,), of the data set, for images from 0 to 1.
        std: likewise.
    """
    shape = (-1, 1, 1)
    pixels = np.asarray(views, dtype=np.float64) * np.reshape(std, shape) + np.reshape(mean, shape)
    return np.moveaxis(np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8), -3, -1)


def labeled_probability(logits: NDArray) -> NDArray[np.float64]:
    """D = P(labelled) of its logits, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logits, dtype=np.float64)))


def score_histogram(logits: NDArray) -> NDArray[np.int64]:
    """(BINS,) how many samples have a D in each of as many equal parts of 0 to 1; 1 is in the last."""
    return np.histogram(labeled_probability(logits), bins=BINS, range=(0.0, 1.0))[0]


def pools_told_apart(labeled: NDArray, unlabeled: NDArray) -> float | None:
    """Balanced accuracy of the sampler's logits: the mean over both pools of the share told right, ½ is chance. None if one is empty."""
    if not len(labeled) or not len(unlabeled):
        return None
    return 0.5 * (float((np.asarray(labeled) > 0).mean()) + float((np.asarray(unlabeled) <= 0).mean()))


def kept_first(pool: NDArray, earlier: NDArray, number: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """At most `number` of the pool (N,): those shown earlier that are still in it, in their order, then others drawn at random."""
    kept = earlier[np.isin(earlier, pool)][:number]
    others = rng.permutation(np.setdiff1d(pool, kept))
    return np.concatenate([kept, others[: number - len(kept)]]).astype(np.int64)


@dataclass(frozen=True)
class Shown:
    """What the analysis keeps of a cycle, as a file has it.

    Attributes:
        cycle: its number.
        labels: how many samples were labelled.
        labeled_idx: (R,) dataset indices of the labelled images shown.
        labeled_images: (R, H, W, c) uint8, as the network sees them.
        labeled_reconstructions: of the same shape, decoded from μ.
        unlabeled_idx: as for the labelled.
        unlabeled_images: likewise.
        unlabeled_reconstructions: likewise.
        samples: (R, H, W, c) uint8, decoded from the unit Gaussian.
        variance: (d,) of μ over the pool.
        directions: (2,) the dimensions traversed; (1,) where the code has but one.
        values: (2, T) of each of them.
        starts: (R, 2, H, W, c) uint8, the images that the traversals begin with, and their reconstructions.
        traversals: (2, R, T, H, W, c) uint8.
        labeled_logits: of the sampler for all labelled samples, in the order of their indices; none where the algorithm has no sampler.
        unlabeled_logits: likewise.
        edges: (BINS + 1,) of the histogram.
        labeled_counts: (BINS,) see `score_histogram`.
        unlabeled_counts: (BINS,) likewise.
    """

    cycle: int
    labels: int
    labeled_idx: NDArray
    labeled_images: NDArray
    labeled_reconstructions: NDArray
    unlabeled_idx: NDArray
    unlabeled_images: NDArray
    unlabeled_reconstructions: NDArray
    samples: NDArray
    variance: NDArray
    directions: NDArray
    values: NDArray
    starts: NDArray
    traversals: NDArray
    labeled_logits: NDArray
    unlabeled_logits: NDArray
    edges: NDArray
    labeled_counts: NDArray
    unlabeled_counts: NDArray

    @property
    def has_scores(self) -> bool:
        """Whether a sampler has scored the pool."""
        return len(self.labeled_logits) + len(self.unlabeled_logits) > 0

    @property
    def balanced_accuracy(self) -> float | None:
        """See `pools_told_apart`."""
        return pools_told_apart(self.labeled_logits, self.unlabeled_logits)
