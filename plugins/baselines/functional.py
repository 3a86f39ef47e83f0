"""Baseline acquisitions as functions of arrays: uncertainty scores, top k, k-center, k-means++.

Dimension letters: N pool, M candidates, L labelled, C classes, D feature dimension. Every `idx` is a position
in the arrays that span the pool (`features`, `probs`), never a position among the candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Elements of the largest temporary matrix: few enough to stay near the cache, enough for a fast product.
_BLOCK = 1 << 20
# Candidates kept current at once; proposals drawn at once. Both trade the number of products for their size.
_FRONT = 64
_PROPOSALS = 64
_SUM_TOLERANCE = 1e-3


# ----------------------------------------------------------------------------------------- uncertainty scores


def entropy(probs: ArrayLike) -> NDArray[np.float64]:
    """Entropy of the predicted distribution in nats: high = uncertain (Shannon 1948).

    probs: (N, C), rows summing to one. Returns (N,) in [0, log C].
    Raises ValueError naming the rows that are no distribution.
    """
    return _score_rows(probs, _entropy)


def margin(probs: ArrayLike) -> NDArray[np.float64]:
    """Difference of the two largest probabilities: low = uncertain (Scheffer et al. 2001).

    probs: (N, C), C >= 2, rows summing to one. Returns (N,) in [0, 1].
    Raises ValueError naming the rows that are no distribution.
    """
    if np.ndim(probs) == 2 and np.shape(probs)[1] < 2:
        raise ValueError(f"probs: a margin needs at least 2 classes, got shape {np.shape(probs)}")
    return _score_rows(probs, _margin)


def least_confidence(probs: ArrayLike) -> NDArray[np.float64]:
    """One minus the largest probability: high = uncertain (Lewis & Gale 1994).

    probs: (N, C), rows summing to one. Returns (N,) in [0, 1 - 1/C].
    Raises ValueError naming the rows that are no distribution.
    """
    return _score_rows(probs, lambda p: np.maximum(1.0 - p.max(axis=1), 0.0))


def _entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    # A probability that is a rounding above one would give a score below zero.
    return np.maximum(-np.einsum("nc,nc->n", p, logs), 0.0)


def _margin(p: NDArray[np.float64]) -> NDArray[np.float64]:
    top = np.partition(p, p.shape[1] - 2, axis=1)[:, -2:]
    return top[:, 1] - top[:, 0]


def _score_rows(probs: ArrayLike, score: Callable[[NDArray], NDArray]) -> NDArray[np.float64]:
    """Check and score in double precision, by blocks: the pool's probabilities may be a memory map."""
    probs = np.asarray(probs)
    if probs.ndim != 2 or probs.shape[1] < 1:
        raise ValueError(f"probs: expected shape (N, C), got {probs.shape}")
    out = np.empty(len(probs))
    for rows in _blocks(np.arange(len(probs)), probs.shape[1]):
        p = probs[rows[0] : rows[-1] + 1].astype(np.float64)
        _check_probs(p, rows)
        out[rows] = score(p)
    return out


# -------------------------------------------------------------------------------------------- best of a score


