"""The formulas of ASSL's analyses: slow loops, closed forms on simple input, and invariants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from usb_active.plugins.assl import analysis_functional as F
from usb_active.plugins.assl.functional import temporal_instability

RNG = np.random.default_rng(0)


# ------------------------------------------------------------------------------------------ changes between visits
def test_changes_between_visits_are_the_loop():
    rng = np.random.default_rng(1)
    found, seen = F.VisitInstability(12), {i: [] for i in range(12)}
    for _ in range(30):
        # With repetitions in one batch, which count in order; 10 and 11 never come.
        idx, labels = rng.integers(0, 10, size=8), rng.integers(0, 3, size=8)
        found.update(torch.from_numpy(idx), torch.from_numpy(labels))
        for i, label in zip(idx.tolist(), labels.tolist(), strict=True):
            seen[i].append(label)
    changes = [sum(a != b for a, b in zip(labels, labels[1:], strict=False)) for labels in seen.values()]
    assert found.changes.tolist() == changes and sum(changes) > 50
    assert found.visits.tolist() == [len(labels) for labels in seen.values()]
    assert found.last.tolist() == [labels[-1] if labels else -1 for labels in seen.values()]


def test_where_all_are_visited_at_once_it_is_equation_two():
    labels = np.random.default_rng(2).integers(0, 4, size=(9, 50))
    found = F.VisitInstability(50)
    for row in labels:
        found.update(np.arange(50), torch.from_numpy(row))
    assert found.changes.tolist() == temporal_instability(labels).tolist()
    # The names of the classes do not matter.
    renamed = F.VisitInstability(50)
    for row in labels:
        renamed.update(np.arange(50), torch.from_numpy(3 - row))
    assert torch.equal(renamed.changes, found.changes)


def test_a_sample_that_flips_at_every_visit():
    found = F.VisitInstability(2)
    for visit in range(7):
        found.update([1], torch.tensor([visit % 2]))
    # Seven visits are six steps from one to the next.
    assert (found.changes.tolist(), found.visits.tolist(), found.last.tolist()) == ([0, 6], [0, 7], [-1, 0])


def test_visits_survive_saving_and_loading():
    one, other = F.VisitInstability(3), F.VisitInstability(3)
    one.update([0, 2], torch.tensor([1, 1]))
    other.load_state_dict(one.state_dict())
    for counter in (one, other):
        counter.update([2, 1], torch.tensor([0, 0]))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    with pytest.raises(ValueError, match="expected 2 samples, got 3"):
        F.VisitInstability(2).load_state_dict(one.state_dict())


def test_bad_visits_are_one_line():
    found = F.VisitInstability(3)
    with pytest.raises(ValueError, match="idx: indices 3, -1 out of range; valid: 0 to 2"):
        found.update([0, 3, -1], torch.tensor([0, 0, 0]))
    with pytest.raises(ValueError, match="one for each of the 2 indices"):
        found.update([0, 1], torch.tensor([0]))
    with pytest.raises(ValueError, match="num_samples: 0"):
        F.VisitInstability(0)
    assert found.visits.tolist() == [0, 0, 0]


# ------------------------------------------------------------------------------------------ rank correlation
def rank_of(values, i):
    """The mean place of what equals values[i], counted from 1."""
    below, equal = sum(v < values[i] for v in values), sum(v == values[i] for v in values)
    return below + (equal + 1) / 2


def correlation_loop(a, b):
    ranks = [[rank_of(values, i) for i in range(len(values))] for values in (a, b)]
    means = [sum(r) / len(r) for r in ranks]
    x, y = ([r - m for r in of] for of, m in zip(ranks, means, strict=True))
    return sum(p * q for p, q in zip(x, y, strict=True)) / math.sqrt(sum(p * p for p in x) * sum(q * q for q in y))


def test_rank_correlation_is_the_loop():
    a, b = RNG.integers(0, 6, size=40).astype(float), RNG.integers(0, 9, size=40).astype(float)
    assert F.rank_correlation(a, b) == pytest.approx(correlation_loop(a.tolist(), b.tolist()), abs=1e-12)


def test_rank_correlation_without_ties():
    # 1 - 6 Σd² / (n (n² - 1)): d = (0, 1, -1, 0), n = 4: 1 - 12 / 60.
    assert F.rank_correlation([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(0.8)
    assert F.rank_correlation([1, 2, 3], [9, 5, 1]) == -1


@pytest.mark.parametrize(("a", "b"), [([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [0, 0, 0]), ([1], [2]), ([], [])])
def test_where_there_is_no_order_there_is_no_correlation(a, b):
    assert F.rank_correlation(a, b) is None


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=2, max_size=30))
@settings(max_examples=60, deadline=None)
def test_rank_correlation_knows_only_the_order(pairs):
    a, b = np.array(pairs, dtype=float).T
    found = F.rank_correlation(a, b)
    assert F.rank_correlation(np.exp(a / 10), 3 * b + 1) == (found if found is None else pytest.approx(found))
    assert F.rank_correlation(b, a) == (found if found is None else pytest.approx(found))
    assert found is None or -1 <= found <= 1


def test_bad_observations_are_one_line():
    with pytest.raises(ValueError, match="not finite in rows 1, 2"):
        F.rank_correlation([0, np.nan, 1], [0, 0, np.inf])
    with pytest.raises(ValueError, match="expected one length"):
        F.rank_correlation([0, 1], [0])


# ------------------------------------------------------------------------------------------ bins
def test_bins_are_the_loop():
    rng = np.random.default_rng(3)
    keys, values = rng.integers(0, 12, size=200), rng.random(200)
    for width in (1, 3):
        found = F.binned(keys, values, width)
        for place, first in enumerate(found.first.tolist()):
            inside = [v for k, v in zip(keys.tolist(), values.tolist(), strict=True) if first <= k < first + width]
            average = sum(inside) / len(inside)
            assert found.last[place] == first + width - 1 and found.count[place] == len(inside)
            assert found.mean[place] == pytest.approx(average)
            assert found.std[place] == pytest.approx(math.sqrt(sum((v - average) ** 2 for v in inside) / (len(inside) - 1)))
        assert found.count.sum() == 200


def test_bins_of_a_few_samples():
    found = F.binned([0, 2, 2], [0.5, 0.1, 0.3])
    # Nobody has 1. The two with 2: mean 0.2, variance 2 · 0.1² / 1.
    assert (found.first.tolist(), found.last.tolist(), found.count.tolist()) == ([0, 2], [0, 2], [1, 2])
    assert found.mean.tolist() == pytest.approx([0.5, 0.2])
    assert np.isnan(found.std[0]) and found.std[1] == pytest.approx(math.sqrt(0.02))
    assert len(F.binned(np.zeros(0, int), np.zeros(0)).count) == 0


def test_bins_do_not_depend_on_the_order_of_the_samples():
    keys, values, order = RNG.integers(0, 5, size=60), RNG.random(60), RNG.permutation(60)
    one, other = F.binned(keys, values), F.binned(keys[order], values[order])
    np.testing.assert_allclose(np.array([one.mean, one.std]), np.array([other.mean, other.std]))


@given(st.integers(0, 5000), st.integers(1, 60))
def test_the_width_is_the_least_that_will_do(largest, most):
    width = F.bin_width(largest, most)
    assert largest // width < most and (width == 1 or largest // (width - 1) >= most)


def test_bad_bins_are_one_line():
    for keys, values, width, message in (
        ([0, -1], [0, 0], 1, "keys: negative in row 1"),
        ([0, 1], [0, np.nan], 1, "values: not finite in row 1"),
        ([0.5], [0], 1, "expected one integer"),
        ([0, 1], [0], 1, "expected one integer"),
        ([0], [0], 0, "width: 0"),
    ):
        with pytest.raises(ValueError, match=message):
            F.binned(keys, values, width)


# ------------------------------------------------------------------------------------------ Table 1
def test_shares_are_the_loop():
    rng = np.random.default_rng(4)
    # 250: 1 % is 2.5, rounded up to 3.
    scores, shares = rng.permutation(250).astype(float), rng.random(250)
    order = sorted(range(250), key=lambda i: -scores[i])
    expected = [sum(shares[i] for i in order[:number]) / number for number in (3, 13, 25)]
    assert F.top_share(scores, shares) == pytest.approx(expected)


def test_shares_of_a_few_samples():
    # The best two of four are 1 and 0; of all four the mean is 0.5.
    assert F.top_share([4, 3, 2, 1], [1, 0, 0.5, 0.5], (25, 50, 100)) == pytest.approx([1, 0.5, 0.5])
    # One place for three that are tied: (1 + 0 + 0.5) / 3.
    assert F.top_share([2, 2, 2, 1], [1, 0, 0.5, 0], (25,)) == pytest.approx([0.5])
    # The first has a place of its own, two share the second: (0.2 + (1 + 0) / 2) / 2.
    assert F.top_share([3, 2, 2, 1], [0.2, 1, 0, 0], (50,)) == pytest.approx([0.35])
    # 7 % of 100 are 7, though 100 · 0.07 is a little more.
    assert F.top_share(np.arange(100), np.arange(100) >= 93, (7,)) == [1.0]


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), min_size=1, max_size=40), st.randoms())
@settings(max_examples=60, deadline=None)
def test_shares_depend_on_no_order(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    one, other = (F.top_share([s for s, _ in of], [c for _, c in of]) for of in (pairs, shuffled))
    assert one == pytest.approx(other, abs=1e-12)
    assert all(min(c for _, c in pairs) - 1e-12 <= share <= max(c for _, c in pairs) + 1e-12 for share in one)


def test_bad_shares_are_one_line():
    for scores, shares, percents, message in (
        ([], [], (1,), "at least 1"),
        ([1, np.inf], [0, 0], (1,), "not finite in row 1"),
        ([1], [0, 1], (1,), "expected one length"),
        ([1], [0], (0,), "percents: 0"),
        ([1], [0], (101,), "percents: 101"),
    ):
        with pytest.raises(ValueError, match=message):
            F.top_share(scores, shares, percents)
