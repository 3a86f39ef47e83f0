"""MaxHerding and UHerding: greedy coverage of the pool by a kernel, exact and lazy.

W. Bae, J. Noh, D. J. Sutherland, "Generalized Coverage for More Robust Low-Budget Active Learning", ECCV 2024; and W. Bae, G. L. Oliveira,
D. J. Sutherland, "Uncertainty Herding: One Active Learning Method for All Label Budgets", ICLR 2025. The features have length one, and
k(x, y) = exp(-|x - y|^2 / bandwidth^2), as in the authors' code (no 2 in the denominator).

Dimension letters: N pool, M candidates, L labelled, C classes, D feature dimension.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from usb_active.plugins.low_budget.inputs import above_zero, checked_bandwidth, checked_rows, tempered, unit_pool
from usb_active.plugins.low_budget.kernel_gains import KernelGains, kernel_to_nearest

from usb_active.numerics.arrays import (
    check_range,
    checked_features,
    checked_idx,
    entropy,
    least_confidence,
    margin,
    named,
    nonfinite_rows,
    score_rows,
    unit_rows,
)
from usb_active.numerics.spaces import EuclideanSpace

Uncertainty = Literal["margin", "entropy", "least_confidence"]
# Distances of features of length one below which they are copies: rounding to single precision, or an image that was saved anew.
_COPIES = 1e-3
_SCORES = {"margin": lambda p: 1 - margin(p), "entropy": entropy, "least_confidence": least_confidence}


def max_herding(
    features: ArrayLike,
    labeled: ArrayLike,
    budget: int,
    rng: np.random.Generator,
    *,
    candidates: ArrayLike | None = None,
    bandwidth: float = 1.0,
) -> NDArray[np.int64]:
    """MaxHerding (Bae et al. 2024, Algorithm 1): always the candidate that raises the generalized coverage most.

    The coverage is the mean over the pool of the kernel to the nearest labelled or picked sample. Bandwidth 1 is the paper's (§3.2).

    The picks are those of the plain loop in double precision; gains within 1e-9 of the largest count as equal, and equals follow
    `rng.permutation(candidates)`. Gains only shrink, so old ones are upper bounds and few are computed again for a pick; memory is two
    copies of the features in single precision, O(N) and blocks. The authors' code holds the kernel of all pairs, and for that looks at a
    random part of at most 35,000 samples; here all are looked at.

    Args:
        features: (N, D), finite.
        labeled: (L,) idx of what covers already.
        budget: how many to pick, 1..M.
        rng: what draws the order of equals.
        candidates: (M,) idx, by default all others.
        bandwidth: above 0, in units of the distance between features of length one.

    Returns:
        idx (budget,) in the order of picking.

    Raises:
        ValueError: features that are not finite (names the rows), idx that are out of range, repeated, or both labelled and candidate,
            a budget outside 1..M, and a bandwidth that is not above 0 or below 1e-100.
    """
    rows, labeled, candidates = unit_pool(features, labeled, candidates, budget)
    gains = KernelGains(rows, np.ones(len(rows)), checked_bandwidth(bandwidth), labeled)
    return gains.pick(rng.permutation(candidates), budget)


def u_herding(
    features: ArrayLike,
    probs: ArrayLike,
    labeled: ArrayLike,
    budget: int,
    rng: np.random.Generator,
    *,
    candidates: ArrayLike | None = None,
    bandwidth: float | None = None,
    uncertainty: Uncertainty = "margin",
    temperature: float = 1.0,
) -> NDArray[np.int64]:
    """UHerding (Bae et al. 2025, Algorithm 1): MaxHerding with every sample weighed by its uncertainty, labelled ones by zero.

    The bandwidth follows the paper's rule (§4.2): the smallest distance between labelled samples, so that it shrinks as labels come. As in
    the authors' code copies do not count, and it is 1 with fewer than two labelled samples that differ. Ours: what is less than 0.001 apart
    is a copy too, because one pair of near-copies would make the kernel so narrow that nothing covers anything (`label_bandwidth`).

    The temperature is the caller's (1: as the model predicts). The paper fits it on a part of the labels, by a model that is trained
    without these; here that would be a training more in every cycle.

    Args:
        features: (N, D), finite.
        probs: (N, C), rows that are a distribution.
        labeled: (L,) idx of what covers already.
        budget: how many to pick, 1..M.
        rng: what draws the order of equals.
        candidates: (M,) idx, by default all others.
        bandwidth: above 0; None: by the paper's rule.
        uncertainty: "margin" (1 - difference of the two largest), "entropy" (nats) or "least_confidence" (1 - largest).
        temperature: above 0, of the probabilities.

    Returns:
        idx (budget,) in the order of picking.

    Raises:
        ValueError: what `max_herding` raises it for, probs that are no distribution (names the rows) or another number of rows, an unknown
            uncertainty, and a temperature that is not above 0.
    """
    if uncertainty not in _SCORES:
        raise ValueError(f"uncertainty: {uncertainty!r}, expected 'margin', 'entropy' or 'least_confidence'")
    rows, labeled, candidates = unit_pool(features, labeled, candidates, budget)
    probs, temperature = checked_rows(probs, len(rows)), above_zero("temperature", temperature)
    weights = np.maximum(score_rows(probs, lambda p: _SCORES[uncertainty](tempered(p, temperature))), 0.0)
    weights[labeled] = 0
    width = label_bandwidth(features, labeled) if bandwidth is None else checked_bandwidth(bandwidth)
    return KernelGains(rows, weights, width, labeled).pick(rng.permutation(candidates), budget)


def label_bandwidth(features: ArrayLike, labeled: ArrayLike) -> float:
    """The bandwidth of `u_herding` by the paper's rule: `smallest_distance` of the labelled features, scaled to length one.

    Args:
        features: (N, D), those of the labelled samples finite.
        labeled: (L,) idx; there may be none.

    Returns:
        In 0.001..2; 1 with fewer than two labelled samples that differ.

    Raises:
        ValueError: idx that are out of range or repeated, and labelled features that are not finite (names their rows).
    """
    features, labeled = np.asarray(features), checked_idx("labeled", labeled)
    check_range("labeled", labeled, len(features))
    bad = labeled[nonfinite_rows(features[labeled])]
    if len(bad):
        raise ValueError(f"features: not finite in {named('row', bad)}")
    return smallest_distance(unit_rows(features[labeled]))


def smallest_distance(rows: NDArray, default: float = 1.0) -> float:
    """The smallest Euclidean distance between rows (L, D), of length one, that differ; `default` where no two do.

    Distances below 0.001 count as those of copies: so much comes of rounding to single precision, or of an image that was saved anew.
    """
    space, best = EuclideanSpace(rows) if len(rows) > 1 else None, np.inf
    for at in range(1, len(rows)):
        distances = np.sqrt(space.squared(np.arange(at), np.full(at, at))) / space.scale
        best = min(best, distances[distances >= _COPIES].min(initial=np.inf))
    return float(best) if np.isfinite(best) else default


def generalized_coverage(features: ArrayLike, chosen: ArrayLike, *, bandwidth: float = 1.0) -> float:
    """The mean over the pool of the kernel to the nearest of the chosen samples (Bae et al. 2024, Eq. 3), in 0..1.

    Args:
        features: (N, D), finite.
        chosen: (S,) idx; 0 where there are none.
        bandwidth: as in `max_herding`.

    Raises:
        ValueError: features of another shape or not finite (names the rows), idx out of range or repeated, and a bandwidth that is not
            above 0 or below 1e-100.
    """
    rows, chosen = unit_rows(checked_features(features)), checked_idx("chosen", chosen)
    check_range("chosen", chosen, len(rows))
    return float(kernel_to_nearest(rows, chosen, checked_bandwidth(bandwidth)).mean())
