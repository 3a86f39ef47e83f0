"""CDAL against slow loops of its formula, closed forms and invariants."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, entropy
from usb_active.plugins.baselines import cdal as C

from usb_active.testing import AcquisitionContract


def make_rng(seed=0):
    return np.random.default_rng(seed)


def made(seed=0, n=60, c=5, concentration=0.3):
    return make_rng(seed).dirichlet(np.full(c, concentration), size=n)


def slow_distance(p, q):
    """The formula, class by class."""
    total = 0.0
    for a, b in zip(p, q, strict=True):
        a, b = max(float(a), C.FLOOR), max(float(b), C.FLOOR)
        total += 0.5 * a * np.log(a / b) + 0.5 * b * np.log(b / a)
    return total


def slow_cdal(probs, labeled, budget, order):
    """The plain loop; the first of equals in `order`."""
    centres = list(labeled)
    for _ in range(budget):
        left = [i for i in order if i not in centres]
        radius = [min((slow_distance(probs[i], probs[c]) for c in centres), default=np.inf) for i in left]
        centres.append(left[int(np.argmax(radius))])
    return centres[len(labeled) :]


# ------------------------------------------------------------------------------------------ the distance
def test_distance_equals_the_formula_and_scipy():
    p, q = made(0, concentration=2), made(1, concentration=2)
    np.testing.assert_allclose(C.contextual_distance(p, q), [slow_distance(*rows) for rows in zip(p, q, strict=True)], rtol=1e-9)
    np.testing.assert_allclose(C.contextual_distance(p, q), (entropy(p, q, axis=1) + entropy(q, p, axis=1)) / 2, rtol=1e-6)


def test_distance_of_two_coins():
    # (3/4, 1/4) and (1/4, 3/4): each term is 1/2 · 1/2 · log 3, and there are two.
    np.testing.assert_allclose(C.contextual_distance([[0.75, 0.25]], [0.25, 0.75]), [0.5 * np.log(3)], rtol=1e-14)


def test_distance_of_certain_predictions_is_finite():
    # Both classes give 1/2 (1 - f)(0 - log f), with f = 2^-23: 23 log 2 (1 - f).
    expected = 23 * np.log(2) * (1 - 2.0**-23)
    np.testing.assert_allclose(C.contextual_distance(np.eye(3)[[0]], np.eye(3)[1]), [expected], rtol=1e-14)
    assert C.contextual_distance(np.eye(3)[[0]], np.eye(3)[0]) == 0


@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_distance_is_symmetric_positive_and_blind_to_the_order_of_classes(seed, c):
    p, q = made(seed, 20, c), made(seed + 1, 20, c)
    distance, order = C.contextual_distance(p, q), make_rng(seed).permutation(c)
    np.testing.assert_array_equal(distance, C.contextual_distance(q, p))
    np.testing.assert_allclose(distance, C.contextual_distance(p[:, order], q[:, order]), rtol=1e-12, atol=1e-15)
    assert (distance >= 0).all() and (C.contextual_distance(p, p) == 0).all()
    assert (distance <= 23 * np.log(2)).all()


@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.sampled_from([0.01, 0.3, 10]))
@settings(max_examples=40, deadline=None)
def test_bounds_hold(seed, c, concentration):
    space, centres, idx = C.DivergenceSpace(made(seed, 30, c, concentration)), np.arange(4), np.arange(4, 30)
    exact = np.stack([space.squared(idx, np.full(26, centre)) for centre in centres], axis=1)
    screen = space.screen(centres)
    np.testing.assert_allclose(screen.distances(idx), exact, atol=screen.slack, rtol=0)
    assert (screen.upper(idx) >= exact.min(axis=1)).all()
    for limit in (screen.upper(idx), exact.min(axis=1) * 1.5):
        pairs = set(zip(*screen.contenders(idx, limit), strict=True))
        for row in np.flatnonzero(exact.min(axis=1) < limit):
            assert (row, exact[row].argmin()) in pairs


# ------------------------------------------------------------------------------------------ the picks
@pytest.mark.parametrize("num_labeled", [0, 1, 6])
@pytest.mark.parametrize("concentration", [0.02, 0.3, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_picks_equal_the_plain_loop(num_labeled, concentration, dtype):
    probs = made(num_labeled, concentration=concentration).astype(dtype)
    probs[10:15] = probs[5]  # copies, so that some distances are equal
    labeled = make_rng(3).permutation(60)[:num_labeled]
    candidates = np.setdiff1d(np.arange(5, 60), labeled)
    order = make_rng(4).permutation(candidates)
    picks = C.cdal(probs, labeled, 25, make_rng(4), candidates=candidates)
    np.testing.assert_array_equal(picks, slow_cdal(probs, labeled, 25, order))


def test_picks_do_not_depend_on_blocks(monkeypatch):
    probs = made(n=300)
    expected = C.cdal(probs, np.arange(9), 100, make_rng(0))
    monkeypatch.setattr("usb_active.numerics.arrays.BLOCK", 100)
    monkeypatch.setattr("usb_active.numerics.greedy._FRONT", 3)
    np.testing.assert_array_equal(C.cdal(probs, np.arange(9), 100, make_rng(0)), expected)


def test_each_class_is_seen_before_one_is_seen_twice():
    # Certain predictions, ten of each of five classes; class 0 is labelled. Then one of each other class, in any order.
    probs = np.eye(5)[np.arange(50) // 10]
    picks = C.cdal(probs, [0], 4, make_rng(0))
    assert sorted(np.asarray(picks) // 10) == [1, 2, 3, 4]


def test_ties_are_drawn_evenly():
    probs = np.concatenate([[[0.9, 0.1]], np.tile([0.2, 0.8], (6, 1))])
    rng = make_rng(11)
    counts = Counter(int(C.cdal(probs, [0], 1, rng)[0]) for _ in range(900))
    assert chisquare([counts[i] for i in range(1, 7)]).pvalue > 1e-3
    counts = Counter(int(C.cdal(made(n=6), [], 1, rng)[0]) for _ in range(900))
    assert chisquare([counts[i] for i in range(6)]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 60}, "^budget: 60, expected an integer from 1 to the 59 candidates$"),
        ({"labeled": [60]}, "^labeled: index 60 outside the 60 rows of probs$"),
        ({"candidates": [0, 1]}, "^candidates: labelled already: index 0$"),
        ({"probs": np.zeros(60)}, r"^probs: expected shape \(N, C\), got \(60,\)$"),
        ({"probs": 2 * made()}, "^probs: rows must sum to 1"),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = {"probs": made(), "labeled": [0], "budget": 3, "rng": make_rng()} | changes
    with pytest.raises(ValueError, match=message):
        C.cdal(**arguments)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_named(value):
    probs = made()
    probs[[5, 6], 0] = value
    with pytest.raises(ValueError, match="^probs: must be finite, got .* first in rows 5, 6$"):
        C.cdal(probs, [0], 3, make_rng())


class TestCdal(AcquisitionContract):
    name = "cdal"

    def test_each_pick_is_farthest_from_all_centres(self, world):
        probs = self.view(world, self.plugin()).probs
        expected = slow_cdal(probs, world.pool.labeled.tolist(), 9, world.pool.candidates)
        assert self.pick(world, 9).tolist() == expected