def top_k(
    scores: ArrayLike, candidates: ArrayLike, budget: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The candidates with the highest scores, highest first; equal scores come in random order.

    scores: (M,), one per candidate; candidates: (M,) idx. Returns idx (budget,). No full sort: O(M).
    A pool may stand in the order of its classes, so ties broken by position would favour some of them.
    Raises ValueError for lengths that differ, repeated idx, a budget outside 1..M, and scores that are not
    finite (naming the samples).
    """
    candidates = _checked_idx("candidates", candidates)
    scores = np.asarray(scores)
    if scores.shape != candidates.shape:
        raise ValueError(
            f"scores: expected one score per candidate, shape {candidates.shape}, got {scores.shape}; "
            "scores of the whole pool want scores[candidates]"
        )
    _check_budget(budget, len(candidates))
    bad = candidates[~np.isfinite(scores)]
    if len(bad):
        raise ValueError(f"scores: not finite for {_named('sample', bad)}")
    order = rng.permutation(len(candidates))
    return candidates[order[_leading(scores[order], budget)]]


# ------------------------------------------------------------------------------------------ picks by distance


def k_center_greedy(
    features: ArrayLike,
    labeled: ArrayLike,
    budget: int,
    *,
    candidates: ArrayLike | None = None,
    rng: np.random.Generator | None = None,
) -> NDArray[np.int64]:
    """Greedy k-center, also "core-set" (Sener & Savarese 2018, algorithm 1): always the farthest candidate.

    features: (N, D); labeled: (L,) idx of the first centres; candidates: (M,) idx, by default all others.
    Each pick has the largest Euclidean distance to its nearest centre, labelled or picked before.
    Returns idx (budget,) in the order of picking.

    The picks are those of the plain loop in double precision, not an approximation. Equal distances are
    resolved by a random order of the candidates, drawn once as `rng.permutation(candidates)`; without
    labelled samples all are equally far and the first pick is uniform. `rng` may be left out when there are
    labelled samples: ties then follow `default_rng(0)`.
    A distance can only shrink as centres are added, so an old one is an upper bound, and only the leading
    candidates are kept current. Memory beyond the features, which may be a memory map: O(N) and blocks.

    Raises ValueError for features that are not finite (naming rows), for idx that are out of range, repeated,
    or both labelled and candidate, and for a budget outside 1..M.
    """
    features, labeled, candidates = _checked_pool(features, labeled, candidates, budget)
    if rng is None and not len(labeled):
        raise ValueError("rng: needed when nothing is labelled, since the first pick is then random")
    order = (np.random.default_rng(0) if rng is None else rng).permutation(candidates)
    distances = _Distances(features, order, labeled, budget)
    while distances.missing:
        front, rival = distances.front()
        _pick_farthest(distances, front, rival)
    return distances.picks


def kmeans_plus_plus(
    features: ArrayLike,
    budget: int,
    rng: np.random.Generator,
    *,
    candidates: ArrayLike | None = None,
    labeled: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Seeds of k-means++ (Arthur & Vassilvitskii 2007, section 2.2): D^2 sampling without repetition.

    features: (N, D); candidates: (M,) idx, by default all that is not labelled; labeled: (L,) idx of centres
    that exist already. Without any the first pick is uniform; each further one is drawn with probability
    proportional to its squared Euclidean distance to the nearest centre. When only copies of centres are
    left, the draw is uniform over the candidates not yet picked. Returns idx (budget,), distinct, as drawn.

    Exact in distribution, by rejection: old distances are upper bounds to propose from, and a proposal is
    accepted with probability current / old. Memory and errors as in `k_center_greedy`.
    """
    features, labeled, candidates = _checked_pool(
        features, [] if labeled is None else labeled, candidates, budget
    )
    distances = _Distances(features, rng.permutation(candidates), labeled, budget)
    while distances.missing:
        accepted, proposed = _pick_by_rejection(distances, rng)
        # Redrawing costs less than a pass over the pool until most proposals are lost.
        if distances.missing and accepted < proposed / 4:
            distances.update(np.flatnonzero(distances.values > 0))
    return distances.picks


def _pick_farthest(distances: _Distances, front: NDArray, rival: int | None) -> None:
    """Pick from the current `front` for as long as its best precedes `rival`, the best of all others."""
    rows = distances.space.rows(distances.candidates[front])
    values = distances.values[front]
    while distances.missing:
        best = int(np.argmax(values))
        if rival is not None and (-values[best], front[best]) > (-distances.values[rival], rival):
            break
        distances.pick(front[best])
        np.minimum(values, _squared(rows, rows[best]), out=values)
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
    rows = distances.space.rows(distances.candidates[proposed])
    values = distances.values[proposed]
    heights = rng.random(_PROPOSALS) * bounds[draws]
    accepted = 0
    for at, height in zip(place, heights, strict=True):
        if height < values[at] and distances.missing:
            accepted += 1
            distances.pick(proposed[at])
            np.minimum(values, _squared(rows, rows[at]), out=values)
            values[at] = -1.0
    distances.store(proposed, values)
    return accepted, _PROPOSALS


class _Distances:
    """Squared distance of each candidate to its nearest centre, brought up to date only where asked for.

    candidates: (M,) in random order, so that "the first of the equals" is a fair choice. values: (M,), -1 for
    the picked; else an upper bound, exact with respect to the first `seen` centres where `seen` > 0.
    """

    def __init__(self, features: NDArray, candidates: NDArray, labeled: NDArray, budget: int) -> None:
        self.space = _Space(features)
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
            leading = _leading(self.values, min(ahead + 1, len(self.values)))
            leading = leading[self.values[leading] >= 0]
            front = leading[:_FRONT]
            if (self.seen[front] == self.num_centres).all():
                return np.sort(front), (int(leading[_FRONT]) if len(leading) > _FRONT else None)
            self.update(leading[self.seen[leading] < self.num_centres])
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
        for centres in _blocks(self.centres[start : self.num_centres], self.space.dim):
            screen = _Screen(self.space, centres)
            for at in _blocks(np.arange(len(positions)), max(self.space.dim, len(centres))):
                idx = self.candidates[positions[at]]
                row, column = screen.contenders(idx, upper[at])
                np.minimum.at(exact, at[row], self.space.squared(idx[row], centres[column]))
        self.store(positions, exact)

    def _screen(self) -> None:
        """Upper bounds for all candidates, read in the order of the pool."""
        positions = np.argsort(self.candidates)
        for centres in _blocks(self.centres[: self.num_centres], self.space.dim):
            screen = _Screen(self.space, centres)
            for at in _blocks(positions, max(self.space.dim, len(centres))):
                self.values[at] = np.minimum(self.values[at], screen.upper(self.candidates[at]))


class _Space:
    """Rows of the features, scaled by a power of two (exact) so that no square overflows."""

    def __init__(self, features: NDArray) -> None:
        self.features = features
        self.dim = features.shape[1]
        self.dtype = np.float32 if features.dtype in (np.float16, np.float32) else np.float64
        # The scale itself must be a normal number of that type.
        most = 120 if self.dtype is np.float32 else 1000
        self.scale = self.dtype(2.0 ** -np.clip(np.frexp(_checked_peak(features))[1], -most, most))
        sample = np.arange(0, len(features), max(1, len(features) // 1024))
        # Any shift is valid; one near the mean loses the fewest digits in `centred`.
        self.shift = self.rows(sample).mean(axis=0).astype(self.dtype)

    def rows(self, idx: NDArray) -> NDArray[np.float64]:
        return self.features[idx].astype(np.float64) * float(self.scale)

    def centred(self, idx: NDArray) -> NDArray[np.float32]:
        """(B, D + 1) in single precision; the last column is free."""
        out = np.empty((len(idx), self.dim + 1), np.float32)
        scaled = self.features[idx].astype(self.dtype, copy=False) * self.scale
        np.subtract(scaled, self.shift, out=out[:, :-1], casting="same_kind")
        return out

    def squared(self, idx: NDArray, others: NDArray) -> NDArray[np.float64]:
        """Squared distances of the pairs (idx, others), by differences in double precision."""
        pairs = _blocks(np.arange(len(idx)), self.dim)
        parts = [_squared(self.rows(idx[at]), self.rows(others[at])) for at in pairs]
        return np.concatenate(parts) if parts else np.empty(0)


class _Screen:
    """Bounds in single precision on squared distances to a block of centres, from one matrix product.

    With n = |x|^2 + |c|^2 of the centred rows, n - 2 x.c is wrong by less than slack * n: the rounding of a
    sum of D products (Higham 2002, section 3.1), at most three times, and a few more. So (1 + slack) n -
    2 x.c is an upper bound.
    """

    _TINY = 1e-30  # above anything that underflow in single precision can lose

    def __init__(self, space: _Space, centres: NDArray) -> None:
        self.space = space
        self.slack = 4 * (space.dim + 4) * 2.0**-24
        factors = space.centred(centres)
        factors[:, -1] = (1 + self.slack) * _square_norms(factors[:, :-1])
        factors[:, :-1] *= -2
        self.factors = factors

    def upper(self, idx: NDArray) -> NDArray[np.float64]:
        """(B,): upper bounds on the squared distance to the nearest of the centres."""
        products, norms = self._products(idx)
        return self._bound(products.min(axis=1), norms)

    def contenders(self, idx: NDArray, upper: NDArray) -> tuple[NDArray, NDArray]:
        """Pairs (row, centre), among them the nearest centre of each row that has one closer than `upper`."""
        products, norms = self._products(idx)
        upper = np.minimum(upper, self._bound(products.min(axis=1), norms))
        # The nearest centre c has |c| <= |x| + distance: a limit to how far its bound exceeds the truth.
        farthest = norms + (np.sqrt(norms) + np.sqrt(upper)) ** 2
        limit = upper + 2 * self.slack * farthest + self._TINY - (1 + self.slack) * norms
        # Rounded up: the comparison is in single precision.
        limit = np.nextafter(limit.astype(np.float32), np.float32(np.inf))
        return np.nonzero(products <= limit[:, None])

    def _products(self, idx: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """(1 + slack) |c|^2 - 2 x.c for all pairs, and |x|^2."""
        rows = self.space.centred(idx)
        rows[:, -1] = 1
        return rows @ self.factors.T, _square_norms(rows[:, :-1]).astype(np.float64)

    def _bound(self, products: NDArray, norms: NDArray) -> NDArray[np.float64]:
        return np.maximum(products + (1 + self.slack) * norms, 0.0) + self._TINY


def _square_norms(rows: NDArray) -> NDArray:
    return np.einsum("nd,nd->n", rows, rows)


def _squared(rows: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    return _square_norms(rows - others)


def _leading(values: NDArray, count: int) -> NDArray[np.int64]:
    """Positions of the `count` largest values, largest first, equal ones by position, without a full sort."""
    threshold = np.partition(values, len(values) - count)[len(values) - count]
    above = np.flatnonzero(values > threshold)
    level = np.flatnonzero(values == threshold)[: count - len(above)]
    return np.concatenate([above[np.argsort(-values[above], kind="stable")], level])


def _blocks(idx: NDArray, width: int) -> Iterator[NDArray]:
    """Consecutive parts of `idx`, so long that a matrix of this width stays within _BLOCK elements."""
    rows = max(1, _BLOCK // width)
    return (idx[at : at + rows] for at in range(0, len(idx), rows))


# ----------------------------------------------------------------------------------------------------- checks


def _named(noun: str, idx: ArrayLike) -> str:
    """The first few of what an error is about, as "rows 3, 8" or "row 3"."""
    first = ", ".join(str(int(i)) for i in np.asarray(idx)[:5])
    if len(idx) > 1:
        noun = "indices" if noun == "index" else noun + "s"
    return f"{noun} {first}{', ...' if len(idx) > 5 else ''}"


def _check_probs(p: NDArray[np.float64], rows: NDArray) -> None:
    sums, lows = p.sum(axis=1), p.min(axis=1)
    for bad, values, what in (
        (~np.isfinite(sums), sums, "must be finite"),
        (lows < 0, lows, "must not be negative"),
        (np.abs(sums - 1) > _SUM_TOLERANCE, sums, "rows must sum to 1 (are these logits?)"),
    ):
        if bad.any():
            raise ValueError(f"probs: {what}, got {values[bad][0]:.6g} first in {_named('row', rows[bad])}")


def _checked_idx(name: str, idx: ArrayLike) -> NDArray[np.int64]:
    idx = np.asarray(idx)
    if idx.ndim != 1 or (len(idx) and not np.issubdtype(idx.dtype, np.integer)):
        raise ValueError(f"{name}: expected a list of integer indices, got shape {idx.shape} of {idx.dtype}")
    values, counts = np.unique(idx, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{name}: more than once: {_named('index', values[counts > 1])}")
    return idx.astype(np.int64)


def _check_range(name: str, idx: NDArray, size: int) -> None:
    bad = idx[(idx < 0) | (idx >= size)]
    if len(bad):
        raise ValueError(f"{name}: {_named('index', bad)} outside the {size} rows of features")


def _check_budget(budget: int, num_candidates: int) -> None:
    if not isinstance(budget, (int, np.integer)) or not 1 <= budget <= num_candidates:
        raise ValueError(f"budget: {budget!r}, expected an integer from 1 to the {num_candidates} candidates")


def _checked_pool(
    features: ArrayLike, labeled: ArrayLike, candidates: ArrayLike | None, budget: int
) -> tuple[NDArray, NDArray[np.int64], NDArray[np.int64]]:
    features = np.asarray(features)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"features: expected shape (N, D), got {features.shape}")
    labeled = _checked_idx("labeled", labeled)
    _check_range("labeled", labeled, len(features))
    if candidates is None:
        candidates = np.delete(np.arange(len(features)), labeled)
    else:
        candidates = _checked_idx("candidates", candidates)
        _check_range("candidates", candidates, len(features))
        both = np.intersect1d(candidates, labeled)
        if len(both):
            raise ValueError(f"candidates: labelled already: {_named('index', both)}")
    _check_budget(budget, len(candidates))
    return features, labeled, candidates


def _checked_peak(features: NDArray) -> float:
    """The largest absolute value of all features."""
    peak = 0.0
    for at in _blocks(np.arange(len(features)), features.shape[1]):
        block = features[at[0] : at[-1] + 1]
        low, high = float(block.min()), float(block.max())
        if not np.isfinite(low) or not np.isfinite(high):
            rows = [i for i in range(len(features)) if not np.isfinite(features[i]).all()]
            raise ValueError(f"features: not finite in {_named('row', rows)}")
        peak = max(peak, -low, high)
    return peak
