"""Statistics of comparisons: intervals, learning curves as one number, paired tests, and many methods at once.

Arrays in, numbers out; nothing is random and nothing is drawn. Dimension letters: S seeds or pairs, B blocks (what all methods were tried
on), K methods, L points of a learning curve. scipy is imported where it is needed: a command that reports nothing does not wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
# Numbers that differ by less than this share of them are the same: what is left is rounding. Far below what a test set can tell apart.
SAME = 1e-9
# Up to here the signed-rank test counts all signs; beyond, the normal distribution is as good.
_EXACT_UP_TO = 50


# ------------------------------------------------------------------------------------------ intervals
@dataclass(frozen=True)
class MeanInterval:
    """A mean with half the width of its confidence interval.

    Attributes:
        mean: of the values.
        half: NaN for a single value, of which nothing is known.
        count: how many values stand behind it.
    """

    mean: float
    half: float
    count: int


def half_width(values: ArrayLike, confidence: float = CONFIDENCE) -> float:
    """Half the width of the confidence interval of the mean of `values` (S,), by Student's t; NaN for fewer than two values."""
    values = _finite("values", values)
    if len(values) < 2:
        return math.nan
    from scipy.special import stdtrit

    return float(stdtrit(len(values) - 1, (1 + confidence) / 2) * values.std(ddof=1) / math.sqrt(len(values)))


def mean_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> MeanInterval:
    """The mean of `values` (S,) with its interval by Student's t. For a paired difference, give the differences.

    Raises:
        ValueError: no value, or values that are not finite.
    """
    values = _finite("values", values)
    if not len(values):
        raise ValueError("values: expected at least one")
    return MeanInterval(float(values.mean()), half_width(values, confidence), len(values))


# ------------------------------------------------------------------------------------------ learning curves
def area_under_curve(labels: ArrayLike, scores: ArrayLike, start: float, stop: float) -> float:
    """The mean height of a learning curve between two numbers of labels: the area by the trapezoid rule, divided by the range.

    Args:
        labels: (L,) increasing numbers of labels.
        scores: (L,) the scores there.
        start: where the range begins.
        stop: where it ends; the curve's height there if it is `start`.

    Curves on unequal grids are made comparable by one range: between its own points a curve is a straight line, so a range may begin and
    end anywhere within them.

    Raises:
        ValueError: a range that the curve does not cover; a curve that is none.
    """
    labels, scores = _curve(labels, scores)
    if not labels[0] <= start <= stop <= labels[-1]:
        raise ValueError(f"range: {start:g} to {stop:g}, expected within {labels[0]:g} to {labels[-1]:g}")
    inside = labels[(labels > start) & (labels < stop)]
    places = np.concatenate([[start], inside, [stop]])
    heights = np.interp(places, labels, scores)
    if start == stop:
        return float(heights[0])
    return float(((heights[1:] + heights[:-1]) / 2 * np.diff(places)).sum() / (stop - start))


