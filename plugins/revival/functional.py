"""REVIVAL without a trainer (Guo et al., "Semi-supervised active learning for semi-supervised models: exploit adversarial examples with
graph-based virtual labels", ICCV 2021): arrays in, arrays out.

Dimension letters: N pool, D feature dimension, L labelled, M preselected, K budget, C classes.
"""

from __future__ import annotations

import logging
import math
import numbers
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from usb_active.plugins.revival.adversary import Adversary, adversarial_divergence, check_adversary, head_divergence
from usb_active.plugins.revival.graph import agreeing_edges, convolution_matrix, neighbor_graph
from usb_active.plugins.revival.propagator import GcnSettings, Propagator, fit_propagator

from usb_active.numerics.arrays import check_budget, checked_split, entropy, unit_rows
from usb_active.numerics.greedy import kmeans_plus_plus
from usb_active.numerics.ranking import top_k

logger = logging.getLogger("usb_active")

__all__ = [
    "Adversary", "GcnSettings", "Propagator", "adversarial_divergence", "agreeing_edges", "convolution_matrix", "fit_propagator",
    "head_divergence", "limit", "neighbor_graph", "num_preselected", "preselect_problem", "select", "virtual_labels",
]  # fmt: skip

# {"budgets": 3}, {"share": 0.3}, "auto" or "all".
Preselect = Mapping[str, float] | Literal["auto", "all"]
# Of the pool, and of the budget; the larger counts. What the paper found to be stable, 2.2 to 5.8 budgets, is 11 to 29 % of its pool,
# since its budget is 5 % of it; three of its budgets are 15 %. docs/revival.md has what was measured with smaller budgets.
_AUTO_SHARE, _AUTO_BUDGETS = 0.15, 3


