"""CLUE and DropQuery: clusters of what is uncertain, and the sample nearest to each centre.

V. Prabhu, A. Chandrasekaran, K. Saenko, J. Hoffman, "Active Domain Adaptation via Clustering Uncertainty-weighted Embeddings", ICCV 2021;
S. R. Gupte, J. Aklilu, J. J. Nirschl, S. Yeung-Levy, "Revisiting Active Learning in the Era of Vision Foundation Models", TMLR 2024.

Dimension letters: N pool, M candidates, C classes, D feature dimension, B rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from usb_active.plugins.low_budget.clusters import nearest_samples, weighted_kmeans
from usb_active.plugins.low_budget.inputs import above_zero, checked_rows, finite_pool, tempered

from usb_active.numerics.arrays import blocks, check_count, entropy, named, score_rows, unit_rows
from usb_active.numerics.kmeans import as_points

# Of features (B, D): the predicted classes (B,).
Classify = Callable[[NDArray[np.float32]], NDArray[np.int64]]


class Disagreeing(NamedTuple):
    """What DropQuery picked.

    Attributes:
        idx: (budget,), of the samples that disagree first, those of the largest clusters, then random ones.
        num_disagreeing: how many candidates disagreed.
    """

    idx: NDArray[np.int64]
    num_disagreeing: int


def clue(
    features: ArrayLike,
    probs: ArrayLike,
    budget: int,
    rng: np.random.Generator,
    *,
    candidates: ArrayLike | None = None,
    temperature: float = 1.0,
) -> NDArray[np.int64]:
    """CLUE (Prabhu et al. 2021, §3.3): k-means of the candidates weighted by entropy, and the sample nearest to each centre.

    As in the authors' code there are as many clusters as picks, of candidates alone, and the features are taken as they are. Several
    centres may have one nearest sample: there, rounds give every centre its next one, in the order of a set; here the heaviest cluster
    chooses first, and the others take their nearest of what is left. Certain samples weigh nothing (there 2e-7); when all are certain,
    all weigh the same. One start from seeds of k-means++ (there, ten).

    Args:
        features: (N, D), finite.
        probs: (N, C), rows that are a distribution.
        budget: how many to pick, 1..M.
        rng: what draws the seeds.
        candidates: (M,) idx, by default all.
        temperature: of the probabilities, above 0. 1 as for digits in the authors' code, which has 0.1 for DomainNet.

    Returns:
        idx (budget,), those of heavy clusters first.

    Raises:
        ValueError: features that are not finite and probs that are no distribution (names the rows), arrays of different lengths, idx out
            of range or repeated, a budget outside 1..M, and a temperature that is not above 0.
    """
    features, _, candidates = finite_pool(features, [], candidates, budget)
    probs, temperature = checked_rows(probs, len(features)), above_zero("temperature", temperature)
    order = rng.permutation(candidates)
    weights = score_rows(probs[order], lambda p: entropy(tempered(p, temperature)))
    if not weights.any():
        weights = np.ones(len(order))
    return order[_representatives(as_points(features[order]), weights, budget, rng)]


def drop_query(
    features: ArrayLike,
    classify: Classify,
    budget: int,
    rng: np.random.Generator,
    *,
    candidates: ArrayLike | None = None,
    passes: int = 3,
    rate: float = 0.75,
) -> Disagreeing:
    """DropQuery (Gupte et al. 2024, §5): clusters of the candidates whose prediction changes under dropout of their features.

    A candidate disagrees when more than half of `passes` predictions differ from that of the whole features; in each pass a coordinate is
    zero with probability `rate`, and the others are divided by 1 - rate. k-means of their features, scaled to length one, into `budget`
    clusters gives the sample nearest to each centre; random candidates fill up where fewer disagree.

    The authors' code asks for 25 times the budget of disagreeing samples, and lowers "more than half" until it has them, down to one pass;
    here it stays more than half, as the paper's text has it. Rate and passes are those of that code, 0.75 and 3.

    Args:
        features: (N, D), input of the classifier; finite.
        classify: of features (B, D) in single precision: the predicted classes (B,).
        budget: how many to pick, 1..M.
        rng: what draws the masks, the seeds and the fill.
        candidates: (M,) idx, by default all.
        passes: at least 1.
        rate: above 0 and below 1.

    Raises:
        ValueError: features that are not finite, or that single precision cannot hold when divided by 1 - rate (names the rows), idx out
            of range or repeated, a budget outside 1..M, and passes or a rate out of range.
    """
    features, _, candidates = finite_pool(features, [], candidates, budget)
    check_count("passes", passes)
    if not 0 < rate < 1:
        raise ValueError(f"rate: {rate!r}, expected above 0 and below 1")
    _check_single(features, rate)
    order = rng.permutation(candidates)
    found = np.flatnonzero(disagreements(features, order, classify, rng, passes=passes, rate=rate) > passes / 2)
    chosen = found
    if len(found) > budget:
        points = as_points(unit_rows(features[order[found]]))
        chosen = found[_representatives(points, np.ones(len(found)), budget, rng)]
    others = np.delete(np.arange(len(order)), chosen)
    # The candidates stand in random order: the first of the others are a uniform draw.
    return Disagreeing(order[np.concatenate([chosen, others[: budget - len(chosen)]])], len(found))


def _check_single(features: NDArray, rate: float) -> None:
    """ValueError that names the rows of features (N, D) that are no finite numbers in single precision once divided by 1 - rate."""
    most = float(np.finfo(np.float32).max) * (1 - rate)
    every = list(blocks(np.arange(len(features)), features.shape[1]))
    bad = np.concatenate([at[(np.abs(features[at[0] : at[-1] + 1].astype(np.float64)) > most).any(axis=1)] for at in every])
    if len(bad):
        raise ValueError(f"features: too large for single precision in {named('row', bad)}, expected at most {most:.2g}")


def disagreements(
    features: NDArray, idx: NDArray[np.int64], classify: Classify, rng: np.random.Generator, *, passes: int, rate: float
) -> NDArray[np.int64]:
    """(B,) in how many passes of dropout the prediction of the rows `idx` of features (N, D) is another."""
    counts = np.zeros(len(idx), np.int64)
    for at in blocks(np.arange(len(idx)), features.shape[1]):
        whole = np.asarray(features[idx[at]], np.float32)
        predicted = classify(whole)
        for _ in range(passes):
            kept = rng.random(whole.shape, np.float32) >= rate
            counts[at] += classify(whole * (kept / np.float32(1 - rate))) != predicted
    return counts


def _representatives(points: NDArray[np.float32], weights: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(count,) rows, nearest to the centres of so many clusters, that of the heaviest first."""
    centres, assignment = weighted_kmeans(points, weights, count, rng)
    return nearest_samples(points, centres, np.bincount(assignment, weights, count))