def mean_curve(curves: Sequence[tuple[ArrayLike, ArrayLike]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean of learning curves, each (labels (L,), scores (L,)): numbers of labels (M,) and mean scores (M,).

    Over the range that all of them cover, at every number of labels there that any of them has; between its own points a curve is a
    straight line. On equal grids, simply the means.

    Raises:
        ValueError: no curve, or curves that have no number of labels in common.
    """
    found = [_curve(labels, scores) for labels, scores in curves]
    if not found:
        raise ValueError("curves: expected at least one")
    start, stop = max(labels[0] for labels, _ in found), min(labels[-1] for labels, _ in found)
    if start > stop:
        raise ValueError(f"curves: one begins at {start:g}, one ends at {stop:g} already")
    places = np.unique(np.concatenate([labels for labels, _ in found]))
    places = places[(places >= start) & (places <= stop)]
    return places, np.mean([np.interp(places, labels, scores) for labels, scores in found], axis=0)


@dataclass(frozen=True)
class Bounds:
    """What is known of a number.

    Attributes:
        low: it is no less.
        high: it is no more; infinity where nothing is known of that. The number itself where `low` is the same.
    """

    low: float
    high: float


def labels_to_reach(labels: ArrayLike, scores: ArrayLike, target: float, higher_is_better: bool = True) -> Bounds:
    """The number of labels at which a learning curve is first as good as `target`, by straight lines between its points.

    Args:
        labels: (L,) increasing numbers of labels.
        scores: (L,) the scores there.
        target: the score to reach.
        higher_is_better: or else lower.

    A target that only rounding misses is reached. Censored where the curve does not say: from 0 to the first number of labels where it
    begins as good as that, from the last to infinity where it never is.
    """
    labels, scores = _curve(labels, scores)
    if not math.isfinite(target):
        raise ValueError(f"target: {target}, expected a number")
    gaps = paired_differences(scores, target) if higher_is_better else paired_differences(target, scores)
    reached = np.flatnonzero(gaps >= 0)
    if not len(reached):
        return Bounds(float(labels[-1]), math.inf)
    at = int(reached[0])
    if at == 0:
        return Bounds(0.0, float(labels[0]))
    # Below the target before, and not below it here: the line crosses it once.
    share = gaps[at - 1] / (gaps[at - 1] - gaps[at])
    crossing = float(labels[at - 1] + share * (labels[at] - labels[at - 1]))
    return Bounds(crossing, crossing)


def label_efficiency(reference: Bounds, method: Bounds) -> Bounds | None:
    """How many times as many labels the reference needs as the method; None where both are censored so that nothing is known."""
    low = reference.low / method.high
    high = reference.high / method.low if method.low else math.inf
    return None if low == 0 and high == math.inf else Bounds(low, high)


# ------------------------------------------------------------------------------------------ two methods
def paired_differences(one: ArrayLike, other: ArrayLike) -> NDArray[np.float64]:
    """(S,) the one minus the other, each (S,); zero where only rounding tells them apart.

    Areas that are equal come out of sums in another order: taken as they are, most of them would differ. The tests below see differences
    alone, and cannot tell a small one from rounding.
    """
    one, other = (_finite("scores", each) for each in np.broadcast_arrays(one, other))
    found = one - other
    found[np.abs(found) <= SAME * np.maximum(np.abs(one), np.abs(other))] = 0
    return found


def paired_t_test(differences: ArrayLike) -> float:
    """Two-sided p that the mean of the paired differences (S,) is zero, by Student's t.

    Differences that are all the same (but for rounding) have no variance, and t is infinite: p is 0, unless they are zero, when it is 1.

    Raises:
        ValueError: fewer than two differences, or values that are not finite.
    """
    differences = _finite("differences", differences)
    if len(differences) < 2:
        raise ValueError(f"differences: expected at least 2, got {len(differences)}")
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    if spread <= SAME * np.abs(differences).max():
        return 0.0 if differences.any() else 1.0
    from scipy.special import stdtr

    return float(2 * stdtr(len(differences) - 1, -abs(mean) / (spread / math.sqrt(len(differences)))))


def signed_rank_test(differences: ArrayLike) -> float:
    """Two-sided p of Wilcoxon's signed-rank test on paired differences (S,); differences of zero are left out, equal ones share ranks.

    Those that only rounding tells apart are equal.

    Exact up to 50 differences, over all signs of the ranks as they are (ties included); beyond, by the normal distribution.
    """
    values = _finite("differences", differences)
    values = values[values != 0]
    if not len(values):
        return 1.0
    from scipy.special import ndtr
    from scipy.stats import rankdata

    ranks = rankdata(_without_rounding(np.abs(values)))
    if len(values) > _EXACT_UP_TO:
        # Half of each rank is expected, with a variance of a quarter of its square.
        gap = abs(ranks[values > 0].sum() - ranks.sum() / 2)
        return float(2 * ndtr(-2 * gap / math.sqrt((ranks**2).sum())))
    # Twice the ranks: whole numbers, also where some are shared.
    ranks = np.rint(2 * ranks).astype(np.int64)
    counts = np.zeros(ranks.sum() + 1)
    counts[0] = 1
    for rank in ranks:
        counts[rank:] += counts[: len(counts) - rank].copy()
    shares = counts / counts.sum()
    positive = int(ranks[values > 0].sum())
    return float(min(1.0, 2 * min(shares[: positive + 1].sum(), shares[positive:].sum())))


def sign_test(differences: ArrayLike) -> float:
    """Two-sided p that either sign of the paired differences (S,) is as likely; differences of zero are left out."""
    differences = _finite("differences", differences)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    if wins + losses == 0:
        return 1.0
    from scipy.special import bdtr

    return float(min(1.0, 2 * bdtr(min(wins, losses), wins + losses, 0.5)))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """(S,) p-values adjusted for testing all of them, by Holm's step-down method; those that are NaN were no tests and stay.

    Holm, Scandinavian Journal of Statistics 6 (1979) 65-70: the smallest times their number, the next times one less, and so on; none
    smaller than one before it.
    """
    p_values = np.asarray(p_values, np.float64)
    if p_values.ndim != 1 or (p_values < 0).any() or (p_values > 1).any():
        raise ValueError("p_values: expected shape (S,), from 0 to 1")
    adjusted = p_values.copy()
    order = [place for place in np.argsort(p_values, kind="stable") if not np.isnan(p_values[place])]
    largest = 0.0
    for number, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - number) * p_values[place]))
        adjusted[place] = largest
    return adjusted


# ------------------------------------------------------------------------------------------ many methods
def average_ranks(scores: ArrayLike) -> NDArray[np.float64]:
    """(K,) the mean over blocks of each method's rank by `scores` (B, K), higher being better; 1 is the best, equal ones share ranks.

    Those that only rounding tells apart are equal.
    """
    from scipy.stats import rankdata

    return rankdata(-_blocks(scores), axis=1).mean(axis=0)


def friedman_test(scores: ArrayLike) -> tuple[float, float]:
    """Friedman's statistic and its p (chi-squared with K - 1 degrees of freedom) for `scores` (B, K), K at least 3.

    0 and 1 where all methods are equal in every block, but for rounding.
    """
    scores = _blocks(scores)
    if scores.shape[1] < 3:
        raise ValueError(f"scores: {scores.shape[1]} methods, expected at least 3")
    if (scores == scores[:, :1]).all():
        return 0.0, 1.0
    from scipy.stats import friedmanchisquare

    found = friedmanchisquare(*scores.T)
    return float(found.statistic), float(found.pvalue)


def nemenyi_difference(num_methods: int, num_blocks: int, level: float = 0.05) -> float:
    """Nemenyi's critical difference: average ranks of K methods over B blocks that are this far apart differ significantly.

    q sqrt(K (K + 1) / (6 B)), where q is the studentized range's quantile for K and infinitely many degrees of freedom, over sqrt(2):
    Demšar, Journal of Machine Learning Research 7 (2006) 1-30, section 3.2.2 and Table 5.
    """
    if num_methods < 2 or num_blocks < 1:
        raise ValueError(f"expected at least 2 methods and 1 block, got {num_methods} and {num_blocks}")
    from scipy.stats import studentized_range

    quantile = float(studentized_range.ppf(1 - level, num_methods, np.inf)) / math.sqrt(2)
    return quantile * math.sqrt(num_methods * (num_methods + 1) / (6 * num_blocks))


def close_groups(ranks: ArrayLike, difference: float) -> list[tuple[int, int]]:
    """The largest groups of methods whose ranks (K,), in increasing order, are less than `difference` apart: (first, last) places."""
    ranks = _finite("ranks", ranks)
    if (np.diff(ranks) < 0).any():
        raise ValueError("ranks: expected in increasing order")
    found: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = int(np.flatnonzero(ranks - ranks[first] < difference)[-1])
        # A group within one that began before says nothing new.
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


# ------------------------------------------------------------------------------------------ checks
def _finite(name: str, values: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise ValueError(f"{name}: expected shape (S,), got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: not finite")
    return values


def _curve(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    labels, scores = _finite("labels", labels), _finite("scores", scores)
    if len(labels) != len(scores) or not len(labels):
        raise ValueError(f"curve: expected a score for each of at least 1 number of labels, got {len(scores)} for {len(labels)}")
    if (np.diff(labels) <= 0).any():
        raise ValueError("labels: expected in increasing order")
    return labels, scores


def _blocks(scores: ArrayLike) -> NDArray[np.float64]:
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or 0 in scores.shape:
        raise ValueError(f"scores: expected shape (B, K), got {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("scores: not finite")
    return np.apply_along_axis(_without_rounding, 1, scores)


def _without_rounding(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values (S,) that only rounding tells apart made equal: in increasing order, each that is next to the one before becomes it."""
    order = np.argsort(values, kind="stable")
    found = values[order]
    # Not rounded to so many digits: of two that are next to each other, one may be rounded up.
    is_new = np.diff(found) > SAME * np.maximum(np.abs(found[1:]), np.abs(found[:-1]))
    firsts = np.concatenate([[0], np.flatnonzero(is_new) + 1])
    same = np.empty_like(found)
    same[order] = np.repeat(found[firsts], np.diff([*firsts, len(found)]))
    return same
