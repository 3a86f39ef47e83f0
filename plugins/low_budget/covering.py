"""ProbCover: as many samples as possible in balls of one radius around labelled ones (Yehuda et al. 2022).

O. Yehuda, A. Dekel, G. Hacohen, D. Weinshall, "Active Learning Through a Covering Lens", NeurIPS 2022. The features have length one.

Dimension letters: N pool, M candidates, L labelled, D feature dimension, K clusters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from usb_active.plugins.low_budget.balls import Balls, Degrees, nearest_stranger
from usb_active.plugins.low_budget.inputs import above_zero, unit_pool

from usb_active.numerics.arrays import check_count, checked_features, unit_rows
from usb_active.numerics.kmeans import kmeans_centres, nearest_centres

# Of k-means, from random rows. With many clusters single runs differ little.
_ITERATIONS, _STARTS, _CLUSTERS_STARTED = 25, 10, 400


class Covering(NamedTuple):
    """What ProbCover picked.

    Attributes:
        idx: (budget,) in the order of picking.
        coverage: the share of the pool in a ball of a labelled or picked sample.
    """

    idx: NDArray[np.int64]
    coverage: float


def prob_cover(
    features: ArrayLike,
    labeled: ArrayLike,
    budget: int,
    rng: np.random.Generator,
    *,
    delta: float,
    candidates: ArrayLike | None = None,
) -> Covering:
    """ProbCover (Yehuda et al. 2022, Algorithm 1): always the candidate whose ball holds most samples that no ball holds yet.

    Exact. Equals, such as all that is left when everything is covered, follow `rng.permutation(candidates)`. The authors' code takes the
    first in the order of the pool, a labelled one among them; and it makes no edges for the last N mod 500 samples, which can then be
    covered but hardly be picked. Here every sample has its ball.

    Args:
        features: (N, D), finite.
        labeled: (L,) idx, whose balls are covered from the start.
        budget: how many to pick, 1..M.
        rng: what draws the order of equals.
        delta: the radius, above 0 (from 2 on everything is one ball); `purity_radius` finds one.
        candidates: (M,) idx, by default all others.

    Raises:
        ValueError: features that are not finite (names the rows), idx that are out of range, repeated, or both labelled and candidate,
            a budget outside 1..M, and a delta that is not above 0.
    """
    rows, labeled, candidates = unit_pool(features, labeled, candidates, budget)
    balls, order = Balls(rows, above_zero("delta", delta)), rng.permutation(candidates)
    degrees = Degrees(balls, order, balls.union(labeled, np.arange(len(rows))))
    free, picks = np.ones(len(order), bool), np.empty(budget, np.int64)
    for step in range(budget):
        best = int(np.argmax(np.where(free, degrees.values, -1)))
        free[best], picks[step] = False, order[best]
        degrees.pick(best)
    return Covering(picks, float(degrees.covered.mean()))


def purity_radius(features: ArrayLike, clusters: int, rng: np.random.Generator, *, purity: float = 0.95) -> float:
    """The largest radius at which so many balls are pure (Yehuda et al. 2022, §4.2), without labels.

    Pseudo-labels are the clusters of k-means (as many as classes; the best of up to ten starts). A ball |x - y| < radius is
    pure when all in it have its centre's pseudo-label, which is when the nearest sample of another one is at the radius or beyond. So the
    radius is an order statistic of those N distances, d(1) <= d(2) <= …: d(k + 1) with k = floor((1 - purity) N) balls that may be
    impure; at most 2, which no two samples are farther apart than. The paper looks for it on a grid. Copies in two clusters count as
    impure at any radius.

    Args:
        features: (N, D), finite.
        clusters: K, 2..N.
        rng: what draws the seed of k-means.
        purity: the share, above 0 and at most 1; 0.95 is the paper's.

    Returns:
        The radius, above 0 and at most 2.

    Raises:
        ValueError: features that are not finite (names the rows), K or a purity out of range, and more copies in different clusters
            than may be impure, so that there is no such radius.
    """
    features = checked_features(features)
    check_count("clusters", clusters, len(features), "rows of features")
    if not 0 < purity <= 1:
        raise ValueError(f"purity: {purity!r}, expected above 0 and at most 1")
    rows = unit_rows(features)
    starts = min(max(1, _CLUSTERS_STARTED // clusters), _STARTS)
    centres = kmeans_centres(rows, clusters, int(rng.integers(2**31 - 1)), iterations=_ITERATIONS, starts=starts)
    distances = np.sort(nearest_stranger(rows, nearest_centres(rows, centres)[1]))
    # Of a share such as 0.95 · 60 = 57 that is no exact number in binary, the balls that may be impure are 3.
    radius = min(float(distances[min(int((1 - purity) * len(rows) + 1e-9), len(rows) - 1)]), 2.0)
    if not radius > 0:
        raise ValueError(f"features: no radius has {purity:g} of its balls pure, for copies in different clusters; give delta a number")
    return radius
