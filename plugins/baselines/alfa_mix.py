"""ALFA-Mix: samples whose prediction changes when labelled features are mixed in (Parvaneh et al. 2022).

The features z of a sample are mixed with the anchor a of a class, the mean of its labelled features, one weight for each of the
D coordinates: z + alpha (a - z). The paper's closed form of the weights that raise the loss of the prediction most is
alpha = eps |a - z| / |g| * g / (a - z), divided by coordinates, with the gradient g of that loss in z. So the mixed
features are z + eps |a - z| g / |g|: a step along the gradient, as long as eps times the distance to the anchor. Where a coordinate of
the anchor is that of the features, as many zeros behind a ReLU are, nothing is mixed and it stays, as in the authors' code; |a - z| and
|g| are of all coordinates.
As in the paper eps = epsilon / sqrt(D). Only the direction of g counts. It is that of q - onehot(predicted) through the head, q the
softmax over the other classes, which unlike softmax - onehot does not vanish in rounding where the model is certain.

Dimension letters: N pool, M candidates, L labelled, C classes, D feature dimension, B rows of a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from usb_active.numerics.arrays import blocks, named, unit_rows
from usb_active.numerics.greedy import checked_pool, kmeans_plus_plus
from usb_active.numerics.kmeans import kmeans_centres, nearest_centres
from usb_active.numerics.spaces import square_norms

if TYPE_CHECKING:
    import torch

# Of k-means, from seeds of k-means++. The best of as many starts as the authors' code has, but fewer of many clusters, where one start is
# as good as another: on 4,000 made features one start was 2.2 % above ten with 10 clusters, 0.3 % with 50.
_ROUNDS = 20
_STARTS, _CLUSTERS_STARTED = 10, 500


class Mixed(NamedTuple):
    """What ALFA-Mix picked, and how.

    Attributes:
        idx: (budget,) representatives of the inconsistent samples, of large clusters first, then random ones.
        num_inconsistent: how many there were at `epsilon`.
        epsilon: the mixing at which they were more than the budget (at most 1).
    """

    idx: NDArray[np.int64]
    num_inconsistent: int
    epsilon: float


# Of eps and positions (B,) among the samples asked about: does mixing with any anchor change the prediction? (B,)
Changes = Callable[[float, NDArray], NDArray[np.bool_]]


class Head(Protocol):
    """The classifier on top of the features."""

    def changes(self, features: NDArray, idx: NDArray, anchors: NDArray) -> Changes:
        """For the rows `idx` (M,) of features (N, D), and anchors (C, D)."""


def alfa_mix(
    features: ArrayLike,
    labeled: ArrayLike,
    labels: ArrayLike,
    budget: int,
    rng: np.random.Generator,
    *,
    head: Head,
    num_classes: int,
    candidates: ArrayLike | None = None,
    epsilon: float = 0.2,
) -> Mixed:
    """ALFA-Mix in closed form (Parvaneh et al. 2022).

    Inconsistent are the candidates whose prediction changes with the anchor of any class. As in the authors' code
    the mixing grows, epsilon, 2 epsilon, … up to 1, until they are more than the budget; k-means into `budget` clusters of their
    normalized features then gives the sample nearest to each centre, and random candidates fill up what is missing.

    Args:
        features: (N, D), input of the head.
        labeled: (L,) idx, L >= 1.
        labels: (L,) their classes, in 0..C-1.
        budget: how many to pick, 1..M.
        rng: what draws the fill and the k-means.
        head: the classifier that the features go into.
        num_classes: C.
        candidates: (M,) idx, by default all others.
        epsilon: the first mixing, in (0, 1].

    Raises:
        ValueError: features that are not finite (names the rows), idx out of range, repeated, or both labelled and candidate, labels
            outside 0..C-1, nothing labelled, an epsilon outside (0, 1], and a budget outside 1..M.
    """
    features, labeled, candidates = checked_pool(features, labeled, candidates, budget)
    if not 0 < epsilon <= 1:
        raise ValueError(f"epsilon: {epsilon!r}, expected above 0 and at most 1")
    _check_finite(features, np.concatenate([labeled, candidates]))
    anchors = class_anchors(features[labeled], labels, num_classes)
    order = rng.permutation(candidates)
    found, reached = _inconsistent(head.changes(features, order, anchors), len(order), features.shape[1], budget, epsilon)
    chosen = found if len(found) <= budget else found[representatives(features, order[found], budget, rng)]
    others = np.delete(np.arange(len(order)), chosen)
    # The candidates stand in random order: the first of the others are a uniform draw.
    idx = order[np.concatenate([chosen, others[: budget - len(chosen)]])]
    return Mixed(idx, len(found), reached)


def class_anchors(features: ArrayLike, labels: ArrayLike, num_classes: int) -> NDArray[np.float64]:
    """(C, D): the mean of each class's features (L, D) by labels (L,); of all of them for a class that has none.

    Raises:
        ValueError: labels outside 0..C-1, not as many as rows, and nothing labelled.
    """
    features, labels = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if labels.shape != (len(features),):
        raise ValueError(f"labels: expected one for each labelled sample, shape ({len(features)},), got {labels.shape}")
    if not len(labels):
        raise ValueError("labeled: empty; the anchors are means of labelled samples")
    bad = labels[(labels < 0) | (labels >= num_classes)]
    if len(bad):
        raise ValueError(f"labels: {named('label', bad)} outside the {num_classes} classes")
    members = np.eye(num_classes)[labels]
    counts = members.sum(axis=0)[:, None]
    return np.where(counts > 0, members.T @ features / np.maximum(counts, 1), features.mean(axis=0))


def representatives(features: NDArray, idx: NDArray, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions in idx (B,) of those nearest to the centres of `count` <= B clusters of their normalized features (N, D).

    That of the largest cluster first. k-means of faiss, the tightest of several starts from seeds of k-means++. Fewer when clusters stay
    empty, as among copies.
    """
    rows = np.concatenate([unit_rows(features[at]) for at in blocks(idx, features.shape[1])])
    distance, cluster = tightest_clusters(rows, count, rng)
    # By cluster, and nearest first within it; equal ones stay in the order of the rows.
    by_cluster = np.lexsort((distance, cluster))
    clusters, starts, sizes = np.unique(cluster[by_cluster], return_index=True, return_counts=True)
    return by_cluster[starts[np.argsort(-sizes, kind="stable")]]


