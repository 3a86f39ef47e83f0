"""Picks by distance: greedy k-center, and the seeds of k-means++. Exact, and fast by bounds.

Dimension letters: N pool, M candidates, L labelled, D feature dimension. Every `idx` is a position in the arrays that
span the pool, never a position among the candidates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from usb_active.numerics.arrays import blocks, check_budget, checked_split
from usb_active.numerics.ranking import leading
from usb_active.numerics.spaces import EuclideanSpace, Space

# Candidates kept current at once; proposals drawn at once. Both trade the number of products for their size.
_FRONT = 64
_PROPOSALS = 64


def k_center_greedy(
    features: ArrayLike,
    labeled: ArrayLike,
    budget: int,
    *,
    candidates: ArrayLike | None = None,
    rng: np.random.Generator | None = None,
) -> NDArray[np.int64]:
    """Greedy k-center, also "core-set" (Sener & Savarese 2018, algorithm 1): always the farthest candidate.

    Each pick has the largest Euclidean distance to its nearest centre, labelled or picked before. The picks are those of the plain
    loop in double precision, not an approximation. Equal distances are resolved by a random order of the candidates, drawn once as
    `rng.permutation(candidates)`; without labelled samples all are equally far and the first pick is uniform.

    A distance can only shrink as centres are added, so an old one is an upper bound, and only the leading
    candidates are kept current. Memory beyond the features, which may be a memory map: O(N) and blocks.

    Args:
        features: (N, D), finite; may be a memory map.
        labeled: (L,) idx of the first centres.
        budget: how many to pick, 1..M.
        candidates: (M,) idx, by default all others.
        rng: what draws the order of the candidates. It may be left out when there are labelled samples: ties then follow
            `default_rng(0)`.

    Returns:
        idx (budget,) in the order of picking.

    Raises:
        ValueError: features that are not finite (names the rows), idx that are out of range, repeated, or both labelled and
            candidate, and a budget outside 1..M.
    """
    features, labeled, candidates = checked_pool(features, labeled, candidates, budget)
    if rng is None and not len(labeled):
        raise ValueError("rng: needed when nothing is labelled, since the first pick is then random")
    order = (np.random.default_rng(0) if rng is None else rng).permutation(candidates)
    return farthest_first(EuclideanSpace(features), order, labeled, budget)


def kmeans_plus_plus(
    features: ArrayLike,
    budget: int,
    rng: np.random.Generator,
    *,
    candidates: ArrayLike | None = None,
    labeled: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    first: int | None = None,
) -> NDArray[np.int64]:
    """Seeds of k-means++ (Arthur & Vassilvitskii 2007, section 2.2): D^2 sampling without repetition.

    Without labelled centres the first pick is uniform, or the candidate `first`; each further one is drawn with probability
    proportional to its squared Euclidean distance to the nearest centre. When only copies of centres are left, the draw is uniform
    over the candidates not yet picked.

    Exact in distribution, by rejection: old distances are upper bounds to propose from, and a proposal is
    accepted with probability current / old. Memory as in `k_center_greedy`.

    Args:
        features: (N, D).
        budget: how many to pick, 1..M.
        rng: what draws them.
        candidates: (M,) idx, by default all that is not labelled.
        labeled: (L,) idx of centres that exist already; by default none.
        weights: (N,): the distances are those of weights[i] * features[i], which are never held all at once.
        first: the candidate to begin with, where nothing is labelled.

    Returns:
        idx (budget,), distinct, as drawn.

    Raises:
        ValueError: what `k_center_greedy` raises it for; a `first` that is no candidate or stands beside labelled centres; and weights
            of another length or not finite (names the rows).
    """
    features, labeled, candidates = checked_pool(
        features, [] if labeled is None else labeled, candidates, budget
    )
    order = rng.permutation(candidates)
    if first is not None:
        _bring_forward(order, first, labeled)
    return sample_by_distance(EuclideanSpace(features, weights), order, labeled, budget, rng)


def farthest_first(space: Space, candidates: NDArray, labeled: NDArray, budget: int) -> NDArray[np.int64]:
    """Greedy k-center in any space.

    Args:
        space: where the distances are.
        candidates: (M,) idx in the order that decides between equals, and checked before.
        labeled: (L,) idx of the first centres.
        budget: how many to pick.

    Returns:
        idx (budget,) in the order of picking.
    """
    distances = _Distances(space, candidates, labeled, budget)
    while distances.missing:
        front, rival = distances.front()
        _pick_farthest(distances, front, rival)
    return distances.picks


def sample_by_distance(
    space: Space, candidates: NDArray, labeled: NDArray, budget: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Each next pick drawn with probability proportional to its distance in `space`.

    Without labelled samples the first pick is the first of the candidates.

    Args:
        space: where the distances are.
        candidates: (M,) idx in random order, checked before.
        labeled: (L,) idx of centres that exist already.
        budget: how many to pick.
        rng: what draws them.

    Returns:
        idx (budget,) as drawn.
    """
    distances = _Distances(space, candidates, labeled, budget)
    while distances.missing:
        accepted, proposed = _pick_by_rejection(distances, rng)
        # Redrawing costs less than a pass over the pool until most proposals are lost.
        if distances.missing and accepted < proposed / 4:
            distances.update(np.flatnonzero(distances.values > 0))
    return distances.picks


def _bring_forward(order: NDArray[np.int64], first: int, labeled: NDArray) -> None:
    """Put `first` at the head of the order, where the first pick is taken from."""
    place = np.flatnonzero(order == first)
    if not len(place) or len(labeled):
        reason = "the labelled samples are the first centres" if len(labeled) else "not a candidate"
        raise ValueError(f"first: {first}: {reason}")
    order[[0, place[0]]] = order[[place[0], 0]]


