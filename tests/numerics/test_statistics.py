"""Statistics against slow loops, closed forms, invariants, and what scipy and tables of the literature say."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from usb_active.numerics.statistics import (
    Bounds,
    area_under_curve,
    average_ranks,
    close_groups,
    friedman_test,
    half_width,
    holm,
    label_efficiency,
    labels_to_reach,
    mean_curve,
    mean_interval,
    nemenyi_difference,
    paired_differences,
    paired_t_test,
    sign_test,
    signed_rank_test,
)

numbers = st.integers(-50, 50).map(float)


# Shares of a test set of 360, as they come out of sums: a bit more or less.
shares = st.integers(0, 360)
rounding = st.sampled_from([-3e-16, -1e-16, 0.0, 1e-16, 2e-16])


def samples(least: int, most: int = 9):
    return st.lists(numbers, min_size=least, max_size=most)


def rounded(count: int, noise: float) -> float:
    return count / 360 * (1 + noise)


# ------------------------------------------------------------------------------------------ intervals
def test_an_interval_by_hand():
    # 1, 2, 3: mean 2, deviation 1, over √3; Student's 97.5 % for 2 degrees of freedom is 4.302653.
    found = mean_interval([1, 2, 3])
    assert (found.mean, found.count) == (2, 3) and found.half == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)
    # One degree of freedom is Cauchy's: the quantile is tan(0.475 π).
    assert half_width([0, 2]) == pytest.approx(math.tan(0.475 * math.pi))


@given(samples(2), st.floats(0.5, 0.99))
@settings(max_examples=60, deadline=None)
def test_an_interval_is_scipys(values, confidence):
    found = mean_interval(values, confidence)
    error = stats.sem(values)
    low, high = stats.t.interval(confidence, len(values) - 1, np.mean(values), error) if error else (np.mean(values),) * 2
    np.testing.assert_allclose([found.mean - found.half, found.mean + found.half], [low, high], atol=1e-9)


@given(samples(2), st.integers(1, 9), st.integers(-9, 9), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_an_interval_moves_and_scales_with_its_values(values, factor, shift, random):
    one = mean_interval(values)
    moved = [factor * value + shift for value in values]
    random.shuffle(moved)
    other = mean_interval(moved)
    np.testing.assert_allclose([other.mean, other.half], [factor * one.mean + shift, factor * one.half], atol=1e-9)


def test_of_one_value_nothing_is_known():
    assert math.isnan(half_width([3])) and mean_interval([3]).mean == 3 and mean_interval([2, 2, 2]).half == 0


# ------------------------------------------------------------------------------------------ learning curves
def curves(least: int = 2):
    points = st.lists(st.tuples(st.integers(1, 200), st.integers(0, 100)), min_size=least, max_size=8, unique_by=lambda point: point[0])
    return points.map(lambda found: tuple(map(list, zip(*sorted(found), strict=True))))


@given(curves())
@settings(max_examples=60, deadline=None)
def test_the_area_is_the_loop(curve):
    labels, scores = curve
    total = 0.0
    for place in range(len(labels) - 1):
        total += (scores[place] + scores[place + 1]) / 2 * (labels[place + 1] - labels[place])
    assert area_under_curve(labels, scores, labels[0], labels[-1]) == pytest.approx(total / (labels[-1] - labels[0]))


@given(curves(), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_the_area_of_a_part_is_the_mean_height_there(curve, one, other):
    labels, scores = curve
    start, stop = (labels[0] + share * (labels[-1] - labels[0]) for share in sorted((one, other)))
    found = area_under_curve(labels, scores, start, stop)
    # Many thin columns. Steep curves leave some of it.
    heights = np.interp(np.linspace(start, stop, 20_001), labels, scores)
    assert found == pytest.approx(heights.mean(), abs=0.02)
    # Between the lowest and the highest, and linear in the scores.
    assert min(scores) - 1e-9 <= found <= max(scores) + 1e-9
    assert area_under_curve(labels, [3 - 2 * score for score in scores], start, stop) == pytest.approx(3 - 2 * found)


def test_areas_in_closed_form():
    # A constant is its own mean; a straight line has that of its ends, on whatever grid.
    assert area_under_curve([10, 25, 40], [0.7] * 3, 12, 31) == pytest.approx(0.7)
    assert area_under_curve([10, 20, 50], [1, 2, 5], 10, 50) == area_under_curve([10, 50], [1, 5], 10, 50) == 3
    # A range of no width is a point.
    assert area_under_curve([10, 20], [1, 2], 15, 15) == 1.5 and area_under_curve([10], [4], 10, 10) == 4


@given(st.lists(curves(), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_the_mean_curve_is_the_loop(found):
    start, stop = max(labels[0] for labels, _ in found), min(labels[-1] for labels, _ in found)
    if start > stop:
        with pytest.raises(ValueError, match="ends at"):
            mean_curve(found)
        return
    places, means = mean_curve(found)
    assert places.tolist() == sorted({count for labels, _ in found for count in labels if start <= count <= stop})
    for place, mean in zip(places, means, strict=True):
        assert mean == pytest.approx(np.mean([area_under_curve(labels, scores, place, place) for labels, scores in found]))
    # Its area is the mean of theirs.
    areas = [area_under_curve(labels, scores, start, stop) for labels, scores in found]
    assert area_under_curve(places, means, start, stop) == pytest.approx(np.mean(areas))


def test_mean_curves_by_hand():
    places, means = mean_curve([([10, 20], [0.5, 0.7]), ([10, 20], [0.7, 0.9])])
    assert places.tolist() == [10, 20] and means == pytest.approx([0.6, 0.8])
    # From 12 to 30; the second rises by 0.1 per label.
    places, means = mean_curve([([10, 20, 30], [1, 1, 4]), ([12, 40], [1.5, 4.3])])
    assert places.tolist() == [12, 20, 30] and means == pytest.approx([1.25, (1 + 2.3) / 2, (4 + 3.3) / 2])


def test_labels_to_reach_by_hand():
    labels, scores = [10, 20, 40], [0.5, 0.6, 0.8]
    # 0.5 at 10, 0.7 half-way between 20 and 40, 0.8 at the end.
    assert labels_to_reach(labels, scores, 0.7) == Bounds(pytest.approx(30), pytest.approx(30))
    assert labels_to_reach(labels, scores, 0.8) == Bounds(40, 40)
    # Censored on either side.
    assert labels_to_reach(labels, scores, 0.81) == Bounds(40, math.inf)
    assert labels_to_reach(labels, scores, 0.5) == labels_to_reach(labels, scores, 0.1) == Bounds(0, 10)


def test_the_first_time_counts_where_a_curve_falls_again():
    assert labels_to_reach([10, 20, 30, 40], [0, 1, 0, 1], 0.5).low == 15


@given(curves(), st.integers(-10, 110))
@settings(max_examples=80, deadline=None)
def test_labels_to_reach_are_the_loop(curve, target):
    labels, scores = curve
    found = labels_to_reach(labels, scores, target)
    expected = Bounds(0, labels[0]) if scores[0] >= target else Bounds(labels[-1], math.inf)
    for (one, low), (other, high) in zip(zip(labels, scores, strict=True), list(zip(labels, scores, strict=True))[1:], strict=False):
        if expected.high == math.inf and low < target <= high:
            at = one + (target - low) / (high - low) * (other - one)
            expected = Bounds(at, at)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    # Lower is better: the curve upside down.
    assert labels_to_reach(labels, [-score for score in scores], -target, higher_is_better=False) == found
    # Twice as many labels everywhere are twice as many to reach it.
    twice = labels_to_reach([2 * count for count in labels], scores, target)
    assert (twice.low, twice.high) == pytest.approx((2 * found.low, 2 * found.high))


def test_label_efficiency():
    known, most, least = Bounds(100, 100), Bounds(200, math.inf), Bounds(0, 10)
    assert label_efficiency(Bounds(150, 150), known) == Bounds(1.5, 1.5)
    # Random never got there with 200: more than twice as many. The method never did: at most half as many.
    assert label_efficiency(most, known) == Bounds(2, math.inf) and label_efficiency(known, most) == Bounds(0, 0.5)
    # The method was there from the start, with 10 or fewer; random was.
    assert label_efficiency(known, least) == Bounds(10, math.inf) and label_efficiency(least, known) == Bounds(0, 0.1)
    assert label_efficiency(most, most) is None and label_efficiency(least, least) is None
    # More than 200 against at most 10.
    assert label_efficiency(most, least) == Bounds(20, math.inf) and label_efficiency(least, most) == Bounds(0, 0.05)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_target_that_is_reached_exactly_is_reached(sign):
    # The mean of three times 0.7 is less.
    high = np.mean([0.7] * 3)
    assert high < 0.7
    assert labels_to_reach([10, 20], [sign * 0.5, sign * high], sign * 0.7, sign > 0) == Bounds(20, 20)
    assert labels_to_reach([10, 20], [sign * high, sign * 0.8], sign * 0.7, sign > 0) == Bounds(0, 10)
    # A test set of a hundred thousand could tell this apart.
    assert labels_to_reach([10, 20], [sign * 0.5, sign * 0.69999], sign * 0.7, sign > 0).high == math.inf


# ------------------------------------------------------------------------------------------ rounding
def test_areas_that_are_equal_differ_in_nothing():
    rng = np.random.default_rng(1)
    labels, found = [10, 20, 30, 40], []
    while len(found) < 40:
        one, other = rng.integers(300, 330, (2, 4))
        if one[0] + 2 * one[1] + 2 * one[2] + one[3] == other[0] + 2 * other[1] + 2 * other[2] + other[3]:
            found.append([area_under_curve(labels, scores / 360, 10, 40) for scores in (one, other)])
    one, other = np.transpose(found)
    assert 5 < (one != other).sum() < 35, "sums in another order"
    gaps = paired_differences(one, other)
    assert not gaps.any() and paired_t_test(gaps) == signed_rank_test(gaps) == sign_test(gaps) == 1
    scores = np.stack([one, other, one], axis=1)
    assert average_ranks(scores).tolist() == [2, 2, 2] and friedman_test(scores) == (0.0, 1.0)


@given(st.lists(st.tuples(shares, shares, rounding, rounding), min_size=2, max_size=8))
@settings(max_examples=80, deadline=None)
def test_rounding_changes_no_test_of_two_methods(pairs):
    exact = [one - other for one, other, _, _ in pairs]
    gaps = paired_differences([rounded(one, bit) for one, _, bit, _ in pairs], [rounded(other, bit) for _, other, _, bit in pairs])
    assert [np.sign(gap) for gap in gaps] == np.sign(exact).tolist()
    assert sign_test(gaps) == sign_test(exact) and signed_rank_test(gaps) == signed_rank_test(exact)
    assert paired_t_test(gaps) == pytest.approx(paired_t_test(exact), abs=1e-9)


@given(st.lists(st.lists(st.tuples(shares, rounding), min_size=3, max_size=3), min_size=2, max_size=6))
@settings(max_examples=80, deadline=None)
def test_rounding_changes_no_rank(rows):
    exact = [[count for count, _ in row] for row in rows]
    scores = [[rounded(*each) for each in row] for row in rows]
    assert average_ranks(scores).tolist() == average_ranks(exact).tolist() and friedman_test(scores) == friedman_test(exact)


def test_differences_that_are_the_same_have_no_variance_however_they_are_rounded():
    for differences in ([0.1] * 3, np.array([0.9, 0.8, 0.7]) - np.array([0.8, 0.7, 0.6])):
        assert np.std(differences, ddof=1) > 0 and paired_t_test(differences) == 0


def test_small_is_not_rounding():
    # Of scores that are small themselves, and beside one that is large.
    assert paired_differences([2e-30, 0.0], [1e-30, 0.0]).tolist() == [1e-30, 0.0]
    assert average_ranks([[1e6, 2e-4, 1e-4]]).tolist() == [1, 2, 3]
    assert paired_differences(0.7, [0.6, 0.7]).tolist() == [0.7 - 0.6, 0.0]


# ------------------------------------------------------------------------------------------ two methods
@given(samples(2))
@settings(max_examples=60, deadline=None)
def test_the_t_test_is_scipys(differences):
    expected = float(differences[0] == 0) if len(set(differences)) == 1 else stats.ttest_1samp(differences, 0).pvalue
    assert paired_t_test(differences) == pytest.approx(expected)


def test_a_t_test_by_hand():
    # Two differences, 1 and 3: t = 2 / (√2 / √2) = 2 on one degree of freedom, where p is 1 - 2 arctan(2) / π.
    assert paired_t_test([1, 3]) == pytest.approx(1 - 2 * math.atan(2) / math.pi)


def signed_rank_by_loop(differences) -> float:
    kept = [value for value in differences if value]
    if not kept:
        return 1.0
    sizes = sorted(abs(value) for value in kept)
    ranks = [np.mean([place + 1 for place, size in enumerate(sizes) if size == abs(value)]) for value in kept]
    seen = sum(rank for rank, value in zip(ranks, kept, strict=True) if value > 0)
    sums = [sum(rank for rank, is_up in zip(ranks, signs, strict=True) if is_up) for signs in product((0, 1), repeat=len(kept))]
    low, high = np.mean([one <= seen for one in sums]), np.mean([one >= seen for one in sums])
    return min(1.0, 2 * min(low, high))


@given(samples(1, 7))
@settings(max_examples=60, deadline=None)
def test_the_signed_rank_test_counts_all_signs(differences):
    found = signed_rank_test(differences)
    assert found == pytest.approx(signed_rank_by_loop(differences))
    assert found == signed_rank_test([-value for value in differences]) == signed_rank_test([3 * value for value in reversed(differences)])


def test_the_signed_rank_test_is_scipys_without_ties():
    rng = np.random.default_rng(0)
    for size in (5, 12, 40):
        differences = rng.normal(0.3, 1, size)
        assert signed_rank_test(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)
    differences = rng.normal(0.2, 1, 80)
    assert signed_rank_test(differences) == pytest.approx(stats.wilcoxon(differences, correction=False, method="approx").pvalue)
    # All of one sign: the two outermost of 2^n. With five seeds nothing can be below 0.05.
    assert signed_rank_test([1, 2, 3, 4, 5]) == 2 / 2**5 and signed_rank_test([0, 0]) == 1


@given(samples(1))
@settings(max_examples=60, deadline=None)
def test_the_sign_test_is_scipys(differences):
    wins, all_signs = sum(value > 0 for value in differences), sum(value != 0 for value in differences)
    expected = stats.binomtest(wins, all_signs).pvalue if all_signs else 1
    assert sign_test(differences) == pytest.approx(expected)


def test_holm_by_hand():
    # 4 · 0.005, 3 · 0.01, 2 · 0.03, and 0.04, which may not be below the 0.06 before it.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, math.nan, 0.6]), [1, math.nan, 1])
    assert holm([0.2]).tolist() == [0.2] and holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_holm_rejects_as_the_steps_do(p_values, random):
    adjusted = holm(p_values)
    for level in (0.01, 0.05, 0.3):
        rejected, order = set(), sorted(range(len(p_values)), key=lambda place: p_values[place])
        for number, place in enumerate(order):
            if (len(order) - number) * p_values[place] > level:
                break
            rejected.add(place)
        assert {place for place, p in enumerate(adjusted) if p <= level} == rejected
    # At least the p-value itself, at most Bonferroni's.
    assert (adjusted >= np.array(p_values)).all() and (adjusted <= np.minimum(1, len(p_values) * np.array(p_values) + 1e-15)).all()
    order = list(range(len(p_values)))
    random.shuffle(order)
    np.testing.assert_allclose(holm([p_values[place] for place in order]), adjusted[order])


# ------------------------------------------------------------------------------------------ many methods
blocks = st.integers(3, 5).flatmap(
    lambda methods: st.lists(st.lists(st.integers(0, 4), min_size=methods, max_size=methods), min_size=2, max_size=6)
)


@given(blocks)
@settings(max_examples=50, deadline=None)
def test_ranks_and_friedman_are_the_loops(scores):
    count, methods = len(scores), len(scores[0])
    ranks = [[1 + sum(other > one for other in row) + (row.count(one) - 1) / 2 for one in row] for row in scores]
    means = [sum(column) / count for column in zip(*ranks, strict=True)]
    np.testing.assert_allclose(average_ranks(scores), means)
    statistic, p = friedman_test(scores)
    # With ties: the spread of the mean ranks over the spread of all ranks.
    middle = (methods + 1) / 2
    spread = sum((rank - middle) ** 2 for row in ranks for rank in row) / (count * (methods - 1))
    expected = sum(count * (mean - middle) ** 2 for mean in means) / spread if spread else 0.0
    assert statistic == pytest.approx(expected, abs=1e-9) and p == pytest.approx(stats.chi2.sf(expected, methods - 1))
    # Only the order within a block matters, and no order of the blocks.
    other = [[place * 10 + 2**score for score in row] for place, row in enumerate(reversed(scores))]
    np.testing.assert_allclose(friedman_test(other), (statistic, p), atol=1e-9)


def test_methods_in_the_same_order_everywhere():
    scores = np.tile([0.9, 0.8, 0.7], (4, 1))
    assert average_ranks(scores).tolist() == [1, 2, 3]
    # B (K - 1) is the largest that Friedman's statistic can be.
    assert friedman_test(scores)[0] == pytest.approx(4 * 2)
    assert friedman_test(np.ones((4, 3))) == (0.0, 1.0)


@pytest.mark.parametrize(("methods", "quantile"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_the_critical_difference_is_that_of_the_table(methods, quantile):
    # Demšar (2006), Table 5, for 0.05.
    assert nemenyi_difference(methods, 14) == pytest.approx(quantile * math.sqrt(methods * (methods + 1) / (6 * 14)), abs=1e-3)
    # Four times as many blocks halve it.
    assert nemenyi_difference(methods, 56) == pytest.approx(nemenyi_difference(methods, 14) / 2)


def test_demsars_example():
    # Section 3.2.2: four algorithms on 14 data sets, CD = 2.569 √(4 · 5 / (6 · 14)) = 1.25.
    assert nemenyi_difference(4, 14) == pytest.approx(1.25, abs=0.005)


@given(st.lists(st.integers(10, 60), min_size=1, max_size=7).map(sorted), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_close_groups_are_the_loop(ranks, difference):
    size = len(ranks)
    every = [(one, other) for one in range(size) for other in range(one + 1, size) if ranks[other] - ranks[one] < difference]
    largest = [(a, b) for a, b in every if not any(c <= a and b <= d and (c, d) != (a, b) for c, d in every)]
    assert close_groups(ranks, difference) == largest


# ------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), "at least one"),
        (lambda: mean_interval([1, math.nan]), "not finite"),
        (lambda: half_width([[1, 2]]), "shape"),
        (lambda: area_under_curve([10, 20], [1, 2], 5, 20), "within 10 to 20"),
        (lambda: area_under_curve([20, 10], [1, 2], 10, 20), "increasing"),
        (lambda: area_under_curve([10], [1, 2], 10, 10), "2 for 1"),
        (lambda: mean_curve([]), "at least one"),
        (lambda: labels_to_reach([10], [1], math.nan), "nan, expected a number"),
        (lambda: paired_differences([1], [math.inf]), "not finite"),
        (lambda: paired_t_test([1]), "at least 2"),
        (lambda: holm([1.5]), "from 0 to 1"),
        (lambda: friedman_test([[1, 2]]), "at least 3"),
        (lambda: average_ranks([1, 2]), "shape"),
        (lambda: nemenyi_difference(1, 5), "at least 2 methods"),
        (lambda: close_groups([2, 1], 1), "increasing"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
