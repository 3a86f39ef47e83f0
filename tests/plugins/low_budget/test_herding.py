"""MaxHerding and UHerding against the papers' loops, closed forms and invariants."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare
from usb_active.plugins.low_budget import functional as F
from usb_active.plugins.low_budget import kernel_gains as K
from usb_active.plugins.low_budget.inputs import tempered

from usb_active.numerics.arrays import unit_rows
from usb_active.testing import AcquisitionContract


def make_rng(seed=0):
    return np.random.default_rng(seed)


def made(seed=0, n=60, d=5, c=4):
    rng = make_rng(seed)
    return rng.standard_normal((n, d)), rng.dirichlet(np.full(c, 0.4), size=n)


def kernels(features, bandwidth):
    """(N, N), one pair at a time."""
    unit = [np.asarray(x, float) / (np.linalg.norm(x) or 1.0) for x in features]
    return np.array([[np.exp(-(np.linalg.norm(x - y) ** 2) / bandwidth**2) for y in unit] for x in unit])


def slow_herding(features, weights, labeled, budget, order, bandwidth):
    """The paper's loop: the first in `order` of those that raise the weighted mean most."""
    k, chosen = kernels(features, bandwidth), list(labeled)
    for _ in range(budget):
        left = [i for i in order if i not in chosen]
        covered = k[chosen].max(axis=0, initial=0)
        gains = np.array([float(weights @ (np.maximum(covered, k[i]) - covered)) for i in left])
        chosen.append(left[int(np.argmax(gains >= gains.max() * (1 - 1e-9)))])
    return chosen[len(labeled) :]


def slow_uncertainty(p, how):
    first, second = sorted(p)[::-1][:2]
    return {"margin": 1 - (first - second), "least_confidence": 1 - first, "entropy": -sum(x * np.log(x) for x in p if x > 0)}[how]