def _pick_farthest(distances: _Distances, front: NDArray, rival: int | None) -> None:
    """Pick from the current `front` for as long as its best precedes `rival`, the best of all others."""
    distances_to = distances.space.among(distances.candidates[front])
    values = distances.values[front]
    while distances.missing:
        best = int(np.argmax(values))
        if rival is not None and (-values[best], front[best]) > (-distances.values[rival], rival):
            break
        distances.pick(front[best])
        np.minimum(values, distances_to(best), out=values)
        values[best] = -1.0
        if values.max() < 0:
            break
    distances.store(front, values)


def _pick_by_rejection(distances: _Distances, rng: np.random.Generator) -> tuple[int, int]:
    """Pick what is accepted of one round of proposals; returns (accepted, proposed)."""
    bounds = np.maximum(distances.values, 0.0)
    total = bounds.cumsum()
    if total[-1] == 0:
        # Only copies of centres are left. The candidates stand in random order: the first are a uniform draw.
        for position in np.flatnonzero(distances.values == 0)[: distances.missing]:
            distances.pick(position)
        return 1, 1
    draws = np.searchsorted(total, rng.random(_PROPOSALS) * total[-1], side="right")
    draws = np.minimum(draws, np.flatnonzero(bounds)[-1])
    proposed, place = np.unique(draws, return_inverse=True)
    distances.update(proposed)
    distances_to = distances.space.among(distances.candidates[proposed])
    values = distances.values[proposed]
    heights = rng.random(_PROPOSALS) * bounds[draws]
    accepted = 0
    for at, height in zip(place, heights, strict=True):
        if height < values[at] and distances.missing:
            accepted += 1
            distances.pick(proposed[at])
            np.minimum(values, distances_to(at), out=values)
            values[at] = -1.0
    distances.store(proposed, values)
    return accepted, _PROPOSALS


class _Distances:
    """Distance of each candidate to its nearest centre, brought up to date only where asked for.

    Attributes:
        candidates: (M,) in random order, so that "the first of the equals" is a fair choice.
        values: (M,), -1 for the picked; else an upper bound, exact with respect to the first `seen` centres where `seen` > 0.
    """

    def __init__(self, space: Space, candidates: NDArray, labeled: NDArray, budget: int) -> None:
        self.space = space
        self.candidates = candidates
        self.centres = np.concatenate([labeled, np.empty(budget, np.int64)])
        self.num_labeled = self.num_centres = len(labeled)
        self.values = np.full(len(candidates), np.inf)
        self.seen = np.zeros(len(candidates), np.int64)
        if not len(labeled):
            self.pick(0)
        self._screen()

    @property
    def missing(self) -> int:
        return len(self.centres) - self.num_centres

    @property
    def picks(self) -> NDArray[np.int64]:
        return self.centres[self.num_labeled :]

    def pick(self, position: int) -> None:
        self.centres[self.num_centres] = self.candidates[position]
        self.num_centres += 1
        self.values[position] = -1.0

    def store(self, positions: NDArray, values: NDArray) -> None:
        """Take over values that are exact with respect to all centres so far."""
        self.values[positions] = values
        self.seen[positions] = self.num_centres

    def front(self) -> tuple[NDArray, int | None]:
        """The leading candidates, current, in ascending order; and the first of the others."""
        ahead = _FRONT
        while True:
            best = leading(self.values, min(ahead + 1, len(self.values)))
            best = best[self.values[best] >= 0]
            front = best[:_FRONT]
            if (self.seen[front] == self.num_centres).all():
                return np.sort(front), (int(best[_FRONT]) if len(best) > _FRONT else None)
            self.update(best[self.seen[best] < self.num_centres])
            # Where distances have shrunk for many, few but large products are faster.
            ahead *= 2

    def update(self, positions: NDArray) -> None:
        """Make the values at these positions exact with respect to all centres."""
        new = self.seen[positions] == 0
        for group in (positions[new], positions[~new]):
            if len(group):
                self._update_since(group, int(self.seen[group].min()))

    def _update_since(self, positions: NDArray, start: int) -> None:
        upper = self.values[positions]
        exact = upper.copy() if start else np.full(len(positions), np.inf)
        for centres in blocks(self.centres[start : self.num_centres], self.space.dim):
            screen = self.space.screen(centres)
            for at in blocks(np.arange(len(positions)), max(self.space.dim, len(centres))):
                idx = self.candidates[positions[at]]
                row, column = screen.contenders(idx, upper[at])
                np.minimum.at(exact, at[row], self.space.squared(idx[row], centres[column]))
        self.store(positions, exact)

    def _screen(self) -> None:
        """Upper bounds for all candidates, read in the order of the pool."""
        positions = np.argsort(self.candidates)
        for centres in blocks(self.centres[: self.num_centres], self.space.dim):
            screen = self.space.screen(centres)
            for at in blocks(positions, max(self.space.dim, len(centres))):
                self.values[at] = np.minimum(self.values[at], screen.upper(self.candidates[at]))


def checked_pool(
    features: ArrayLike, labeled: ArrayLike, candidates: ArrayLike | None, budget: int, *, name: str = "features"
) -> tuple[NDArray, NDArray[np.int64], NDArray[np.int64]]:
    """features (N, D), labeled (L,), candidates (M,; by default all others) as arrays, or a ValueError that says what is wrong."""
    features = np.asarray(features)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{name}: expected shape (N, D), got {features.shape}")
    labeled, candidates = checked_split(len(features), labeled, candidates, name)
    check_budget(budget, len(candidates))
    return features, labeled, candidates
