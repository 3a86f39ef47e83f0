"""Intervals of a share, agreement of classifiers, certainty: closed forms, sums as slow loops, coverage, refusals."""

from __future__ import annotations

from math import comb, log

import numpy as np
import pytest

from usb_active.numerics.assessment import clopper_pearson, cohen_kappa, mean_confidence, mean_entropy, paired_gain


def at_least(right: int, total: int, share: float) -> float:
    """P(X ≥ right) of a binomial, term by term."""
    return sum(comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(right, total + 1))


@pytest.mark.parametrize("total", [1, 5, 30, 100])
def test_all_right_and_none_right_in_closed_form(total):
    # All right: P(X ≥ n) = low^n = α/2, so low = (α/2)^(1/n).
    low, high = clopper_pearson(total, total)
    assert low == pytest.approx(0.025 ** (1 / total), rel=1e-12)
    assert high == 1
    low, high = clopper_pearson(0, total)
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / total), rel=1e-12)


def test_nothing_drawn_says_nothing():
    assert clopper_pearson(0, 0) == (0, 1)


@pytest.mark.parametrize(("right", "total", "confidence"), [(1, 4, 0.95), (7, 30, 0.95), (29, 30, 0.9), (91, 100, 0.99)])
def test_each_end_leaves_half_of_the_rest_beyond_it(right, total, confidence):
    low, high = clopper_pearson(right, total, confidence)
    assert low < right / total < high
    assert at_least(right, total, low) == pytest.approx((1 - confidence) / 2, rel=1e-9)
    assert 1 - at_least(right + 1, total, high) == pytest.approx((1 - confidence) / 2, rel=1e-9)


@pytest.mark.parametrize("total", [3, 20])
def test_whatever_the_share_is_the_interval_covers_it_often_enough(total):
    intervals = [clopper_pearson(right, total) for right in range(total + 1)]
    for share in np.linspace(0.005, 0.995, 199).tolist():
        terms = [comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(total + 1)]
        covered = sum(term for term, (low, high) in zip(terms, intervals, strict=True) if low <= share <= high)
        assert covered >= 0.95 - 1e-12


def test_right_and_wrong_are_mirrored():
    low, high = clopper_pearson(9, 40)
    mirrored = clopper_pearson(31, 40)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, rel=1e-12)


@pytest.mark.parametrize("wrong", [(-1, 4), (5, 4), (1, 4, 0), (1, 4, 1), (1, 4, float("nan"))])
def test_what_no_interval_has(wrong):
    with pytest.raises(ValueError, match="must be"):
        clopper_pearson(*wrong)


def test_kappa_by_hand_and_as_a_loop():
    one, other = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1])
    # Agreed 4/5; by chance 3/5 · 2/5 + 2/5 · 3/5 = 12/25; (20 - 12) / (25 - 12).
    assert cohen_kappa(one, other, 2) == pytest.approx(8 / 13)
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    agreed = sum(a == b for a, b in zip(one.tolist(), other.tolist(), strict=True)) / 60
    chance = sum(one.tolist().count(c) * other.tolist().count(c) for c in range(4)) / 3600
    assert cohen_kappa(one, other, 4) == pytest.approx((agreed - chance) / (1 - chance))


def test_kappa_of_the_same_and_of_opposites():
    classes = np.array([0, 1, 2, 1])
    assert cohen_kappa(classes, classes, 3) == 1
    assert cohen_kappa(np.zeros(5, int), np.zeros(5, int), 3) == 1
    assert cohen_kappa(np.array([0, 1]), np.array([1, 0]), 2) == -1
    # A class more changes nothing.
    assert cohen_kappa(classes, classes[::-1], 3) == cohen_kappa(classes, classes[::-1], 9)


@pytest.mark.parametrize(("one", "other"), [([], []), ([0], [0, 1]), ([0, 3], [0, 1]), ([0, -1], [0, 1]), ([[0]], [[0]])])
def test_what_has_no_kappa(one, other):
    with pytest.raises(ValueError, match=r"classif|classes"):
        cohen_kappa(np.array(one, dtype=int), np.array(other, dtype=int), 3)


def test_certainty_in_closed_form():
    one_hot, even = np.eye(4)[[0, 2, 3]], np.full((5, 4), 0.25)
    assert (mean_confidence(one_hot), mean_entropy(one_hot)) == (1, 0)
    assert mean_confidence(even) == pytest.approx(0.25)
    assert mean_entropy(even) == pytest.approx(log(4))


def test_certainty_as_a_loop():
    probs = np.random.default_rng(1).dirichlet(np.ones(3), size=20).astype(np.float32)
    rows = probs.astype(float).tolist()
    assert mean_confidence(probs) == pytest.approx(sum(map(max, rows)) / 20)
    assert mean_entropy(probs) == pytest.approx(-sum(p * log(p) for row in rows for p in row) / 20)


@pytest.mark.parametrize("function", [mean_confidence, mean_entropy])
@pytest.mark.parametrize("shape", [(0, 3), (3,)])
def test_certainty_of_nothing(function, shape):
    with pytest.raises(ValueError, match="probs must be"):
        function(np.zeros(shape))


@pytest.mark.parametrize(("gained", "lost"), [(1, 0), (8, 0), (16, 8), (3, 9), (0, 4), (50, 31)])
def test_a_gain_of_pairs_is_the_tail_of_fair_draws(gained, lost):
    before = "1" * 5 + "0" * 7 + "0" * gained + "1" * lost + "-01"
    after = "1" * 5 + "0" * 7 + "1" * gained + "0" * lost + "1--"
    assert paired_gain(before, after) == pytest.approx(at_least(gained, gained + lost, 0.5), rel=1e-12)


def test_without_a_difference_there_is_no_gain():
    assert paired_gain("0101-", "0101-") == paired_gain("", "") == paired_gain("1-", "-0") == 1
    with pytest.raises(ValueError, match="marks of 2 and of 3 samples"):
        paired_gain("01", "010")
