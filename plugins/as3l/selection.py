"""What AS3L and TypiClust pick: from the largest groups without a label, the most central or the most typical sample.

Dimension letters: N pool, M candidates, L labelled, D feature dimension, K clusters, G groups.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from usb_active.plugins.as3l.clustering import kmeans, quick_kmeans, together

from usb_active.numerics.arrays import blocks, check_count
from usb_active.numerics.faiss_import import import_faiss
from usb_active.numerics.greedy import checked_pool
from usb_active.numerics.kmeans import as_points
from usb_active.numerics.ranking import top_k
from usb_active.numerics.spaces import square_norms

Array = NDArray[np.float64]


def select(
    features: ArrayLike,
    budget: int,
    *,
    clusterings: int = 6,
    labeled: ArrayLike = (),
    candidates: ArrayLike | None = None,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Medoids of the largest groups of samples that fall together in all of C runs of k-means (AS3L, §3.2.2).

    K is L + budget. The paper's single shot, where nothing is labelled, has K = budget (§4.1.3); in a later round (ours) fewer
    clusters than labels could not keep them apart: on digits, 10 labels and three rounds of 10, the prior then is right for
    86 %, as with random picks, in place of 93 %.

    The paper's Algorithm 1 is not public; the reading is ours: the largest group first, equal sizes in random order, and of each
    the candidate with the least sum of squared distances to all of the group, which is the one nearest to its mean. All samples
    take part in the runs and the groups, also those that cannot be queried. A labelled sample counts as a pick of its group: groups
    without one come first, and every group has its turn before any has its second. C = 1 is K-medoids.

    Args:
        features: (N, D), finite.
        budget: how many to pick, 1 … M.
        clusterings: C, at least 1.
        labeled: (L,) idx.
        candidates: (M,) idx, by default all others.
        rng: what draws the clusterings, and the order of equals.

    Returns:
        idx (budget,) in order of picking.

    Raises:
        ValueError: features that are not finite (names the rows), idx that are out of range, repeated, or both labelled and candidate,
            a budget outside 1 … M, and C below 1.
    """
    features, labeled, candidates = checked_pool(features, labeled, candidates, budget)
    check_count("clusterings", clusterings)
    points = as_points(features)
    groups = together([kmeans(points, len(labeled) + budget, rng) for _ in range(clusterings)])
    return _by_turns(groups, labeled, candidates, budget, partial(_centrality, points), rng)