def tightest_clusters(rows: NDArray[np.float32], count: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Squared distance (B,) of each row to its centre, and which that is (B,): of several starts the one with the smallest sum."""

    def clustered() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        seed, first = int(rng.integers(2**31)), rows[kmeans_plus_plus(rows, count, rng)]
        return nearest_centres(rows, kmeans_centres(rows, count, seed, iterations=_ROUNDS, first=first))

    starts = int(np.clip(_CLUSTERS_STARTED // count, 1, _STARTS))
    return min((clustered() for _ in range(starts)), key=lambda found: float(found[0].sum(dtype=np.float64)))


def _inconsistent(changes: Changes, size: int, dim: int, budget: int, epsilon: float) -> tuple[NDArray[np.int64], float]:
    """Positions whose prediction changes, and the mixing that was reached."""
    found = np.zeros(size, bool)
    for step in range(1, math.ceil(1 / epsilon - 1e-9) + 1):
        mixing = min(step * epsilon, 1.0)
        left = np.flatnonzero(~found)
        found[left[changes(mixing / math.sqrt(dim), left)]] = True
        if found.sum() > budget:
            break
    return np.flatnonzero(found), mixing


@dataclass(frozen=True)
class LinearHead:
    """logits = features weight^T + bias; weight (C, D), bias (C,). The step at which a prediction changes has a closed form.

    Along the gradient the logits move on straight lines, so the prediction, once changed, stays changed: eps |a - z| need only be compared
    with the first crossing of the predicted class's line with another's. Anchors that have no coordinate in common with the features share
    their lines.
    """

    weight: NDArray
    bias: NDArray

    def changes(self, features: NDArray, idx: NDArray, anchors: NDArray) -> Changes:
        width = max(features.shape[1], len(anchors), len(self.weight))
        # No mixing goes beyond epsilon = 1.
        most = 1 / math.sqrt(features.shape[1])
        needed = np.concatenate([self.first_change(features[at], anchors, most) for at in blocks(idx, width)])
        return lambda eps, at: needed[at] < eps

    def first_change(self, features: NDArray, anchors: NDArray, most: float = np.inf) -> NDArray[np.float64]:
        """(B,): the least eps that changes the prediction of features (B, D) with any anchor (C, D); inf for none.

        Args:
            most: above this any number of at least as much may stand for a value.
        """
        weight, z = np.asarray(self.weight, np.float64), np.asarray(features, np.float64)
        logits = z @ weight.T + self.bias
        toward, gains = self._lines(logits, weight @ weight.T)
        predicted = logits.argmax(axis=1)
        lead = logits[np.arange(len(logits)), predicted][:, None] - logits
        squared = square_norms(z)[:, None] - 2 * z @ anchors.T + square_norms(anchors)
        distances = np.sqrt(np.maximum(squared, 0.0))
        direction, free = toward @ weight, _crossings(lead, gains, predicted)
        # Whatever coordinates stay, the step is no longer than one: no logit gains more on the predicted one than the length of the
        # difference of their weights, but for rounding.
        norms = square_norms(weight)
        apart = np.sqrt(np.maximum(norms[:, None] + norms - 2 * weight @ weight.T, 0.0)) + 1e-6 * np.sqrt(norms.max())
        np.fill_diagonal(apart, 0.0)
        soonest = _crossings(lead, apart[predicted], predicted)
        needed = np.full(len(z), np.inf)
        for number, anchor in enumerate(anchors):
            with np.errstate(invalid="ignore"):
                # Of an anchor that is the sample there is no step: infinity times zero is below nothing.
                near = soonest < np.minimum(most, needed) * distances[:, number]
            crossing = free.copy()
            equal = is_equal(z[near], anchor)
            touching, columns = equal.any(axis=1), np.flatnonzero(equal.any(axis=0))
            if len(columns):
                rows = np.flatnonzero(near)[touching]
                held = direction[np.ix_(rows, columns)] * equal[touching][:, columns]
                crossing[rows] = _crossings(lead[rows], gains[rows] - held @ weight[:, columns].T, predicted[rows])
            crossing[~near] = np.inf
            with np.errstate(divide="ignore", invalid="ignore"):
                needed = np.minimum(needed, np.where(distances[:, number] > 0, crossing / distances[:, number], np.inf))
        return needed

    @staticmethod
    def _lines(logits: NDArray, gram: NDArray) -> tuple[NDArray, NDArray]:
        """(B, C) each: weights of the classes' rows that add up to the direction, of length one, and how fast each logit gains along it."""
        rows = np.arange(len(logits))
        predicted = logits.argmax(axis=1)
        others = logits.copy()
        others[rows, predicted] = -np.inf
        toward = np.exp(others - others.max(axis=1, keepdims=True))
        toward /= toward.sum(axis=1, keepdims=True)
        toward[rows, predicted] = -1
        # The gradient is toward @ weight; its length and its logits follow from the inner products of the classes' weights.
        gains = toward @ gram
        length = np.sqrt(np.maximum(np.einsum("bc,bc->b", gains, toward), 0.0))[:, None]
        return tuple(np.divide(part, length, out=np.zeros_like(part), where=length > 0) for part in (toward, gains))


def is_equal(features: NDArray, anchor: NDArray) -> NDArray[np.bool_]:
    """(B, D): where features (B, D) are those of an anchor (D,), which is a mean in double precision of numbers in single precision."""
    return features.astype(np.float32) == anchor.astype(np.float32)


def _crossings(lead: NDArray, gains: NDArray, predicted: NDArray) -> NDArray[np.float64]:
    """(B,): the length of the step at which another logit reaches the predicted one's; inf where none does.

    Args:
        lead: (B, C) how far a class's logit lies below the predicted one's.
        gains: (B, C) what a logit gains per step of length one.
        predicted: (B,) classes.
    """
    slopes = gains - gains[np.arange(len(gains)), predicted][:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(slopes > 0, lead / slopes, np.inf).min(axis=1)


@dataclass(frozen=True)
class TorchHead:
    """Any differentiable head: a function of features (B, D) to logits (B, C), on `device`; gradients by autograd."""

    logits: Callable[[torch.Tensor], torch.Tensor]
    device: torch.device | str = "cpu"

    def changes(self, features: NDArray, idx: NDArray, anchors: NDArray) -> Changes:
        def changed(eps: float, at: NDArray) -> NDArray[np.bool_]:
            parts = [self._changed(features[rows], anchors, eps) for rows in blocks(idx[at], features.shape[1])]
            return np.concatenate(parts) if parts else np.zeros(0, bool)

        return changed

    def _changed(self, features: NDArray, anchors: NDArray, eps: float) -> NDArray[np.bool_]:
        import torch

        z = torch.as_tensor(np.array(features, dtype=np.float32), device=self.device)
        predicted, direction = self._direction(z)
        changed = torch.zeros(len(z), dtype=torch.bool, device=self.device)
        with torch.no_grad():
            for anchor in torch.as_tensor(anchors, dtype=torch.float32, device=self.device):
                step = eps * (anchor - z).norm(dim=1, keepdim=True) * (anchor != z)
                changed |= self.logits(z + step * direction).argmax(dim=1) != predicted
        return changed.cpu().numpy()

    def _direction(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The prediction (B,), and the unit vector (B, D) along which its loss grows fastest; zero where there is none."""
        import torch

        z = z.clone().requires_grad_()
        with torch.enable_grad():
            logits = self.logits(z)
            predicted = logits.argmax(dim=1)
            mine = torch.nn.functional.one_hot(predicted, logits.shape[1]).bool()
            loss = logits.masked_fill(mine, -torch.inf).logsumexp(dim=1) - logits[mine]
            (gradient,) = torch.autograd.grad(loss.sum(), z)
        return predicted, torch.nn.functional.normalize(gradient, dim=1)


def _check_finite(features: NDArray, idx: NDArray) -> None:
    bad = [at[~np.isfinite(features[at]).all(axis=1)] for at in blocks(np.sort(idx), features.shape[1])]
    bad = np.concatenate(bad)
    if len(bad):
        raise ValueError(f"features: not finite in {named('row', bad)}")