def virtual_labels(
    features: ArrayLike,
    labeled: ArrayLike,
    labels: ArrayLike,
    num_classes: int,
    *,
    k: int = 20,
    settings: GcnSettings = GcnSettings(),  # noqa: B008 — frozen
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """What a graph convolutional network that was trained on the labelled nodes says of all of them (§3.2, Eq. 1–3).

    Args:
        features: (N, D), finite, no row of zeros; may be a memory map.
        labeled: (L,) idx, at least one.
        labels: (L,) classes, 0..C-1.
        num_classes: C.
        k: neighbours of each sample in the graph, itself among them.
        settings: of the graph's weights and of the network.
        rng: what draws the network's initial weights.

    Returns:
        (N, C), rows that sum to one.

    Raises:
        ValueError: as `fit_propagator`.
        UsageError: the backend's library is not there.
    """
    return fit_propagator(features, labeled, labels, num_classes, k=k, settings=settings, rng=rng).probs()


def select(
    features: ArrayLike,
    labeled: ArrayLike,
    labels: ArrayLike,
    num_classes: int,
    budget: int,
    *,
    candidates: ArrayLike | None = None,
    preselect: Preselect | None = None,
    k: int = 20,
    settings: GcnSettings = GcnSettings(),  # noqa: B008 — frozen
    adversary: Adversary = Adversary(),  # noqa: B008 — frozen
    diversity: bool = False,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """REVIVAL's picks: of the M candidates whose virtual labels an adversarial push moves most, the K of largest entropy (§3).

    Args:
        features: (N, D), finite, no row of zeros; may be a memory map.
        labeled: (L,) idx, at least one.
        labels: (L,) classes, 0..C-1.
        num_classes: C.
        budget: K, 1..number of candidates.
        candidates: idx of those that can be queried, by default all others; what is neither is a node of the graph all the same.
        preselect: M, see `num_preselected`; None is "auto".
        k: neighbours of each sample in the graph, itself among them.
        settings: of the graph's weights and of the network.
        adversary: how candidates are pushed.
        diversity: see `limit`.
        rng: what draws initial weights, directions and the order of equals.

    Returns:
        idx (budget,).

    Raises:
        ValueError: as `fit_propagator`, `num_preselected` and `adversarial_divergence`; candidates that are labelled, repeated or out
            of range; and a budget beyond them.
        UsageError: the backend's library is not there.
    """
    features = np.asarray(features)
    labeled, candidates = checked_split(len(features), labeled, candidates)
    check_budget(budget, len(candidates))
    check_adversary(adversary)
    count = num_preselected("auto" if preselect is None else preselect, budget, len(features), len(candidates))
    propagator = fit_propagator(features, labeled, labels, num_classes, k=k, settings=settings, rng=rng)
    moved = adversarial_divergence(propagator, adversary, rng=rng)[candidates] if count < len(candidates) else np.zeros(len(candidates))
    return limit(propagator.probs(), moved, features, budget, candidates, count, diversity=diversity, rng=rng)


def num_preselected(preselect: Preselect, budget: int, num_samples: int, num_candidates: int) -> int:
    """M, how many candidates pass from the generator to the boundary limitator.

    Args:
        preselect: {"budgets": 3}, a multiple of the budget: 1 leaves the entropy no choice (LP+VAG of Table 1). {"share": 0.3}, a share
            of the pool, which stays the same when the budget changes. "all" leaves the generator none (LP+BL). "auto" is 15 % of the
            pool, or three budgets where that is more.
        budget: K.
        num_samples: N.
        num_candidates: what M is clipped to, with a warning.

    Raises:
        ValueError: none of these (see `preselect_problem`), or a share of the pool below the budget.
    """
    if problem := preselect_problem(preselect):
        raise ValueError(f"preselect: {preselect!r}, {problem}")
    if preselect == "all":
        return num_candidates
    if preselect == "auto":
        return min(max(math.ceil(_AUTO_SHARE * num_samples), _AUTO_BUDGETS * budget), num_candidates)
    ((unit, value),) = preselect.items()
    # More budgets than samples are clipped in any case. A product like 1.1 * 10 must not become 12 by rounding.
    wanted = round(float(min(value, num_samples)) * (budget if unit == "budgets" else num_samples), 6)
    if wanted > num_candidates:
        logger.warning("preselect: %s is more than the %d samples that can be queried: all are looked at", preselect, num_candidates)
        return num_candidates
    count = math.ceil(wanted)
    if count < budget:
        raise ValueError(
            f"preselect: a share of {value} of the {num_samples} samples is {count}, below the budget of {budget}; "
            f"give a share of at least {math.ceil(1000 * budget / num_samples) / 1000}, or {{budgets: 1}} or more"
        )
    return count


def preselect_problem(preselect: Any) -> str:
    """What is valid, where `preselect` is not; "" where it is."""
    if isinstance(preselect, str) and preselect in ("auto", "all"):
        return ""
    if isinstance(preselect, Mapping) and len(preselect) == 1:
        ((unit, value),) = preselect.items()
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            if (unit == "budgets" and 1 <= value < math.inf) or (unit == "share" and 0 < value <= 1):
                return ""
    return "expected auto, all, {budgets: a number from 1} or {share: a number above 0, at most 1}"


def limit(
    probs: ArrayLike,
    divergence: ArrayLike,
    features: ArrayLike,
    budget: int,
    candidates: ArrayLike,
    count: int,
    *,
    diversity: bool = False,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """The boundary limitator (§3.4): of the `count` candidates that moved most, those of largest entropy (Eq. 6). Ties are drawn.

    Args:
        probs: (N, C), rows that are a distribution: the virtual labels.
        divergence: one number for each candidate.
        features: (N, D); looked at for `diversity` alone.
        budget: how many to pick.
        candidates: idx.
        count: M, from the budget to the number of candidates.
        diversity: ours, not the paper's: the seeds of k-means++ among the M instead of the top of their entropy, in the space of
            unit features times entropy, from the one of largest entropy on.
        rng: what draws ties and seeds.

    Returns:
        idx (budget,).
    """
    probs = np.asarray(probs)
    first = top_k(divergence, candidates, count, rng)
    scores = entropy(probs[first])
    if not diversity:
        return top_k(scores, first, budget, rng)
    rows = unit_rows(np.asarray(features)[first])
    start = int(top_k(scores, np.arange(count), 1, rng)[0])
    return first[kmeans_plus_plus(rows, budget, rng, weights=scores, first=start)]