# ------------------------------------------------------------------------------------------ the picks
@pytest.mark.parametrize("num_labeled", [0, 1, 6])
@pytest.mark.parametrize("bandwidth", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_picks_equal_the_plain_loop(num_labeled, bandwidth, dtype):
    features = made(num_labeled)[0].astype(dtype)
    labeled = make_rng(3).permutation(60)[:num_labeled]
    candidates = np.setdiff1d(np.arange(5, 60), labeled)
    picks = F.max_herding(features, labeled, 12, make_rng(4), candidates=candidates, bandwidth=bandwidth)
    order = make_rng(4).permutation(candidates)
    assert picks.tolist() == slow_herding(features, np.ones(60) / 60, labeled, 12, order, bandwidth)


@pytest.mark.parametrize("how", ["margin", "entropy", "least_confidence"])
@pytest.mark.parametrize("num_labeled", [0, 1, 6])
def test_uncertain_samples_are_covered_first(how, num_labeled):
    features, probs = made(7)
    labeled = make_rng(3).permutation(60)[:num_labeled]
    weights = np.array([0.0 if i in labeled else slow_uncertainty(p, how) for i, p in enumerate(probs)])
    picks = F.u_herding(features, probs, labeled, 9, make_rng(4), uncertainty=how, bandwidth=0.8)
    order = make_rng(4).permutation(np.setdiff1d(np.arange(60), labeled))
    assert picks.tolist() == slow_herding(features, weights / 60, labeled, 9, order, 0.8)


def test_the_bandwidth_is_the_smallest_distance_of_labelled_samples_that_differ():
    features, probs = made(2)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    smallest = min(np.linalg.norm(unit[i] - unit[j]) for i in range(6) for j in range(i))
    features[6] = 3 * features[0]  # a copy, once its length is one
    assert F.smallest_distance(unit[:7]) == pytest.approx(smallest, rel=1e-6)
    given = F.u_herding(features, probs, range(7), 9, make_rng(), bandwidth=smallest)
    assert F.u_herding(features, probs, range(7), 9, make_rng()).tolist() == given.tolist()
    # One labelled sample, or copies of one: 1.
    assert F.smallest_distance(unit[:1]) == F.smallest_distance(np.repeat(unit[:1], 3, axis=0)) == 1.0


@pytest.mark.parametrize("apart", [0.0, 1e-8, 5e-4])
def test_a_near_copy_among_the_labels_does_not_narrow_the_kernel(apart):
    features = made(2)[0][:6]
    expected = F.label_bandwidth(features, range(6))
    near = features[0] + apart * np.linalg.norm(features[0]) * np.eye(5)[0]
    assert F.label_bandwidth(np.vstack([features, near]), range(7)) == expected
    # At right angles, and beyond a thousandth: a distance.
    assert F.label_bandwidth(np.eye(2), [0, 1]) == pytest.approx(np.sqrt(2))
    assert F.label_bandwidth([[1.0, 0], [1, 2e-3]], [0, 1]) == pytest.approx(2e-3, rel=1e-4)


def test_equal_uncertainties_make_it_max_herding():
    features, _ = made(3)
    # Without labels nothing is weighed down either.
    same = F.u_herding(features, np.full((60, 4), 0.25), [], 10, make_rng(1), bandwidth=1.0)
    assert same.tolist() == F.max_herding(features, [], 10, make_rng(1)).tolist()


def test_a_narrow_kernel_makes_it_uncertainty_sampling():
    # Nothing covers anything but itself: the most uncertain candidates, in order.
    features, probs = made(5)
    picks = F.u_herding(features, probs, [0, 1], 20, make_rng(), bandwidth=1e-3)
    scores = [slow_uncertainty(p, "margin") for p in probs]
    assert picks.tolist() == sorted(range(2, 60), key=lambda i: -scores[i])[:20]


def test_the_coverage_of_two_samples():
    # At a right angle, |x - y|^2 = 2: covered are the one itself, by 1, and the other, by exp(-2 / 2^2).
    features = np.array([[3.0, 0], [0, 5]])
    assert F.generalized_coverage(features, [0], bandwidth=2.0) == pytest.approx((1 + np.exp(-0.5)) / 2, rel=1e-12)
    assert F.generalized_coverage(features, []) == 0 and F.generalized_coverage(features, [0, 1]) == pytest.approx(1)


def test_temperature_is_that_of_the_logits():
    logits = 3 * make_rng(0).standard_normal((20, 5))
    softmax = [np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (logits, logits / 2.5)]
    np.testing.assert_allclose(tempered(softmax[0], 2.5), softmax[1], rtol=1e-10)


# ------------------------------------------------------------------------------------------ bounds
def in_few_dimensions(n=300, d=200, rank=12):
    rng = make_rng(9)
    return rng.standard_normal((n, rank)) @ rng.standard_normal((rank, d)) + 0.3 * rng.standard_normal((n, d))


@pytest.mark.parametrize("bandwidth", [0.3, 1.0])
def test_every_screen_bounds_the_gain(bandwidth):
    features = in_few_dimensions()
    rows = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    gains = K.KernelGains(rows, make_rng(1).random(300), bandwidth, np.arange(7))
    assert list(gains.screens) == ["coarse", "single"]
    exact, idx = gains.gains(np.arange(300)), np.arange(300)
    covered, weights = gains.covered.astype(np.float32), gains.weights.astype(np.float32)
    for screen in gains.screens.values():
        assert (screen.upper(idx, covered, weights, gains.covered @ gains.weights) >= exact).all()


def test_picks_do_not_depend_on_blocks_or_on_projections(monkeypatch):
    features = in_few_dimensions()
    expected = F.max_herding(features, np.arange(9), 40, make_rng(0))
    assert expected.tolist() == slow_herding(features, np.ones(300) / 300, range(9), 40, make_rng(0).permutation(np.arange(9, 300)), 1.0)
    monkeypatch.setattr(K, "_ROWS", 7)
    monkeypatch.setattr(K, "_COLUMNS", 50)
    monkeypatch.setattr(K, "_TOGETHER", {"coarse": 3, "single": 2, "double": 1})
    assert F.max_herding(features, np.arange(9), 40, make_rng(0)).tolist() == expected.tolist()
    monkeypatch.setattr(K, "_COARSE", 200)
    assert F.max_herding(features, np.arange(9), 40, make_rng(0)).tolist() == expected.tolist()


@pytest.mark.parametrize("d", [64, 512])
@pytest.mark.parametrize("bandwidth", [1e-2, 5e-3, 1e-3, 3e-4])
def test_narrow_kernels_are_decided_in_double_precision(d, bandwidth):
    # Fifteen near-copies at distances of about 1e-3.
    features = make_rng(1).standard_normal((40, d))
    features[5:20] = features[4] + 1e-3 * make_rng(2).standard_normal((15, d))
    rows = unit_rows(features)
    picks = F.max_herding(rows, [0], 12, make_rng(3), bandwidth=bandwidth)
    assert picks.tolist() == slow_herding(unit_rows(rows), np.ones(40), [0], 12, make_rng(3).permutation(np.arange(1, 40)), bandwidth)


@pytest.mark.parametrize("bandwidth", [1e-100, 1e-8, 1e-3, 1.0])
def test_a_copy_adds_nothing_however_narrow_the_kernel_is(bandwidth):
    features, _ = made(4)
    features[10:40] = 2 * features[0]
    assert not set(F.max_herding(features, [0], 29, make_rng(), bandwidth=bandwidth)) & set(range(10, 40))
    assert F.generalized_coverage(features, [0], bandwidth=1e-100) == pytest.approx(31 / 60)


@pytest.mark.parametrize("bandwidth", [1e-4, 0.02])
def test_what_a_sample_adds_by_itself_counts_however_little_it_weighs(bandwidth):
    # Half are copies of what is labelled and weigh 1; the others lie apart and weigh 1e-13, up to a millionth of that.
    features = make_rng(0).standard_normal((60, 8))
    features[:30] = features[0]
    weights = np.where(np.arange(60) < 30, 1.0, 1e-13 * (1 + 1e-6 * np.arange(60)))
    gains = K.KernelGains(unit_rows(features), weights, bandwidth, np.array([0]))
    assert gains.pick(np.arange(1, 60), 30).tolist() == list(range(59, 29, -1))


# ------------------------------------------------------------------------------------------ invariants
def test_the_length_of_features_does_not_matter():
    features, _ = made(1)
    scaled = features * 10.0 ** make_rng(2).integers(-3, 4, size=(60, 1))
    assert F.max_herding(features, [], 12, make_rng(0)).tolist() == F.max_herding(scaled, [], 12, make_rng(0)).tolist()


def test_the_order_of_the_pool_does_not_matter():
    features, probs = made(1)
    order = make_rng(8).permutation(60)
    picks = F.u_herding(features[order], probs[order], [int(np.flatnonzero(order == 3)[0])], 12, make_rng(5))
    assert order[picks].tolist() == F.u_herding(features, probs, [3], 12, make_rng(0)).tolist()


def test_copies_are_picked_last_and_drawn_evenly():
    # Thirty copies each of two directions: one of each, in any order, and then anything.
    features = np.repeat([[1.0, 0], [0, 1]], 30, axis=0)
    rng, counts = make_rng(0), Counter()
    for _ in range(300):
        picks = F.max_herding(features, [], 3, rng, bandwidth=0.5)
        assert sorted(picks[:2] // 30) == [0, 1]
        counts.update(picks.tolist())
    assert chisquare([counts[i] for i in range(60)]).pvalue > 1e-3


def test_a_copy_of_a_labelled_sample_adds_nothing():
    features, _ = made(4)
    features[10:40] = 2 * features[0]
    assert not set(F.max_herding(features, [0], 29, make_rng())) & set(range(10, 40))


# ------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 60}, "^budget: 60, expected an integer from 1 to the 59 candidates$"),
        ({"labeled": [60]}, "^labeled: index 60 outside the 60 rows of features$"),
        ({"candidates": [0, 1]}, "^candidates: labelled already: index 0$"),
        ({"bandwidth": 0.0}, "^bandwidth: 0.0, expected a number above 0$"),
        ({"bandwidth": -1.0}, "^bandwidth: -1.0, expected a number above 0$"),
        ({"bandwidth": 1e-200}, "^bandwidth: 1e-200, expected a number above 0, at least 1e-100$"),
        ({"bandwidth": np.inf}, "^bandwidth: inf, expected a number above 0$"),
        ({"temperature": 0.0}, "^temperature: 0.0, expected a number above 0$"),
        ({"uncertainty": "variance"}, "^uncertainty: 'variance', expected 'margin', 'entropy' or 'least_confidence'$"),
        ({"probs": made(n=59)[1]}, "^probs: 59 rows, expected one for each of the 60 rows of features$"),
        ({"probs": 2 * made()[1]}, "^probs: rows must sum to 1"),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = {"features": made()[0], "probs": made()[1], "labeled": [0], "budget": 3, "rng": make_rng()} | changes
    with pytest.raises(ValueError, match=message):
        F.u_herding(**arguments)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_named(value):
    features, _ = made()
    features[[5, 6], 0] = value
    with pytest.raises(ValueError, match="^features: not finite in rows 5, 6$"):
        F.max_herding(features, [0], 3, make_rng())
    with pytest.raises(ValueError, match="^features: not finite in rows 5, 6$"):
        F.generalized_coverage(features, [0])
    with pytest.raises(ValueError, match="^features: not finite in row 5$"):
        F.label_bandwidth(features, [2, 5])
    with pytest.raises(ValueError, match=r"^features: expected shape \(N, D\), got \(60,\)$"):
        F.generalized_coverage(features[:, 1], [0])


# ------------------------------------------------------------------------------------------ the plugins
class TestMaxHerding(AcquisitionContract):
    name = "max_herding"

    def test_it_is_the_function_and_logs_the_coverage(self, world):
        view = self.view(world, self.plugin())
        picks = self.plugin().select(view, 7)
        chosen = np.concatenate([view.labeled, picks])
        assert view._source.metrics["max_herding/coverage"] == F.generalized_coverage(view.features, chosen)
        ones = np.ones(60) / 60
        assert picks.tolist() == slow_herding(view.features, ones, view.labeled, 7, view.candidates, 1.0)


class TestMaxHerdingNarrow(AcquisitionContract):
    name = "max_herding"
    config = {"bandwidth": 0.1}

    def test_the_key_arrives(self, world):
        view = self.view(world, self.plugin())
        expected = slow_herding(view.features, np.ones(60) / 60, view.labeled, 7, view.candidates, 0.1)
        assert self.plugin().select(view, 7).tolist() == expected


class TestUHerding(AcquisitionContract):
    name = "u_herding"

    def test_it_is_the_function(self, world):
        view = self.view(world, self.plugin())
        expected = F.u_herding(view.features, view.probs, view.labeled, 7, make_rng(), candidates=view.candidates)
        assert self.plugin().select(view, 7).tolist() == expected.tolist()

    def test_the_bandwidth_is_logged(self, world):
        view = self.view(world, self.plugin())
        self.plugin().select(view, 7)
        assert view._source.metrics["u_herding/bandwidth"] == F.label_bandwidth(view.features, view.labeled)


class TestUHerdingByKeys(AcquisitionContract):
    name = "u_herding"
    config = {"bandwidth": 0.2, "uncertainty": "entropy", "temperature": 3.0}

    def test_the_keys_arrive(self, world):
        view = self.view(world, self.plugin())
        arrays = view.features, view.probs, view.labeled, 7
        expected = F.u_herding(*arrays, make_rng(), candidates=view.candidates, **self.config).tolist()
        assert self.plugin().select(view, 7).tolist() == expected
        assert view._source.metrics["u_herding/bandwidth"] == 0.2
        for key in self.config:
            others = {k: v for k, v in self.config.items() if k != key}
            assert F.u_herding(*arrays, make_rng(), candidates=view.candidates, **others).tolist() != expected
