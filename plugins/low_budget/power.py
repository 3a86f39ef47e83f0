"""Power acquisition: batches drawn by a power of the score instead of its top (Kirsch et al. 2023).

A. Kirsch, S. Farquhar, P. Atighehchian, A. Jesson, F. Branchaud-Charron, Y. Gal, "Stochastic Batch Acquisition: A Simple Baseline for
Deep Active Learning", TMLR 2023. Dimension letters: N pool, M candidates, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from usb_active.plugins.low_budget.inputs import above_zero

from usb_active.numerics.arrays import check_budget, checked_idx, checked_split, margin, named

# Of beta: times the logarithm of any number it is finite.
_LARGEST = 1e290


def power_margin(
    probs: ArrayLike, budget: int, rng: np.random.Generator, *, candidates: ArrayLike | None = None, beta: float = 1.0
) -> NDArray[np.int64]:
    """Power acquisition on the margin: drawn by (1 - margin)^beta, without replacement; see `power_sample`.

    Args:
        probs: (N, C), rows that are a distribution; C at least 2.
        budget: how many to pick, 1..M.
        rng: what draws them.
        candidates: (M,) idx, by default all.
        beta: as in `power_sample`.

    Returns:
        idx (budget,), as drawn.

    Raises:
        ValueError: probs that are no distribution (names the rows), and what `power_sample` raises it for.
    """
    gaps = margin(probs)
    candidates = checked_split(len(gaps), [], candidates, "probs")[1]
    # Rounding can make a margin a hair more than one.
    return power_sample(np.maximum(1 - gaps[candidates], 0.0), candidates, budget, rng, beta=beta)


def power_sample(
    scores: ArrayLike, candidates: ArrayLike, budget: int, rng: np.random.Generator, *, beta: float = 1.0
) -> NDArray[np.int64]:
    """Draws without replacement, each next with probability proportional to score^beta (Kirsch et al. 2023, §3).

    The draw is that of the paper: beta log(score) plus noise of the standard Gumbel distribution, and the largest of these, in order; which
    is that law (Kool et al. 2019). Beta 1 is the paper's; 0 would be uniform, and infinity the top of the scores. Scores of zero have
    no probability: they come when no other is left, in uniform order.

    Args:
        scores: (M,), finite and at least 0.
        candidates: (M,) idx.
        budget: how many to pick, 1..M.
        rng: what draws the noise.
        beta: above 0.

    Returns:
        idx (budget,), as drawn.

    Raises:
        ValueError: lengths that differ, repeated idx, a budget outside 1..M, scores that are negative or not finite (names the samples),
            and a beta that is not above 0.
    """
    candidates, scores = checked_idx("candidates", candidates), np.asarray(scores, np.float64)
    if scores.shape != candidates.shape:
        raise ValueError(f"scores: expected one score per candidate, shape {candidates.shape}, got {scores.shape}")
    check_budget(budget, len(candidates))
    beta = above_zero("beta", beta)
    bad = candidates[~(np.isfinite(scores) & (scores >= 0))]
    if len(bad):
        raise ValueError(f"scores: expected finite numbers from 0 on, not so for {named('sample', bad)}")
    noise = rng.gumbel(size=len(scores))
    zero = scores == 0
    logs = np.log(scores, out=np.zeros_like(scores), where=~zero)
    # Relative to the largest, so that its noise is whole for any beta; and no product overflows.
    keys = min(beta, _LARGEST) * (logs - (0.0 if zero.all() else logs[~zero].max())) + noise
    keys[zero] = 0.0
    # Zeros below all others, and what is too far below the largest for its noise to be kept, are in the order of their noise alone.
    return candidates[np.lexsort((-noise, -keys, zero))[:budget]]
