"""CDAL: contextual diversity (Agarwal et al. 2020), in the form CDAL-CS for classification.

The paper describes an image by one mixture of predicted distributions for each class: the mean of those of its regions
that are predicted as that class, weighted by their entropy. An image that is classified as a whole is one region; a mixture of one
distribution is that distribution, whatever its weight. So the contextual distance, the symmetric KL divergence summed
over the mixtures, is that of the two images' predicted distributions.

Dimension letters: N pool, M candidates, L labelled, C classes, B rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from usb_active.numerics.arrays import blocks, score_rows
from usb_active.numerics.greedy import checked_pool, farthest_first

# What single precision resolves beside one. Below it a softmax of float32 says nothing, and zero would be infinitely far.
FLOOR = 2.0**-23


def cdal(
    probs: ArrayLike,
    labeled: ArrayLike,
    budget: int,
    rng: np.random.Generator,
    *,
    candidates: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Greedy k-center under the contextual distance, from what is labelled (Agarwal et al. 2020, CDAL-CS).

    Each pick has the largest `contextual_distance` to its nearest centre, labelled or picked before. Equal distances are resolved by
    `rng.permutation(candidates)`; without labelled samples the first pick is uniform. The picks are those of the plain loop, with
    memory O(N) and blocks.

    Args:
        probs: (N, C), rows that are a distribution.
        labeled: (L,) idx of the first centres.
        budget: how many to pick, 1..M.
        rng: what draws the order of the candidates.
        candidates: (M,) idx, by default all others.

    Returns:
        idx (budget,) in the order of picking.

    Raises:
        ValueError: probs that are no distribution (names the rows), idx that are out of range, repeated, or both labelled and
            candidate, and a budget outside 1..M.
    """
    score_rows(probs, lambda p: np.zeros(len(p)))
    probs, labeled, candidates = checked_pool(probs, labeled, candidates, budget, name="probs")
    return farthest_first(DivergenceSpace(probs), rng.permutation(candidates), labeled, budget)


def contextual_distance(p: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """(KL(p || q) + KL(q || p)) / 2 of the rows of p and q, in nats.

    Probabilities below `FLOOR` = 2^-23 count as that, so that it is finite: at most 15.95.

    Args:
        p: (B, C), or one row (C,).
        q: (B, C), or one row (C,).

    Returns:
        (B,).
    """
    p, q = (np.maximum(np.asarray(x, dtype=np.float64), FLOOR) for x in (p, q))
    # Each term is a product of two factors of one sign: nothing cancels.
    return 0.5 * ((p - q) * (np.log(p) - np.log(q))).sum(axis=-1)


class DivergenceSpace:
    """Contextual distances between rows of probs (N, C)."""

    def __init__(self, probs: NDArray) -> None:
        self.probs = probs
        self.dim = 2 * probs.shape[1] + 2

    def rows(self, idx: NDArray) -> NDArray[np.float64]:
        return np.maximum(self.probs[idx].astype(np.float64), FLOOR)

    def squared(self, idx: NDArray, others: NDArray) -> NDArray[np.float64]:
        pairs = blocks(np.arange(len(idx)), self.dim)
        parts = [contextual_distance(self.rows(idx[at]), self.rows(others[at])) for at in pairs]
        return np.concatenate(parts) if parts else np.empty(0)

    def among(self, idx: NDArray) -> Callable[[int], NDArray[np.float64]]:
        p = self.rows(idx)
        logs = np.log(p)
        return lambda at: 0.5 * ((p - p[at]) * (logs - logs[at])).sum(axis=1)

    def screen(self, centres: NDArray) -> _DivergenceScreen:
        return _DivergenceScreen(self, centres)


class _DivergenceScreen:
    """Bounds from one matrix product: 2J(p, q) = sum p log p + sum q log q - sum p log q - sum q log p.

    In double precision: the four sums are each below -log FLOOR in size (sums of probabilities within the tolerance), so
    rounding moves the total by less than (2C + 8) 2^-53 times four of those.
    """

    def __init__(self, space: DivergenceSpace, centres: NDArray) -> None:
        self.space = space
        self.slack = (space.dim + 6) * 2.0**-51 * -np.log(FLOOR)
        q, logs, own = self._terms(centres)
        self.factors = np.concatenate([-0.5 * logs, -0.5 * q, own, np.ones_like(own)], axis=1)

    def distances(self, idx: NDArray) -> NDArray[np.float64]:
        """(B, K): within `slack` of the truth."""
        p, logs, own = self._terms(idx)
        return np.concatenate([p, logs, np.ones_like(own), own], axis=1) @ self.factors.T

    def _terms(self, idx: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """p and log p (B, C), and half of sum p log p (B, 1)."""
        p = self.space.rows(idx)
        logs = np.log(p)
        return p, logs, 0.5 * np.einsum("nc,nc->n", p, logs)[:, None]

    def upper(self, idx: NDArray) -> NDArray[np.float64]:
        return np.maximum(self.distances(idx).min(axis=1), 0.0) + self.slack

    def contenders(self, idx: NDArray, upper: NDArray) -> tuple[NDArray, NDArray]:
        distances = self.distances(idx)
        limit = np.minimum(upper, distances.min(axis=1) + self.slack) + self.slack
        return np.nonzero(distances <= limit[:, None])
