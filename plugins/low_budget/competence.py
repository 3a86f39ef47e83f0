"""DCoM: coverage by balls that are as large as they are pure, mixed with uncertainty by how much is covered (Mishal & Weinshall 2024).

I. Mishal, D. Weinshall, "DCoM: Active Learning for All Learners", 2024. The features have length one.

Dimension letters: N pool, M candidates, L labelled, C classes, D feature dimension.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from usb_active.plugins.low_budget.balls import Balls, Degrees
from usb_active.plugins.low_budget.inputs import above_zero, checked_classes, checked_rows, unit_pool

from usb_active.numerics.arrays import margin, named

# The purity that a ball must have: so much, and so much more when everything is covered (authors' code).
_PURITY, _PURITY_OF_COVERAGE = 0.4, 0.2
_TIE = 1e-12


class Competent(NamedTuple):
    """What DCoM picked, and how.

    Attributes:
        idx: (budget,) in the order of picking.
        radii: (L,) of the balls around the labelled samples.
        coverage: the share of the pool in one of them.
        competence: the weight of the uncertainty, in 0..1; that of the coverage is one minus it.
    """

    idx: NDArray[np.int64]
    radii: NDArray[np.float64]
    coverage: float
    competence: float


def dcom(
    features: ArrayLike,
    probs: ArrayLike,
    labeled: ArrayLike,
    labels: ArrayLike,
    budget: int,
    rng: np.random.Generator,
    *,
    delta: float,
    radii: ArrayLike | None = None,
    max_delta: float = 1.1,
    steepness: float = 50.0,
    centre: float = 0.8,
    candidates: ArrayLike | None = None,
) -> Competent:
    """DCoM (Mishal & Weinshall 2024, Algorithm 1): balls of newly labelled samples become as large as they are pure, then the picks.

    Each labelled sample without a radius gets the largest, up to `max_delta`, at which its ball is pure enough by the model's predictions
    (`pure_radius`); the purity wanted is 0.4 + 0.2 coverage, the coverage being that of radii which are not known yet at the mean of the
    others (or `delta`). What is covered then gives the competence (`competence_score`), and each pick has the largest
    competence * uncertainty + (1 - competence) * degree: one minus the margin of its two likeliest classes, and how many samples in a
    ball of the mean radius nothing covers yet, each relative to its largest.

    Radii that are kept from round to round are distances of the features of their round: as in the authors' experiments these should not
    change, as those of a pretrained network do not.

    As in the authors' code the margins are scaled to 0..1 over the pool. Different: their radii come from a binary search
    that stops within 0.05, and are rounded to two digits, as is their mean; ours are exact. Where every radius is 0, as
    after a training that predicts one class for all, the mean is taken to be `delta` (ours). Theirs makes no edges for the last N mod 700
    samples. Equals follow `rng.permutation(candidates)`; theirs are the last in the order of the pool.

    Args:
        features: (N, D), finite.
        probs: (N, C), rows that are a distribution; C at least 2.
        labeled: (L,) idx; there may be none.
        labels: (L,) their classes, in 0..C-1.
        budget: how many to pick, 1..M.
        rng: what draws the order of equals.
        delta: above 0, as for `prob_cover`: the radius of samples without one in the coverage that sets the purity wanted, while no sample
            has a radius; and that of the balls of the picks, where nothing is labelled or all radii found are 0.
        radii: (L,) those of earlier rounds, NaN for the samples that have none yet; by default none has.
        max_delta: what no ball is larger than, above 0. 1.1 as in the authors' code.
        steepness: k of the competence, above 0. 50 as in the authors' code.
        centre: the coverage a around which the competence rises, in 0..1. 0.8 as in the authors' code.
        candidates: (M,) idx, by default all others.

    Raises:
        ValueError: features that are not finite (names the rows), probs that are no distribution or too few, idx that are out of range,
            repeated, or both labelled and candidate, labels or radii of another length or out of range, and numbers out of range.
    """
    rows, labeled, candidates = unit_pool(features, labeled, candidates, budget)
    probs = checked_rows(probs, len(rows))
    labels = checked_classes(labels, len(labeled), probs.shape[1])
    for name, value in (("delta", delta), ("max_delta", max_delta), ("steepness", steepness)):
        above_zero(name, value)
    if not 0 <= centre <= 1:
        raise ValueError(f"centre: {centre!r}, expected 0 to 1")
    grown = _grown(rows, probs.argmax(axis=1), labeled, labels, _known(radii, labeled), delta, max_delta)
    covered = _covered(rows, labeled, grown)
    coverage = float(covered.mean())
    competence = competence_score(coverage, steepness, centre)
    radius = float(grown.mean() if grown.any() else delta)
    order = rng.permutation(candidates)
    uncertainty = _scaled(1 - margin(probs))[order]
    degrees = Degrees(Balls(rows, radius), order, covered)
    return Competent(_mixed(degrees, uncertainty, order, competence, budget), grown, coverage, competence)


def competence_score(coverage: float, steepness: float = 50.0, centre: float = 0.8) -> float:
    """(1 + exp(-k (1 - a))) / (1 + exp(-k (coverage - a))): 1 where everything is covered, near 0 well below a.

    Args:
        coverage: in 0..1.
        steepness: k.
        centre: a.
    """
    # Without overflow, for any k.
    return float(np.exp(np.logaddexp(0, -steepness * (1 - centre)) - np.logaddexp(0, -steepness * (coverage - centre))))


def pure_radius(distances: NDArray[np.float64], same: NDArray[np.bool_], purity: float, max_delta: float) -> float:
    """The largest radius up to `max_delta` at which a share `purity` of the samples in the ball are of its class; 0 where there is none.

    A ball holds what is nearer than its radius, so it changes at the distances alone: all of them are tried.

    Args:
        distances: (N,) of all samples to the one in the middle.
        same: (N,) which of them are of its class.
        purity: the share, in 0..1.
        max_delta: above 0.
    """
    order = np.argsort(distances, kind="stable")
    near = order[distances[order] < max_delta]
    shares = np.cumsum(same[near]) / np.arange(1, len(near) + 1)
    # Where the next one is as far, the ball cannot end between the two.
    ends = np.append(distances[near[1:]], max_delta)
    # A purity such as 0.4 + 0.2 is a hair more than 3/5 in binary.
    pure = np.flatnonzero((shares >= purity - _TIE) & (ends > distances[near]))
    return float(ends[pure[-1]]) if len(pure) else 0.0


def _known(radii: ArrayLike | None, labeled: NDArray[np.int64]) -> NDArray[np.float64]:
    count = len(labeled)
    known = np.full(count, np.nan) if radii is None else np.array(radii, np.float64)
    if known.shape != (count,):
        raise ValueError(f"radii: expected one for each labelled sample, shape ({count},), got {known.shape}")
    bad = np.isinf(known) | (known < 0)
    if bad.any():
        raise ValueError(f"radii: {known[bad][0]:g} first for {named('sample', labeled[bad])}, expected numbers from 0 on, or NaN")
    return known


def _grown(
    rows: NDArray[np.float32],
    predicted: NDArray[np.int64],
    labeled: NDArray[np.int64],
    labels: NDArray[np.int64],
    radii: NDArray[np.float64],
    delta: float,
    max_delta: float,
) -> NDArray[np.float64]:
    """Radii (L,), those that are NaN found by purity."""
    new = np.flatnonzero(np.isnan(radii))
    usual = float(np.nanmean(radii)) if len(new) < len(radii) else float(delta)
    grown = np.where(np.isnan(radii), usual, radii)
    purity = _PURITY + _PURITY_OF_COVERAGE * _covered(rows, labeled, grown).mean()
    balls, every = Balls(rows, max_delta), np.arange(len(rows))
    for i in new:
        distances = np.sqrt(balls.squared_to(labeled[i], every))
        grown[i] = pure_radius(distances, predicted == labels[i], purity, max_delta)
    return grown


def _covered(rows: NDArray[np.float32], labeled: NDArray[np.int64], radii: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,) what lies in a ball."""
    covered = np.zeros(len(rows), bool)
    for radius in np.unique(radii):
        left = np.flatnonzero(~covered)
        covered[left] = Balls(rows, float(radius)).union(labeled[radii == radius], left)
    return covered


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """To 0..1; zeros where all are equal."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _mixed(
    degrees: Degrees, uncertainty: NDArray[np.float64], order: NDArray[np.int64], competence: float, budget: int
) -> NDArray[np.int64]:
    """Picks (budget,) out of the candidates in `order` (M,)."""
    free, picks = np.ones(len(order), bool), np.empty(budget, np.int64)
    for step in range(budget):
        scores = np.zeros(len(order))
        for weight, values in ((competence, uncertainty), (1 - competence, degrees.values)):
            peak = values[free].max()
            scores += weight * values / peak if peak > 0 else 0.0
        scores[~free] = -1.0
        best = int(np.argmax(scores >= scores.max() - _TIE))
        free[best], picks[step] = False, order[best]
        degrees.pick(best)
    return picks