def typiclust(
    features: ArrayLike,
    budget: int,
    *,
    labeled: ArrayLike = (),
    candidates: ArrayLike | None = None,
    max_clusters: int = 500,
    neighbors: int = 20,
    min_size: int = 6,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """The most typical candidates of the largest clusters without a label: TypiClust (Hacohen et al. 2022, §3.3, Algorithm 1).

    K-means with min(L + budget, `max_clusters`) clusters; those of fewer than `min_size` samples come last, since they hold outliers
    (the authors' public code wants more than 5, and drops the others); typicality is the inverse mean distance to the nearest
    min(`neighbors`, cluster size − 1) other samples of the cluster. When all clusters hold a label, those that hold the fewest
    come first. Searching neighbours takes time by the square of a cluster's size: many samples in few clusters are slow.

    Differs from the authors' public code in three ways. Distances are plain, as in the paper; the code's are squared. Neighbours are
    sought among all members of a cluster, labelled and picked ones too: how dense a place is does not change when it is labelled; the code
    looks among the others, at half of them where they are fewer than 40. When every cluster has had its pick, the one with the fewest
    labels and picks goes on; the code begins its list again, so that a cluster with labels gets a second pick as soon as one without.

    Args:
        features: (N, D), finite.
        budget: how many to pick, 1 … M.
        labeled: (L,) idx.
        candidates: (M,) idx, by default all others.
        max_clusters: at most so many clusters.
        neighbors: at most so many give a sample's typicality.
        min_size: clusters of fewer samples come last.
        rng: what draws the clusters, and the order of equals.

    Returns:
        idx (budget,) in order of picking.

    Raises:
        ValueError: what `select` raises it for, and `max_clusters`, `neighbors` or `min_size` below 1.
    """
    features, labeled, candidates = checked_pool(features, labeled, candidates, budget)
    check_count("max_clusters", max_clusters)
    check_count("neighbors", neighbors)
    check_count("min_size", min_size)
    points = as_points(features)
    groups = quick_kmeans(points, min(len(labeled) + budget, max_clusters), rng)
    return _by_turns(groups, labeled, candidates, budget, partial(_typicality, points, neighbors), rng, min_size)


class _Score(Protocol):
    def __call__(self, members: NDArray[np.int64], among: NDArray[np.int64], count: int) -> Array:
        """(m,) scores of members[among], where `members` (n,) are a group. Only the `count` highest need be exact."""


def _by_turns(
    groups: NDArray[np.int64],
    labeled: NDArray[np.int64],
    candidates: NDArray[np.int64],
    budget: int,
    score: _Score,
    rng: np.random.Generator,
    min_size: int = 1,
) -> NDArray[np.int64]:
    """Picks (budget,): the groups (N,) take turns, and each gives its candidates by their score, highest first."""
    turns = _turns(groups, labeled, candidates, budget, rng, min_size)
    by_group = np.argsort(groups, kind="stable")
    ends = np.cumsum(np.bincount(groups))
    is_candidate = np.zeros(len(groups), dtype=bool)
    is_candidate[candidates] = True
    picks = np.empty(budget, dtype=np.int64)
    for group in np.unique(turns):
        members = by_group[ends[group - 1] if group else 0 : ends[group]]
        among = np.flatnonzero(is_candidate[members])
        places = np.flatnonzero(turns == group)
        picks[places] = top_k(score(members, among, len(places)), members[among], len(places), rng)
    return picks


def _turns(
    groups: NDArray[np.int64],
    labeled: NDArray[np.int64],
    candidates: NDArray[np.int64],
    budget: int,
    rng: np.random.Generator,
    min_size: int,
) -> NDArray[np.int64]:
    """(budget,) the group of each pick: those below `min_size` last; fewest labels and picks first, then largest, ties broken at random."""
    sizes = np.bincount(groups)
    covered, askable = (np.bincount(groups[idx], minlength=len(sizes)) for idx in (labeled, candidates))
    turns = np.repeat(np.arange(len(sizes)), askable)
    first = np.repeat(np.cumsum(askable) - askable, askable)
    rounds = np.arange(len(turns)) - first + covered[turns]
    tie_break = rng.permutation(len(sizes))
    return turns[np.lexsort((tie_break[turns], -sizes[turns], rounds, sizes[turns] < min_size))[:budget]]


def _centrality(points: NDArray[np.float32], members: NDArray[np.int64], among: NDArray[np.int64], count: int) -> Array:
    """Less squared distance to the mean of the members. The sum of the squared distances to all n of them is n times that and a
    constant, so the highest is the medoid's."""
    dim, chosen = points.shape[1], members[among]
    mean = sum(points[part].sum(axis=0, dtype=np.float64) for part in blocks(members, dim)) / len(members)
    return -np.concatenate([((points[part] - mean) ** 2).sum(axis=1) for part in blocks(chosen, dim)])


def _typicality(points: NDArray[np.float32], neighbors: int, members: NDArray[np.int64], among: NDArray[np.int64], count: int) -> Array:
    """Less the mean distance to the nearest of the other members, which is the order of its inverse."""
    nearest = min(neighbors, len(members) - 1)
    if nearest < 1:
        return np.zeros(len(among))
    rows = points[members]
    squared, found = import_faiss().knn(rows[among], rows, nearest + 1)
    own = found == among[:, None]
    # Among copies a sample may not be in its own list.
    own[~own.any(axis=1), -1] = True
    others, squared = (array[~own].reshape(len(among), nearest) for array in (found, squared))
    scores = -np.sqrt(np.maximum(squared, 0), dtype=np.float64).mean(axis=1)
    # Products in single precision are wrong by a little, and may tell copies apart by position: what may be among the highest
    # is computed exactly. As in `usb_active.numerics.greedy`, the error of a square is below 4 (D + 4) 2^-24 times two square norms.
    slack = np.sqrt(8 * (points.shape[1] + 4) * 2.0**-24 * square_norms(rows).max())
    contenders = np.flatnonzero(scores >= np.partition(scores, -count)[-count] - 2 * slack)
    for at in blocks(contenders, nearest * points.shape[1]):
        differences = rows[others[at]].astype(np.float64) - rows[among[at]][:, None]
        scores[at] = -np.sqrt((differences**2).sum(axis=2)).mean(axis=1)
    return scores
