"""BAIT against explicit Fisher matrices, closed forms and invariants."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from usb_active.plugins.low_budget import fisher as B
from usb_active.plugins.low_budget import functional as F

from usb_active.errors import UsageError
from usb_active.loop.setup import check_needs
from usb_active.testing import AcquisitionContract


def make_rng(seed=0):
    return np.random.default_rng(seed)


def made(seed=0, n=24, d=3, c=3):
    rng = make_rng(seed)
    return rng.standard_normal((n, d)), rng.dirichlet(np.full(c, 0.5), size=n)


def information(h, p):
    """(C D, C D): the expectation over the class y ~ p of the gradient's outer product, class by class."""
    total = 0
    for y in range(len(p)):
        residual = np.array([(y == c) - p[c] for c in range(len(p))])
        gradient = np.outer(residual, h).ravel()
        total = total + p[y] * np.outer(gradient, gradient)
    return total


def slow_bait(features, probs, labeled, budget, order, regularization, oversample):
    every = [information(h, p) for h, p in zip(features.astype(float), probs.astype(float), strict=True)]
    target, size = sum(every) / len(every), len(every[0])
    m = regularization * np.eye(size) + (sum(every[i] for i in labeled) / len(labeled) if len(labeled) else 0)

    def objective(matrix):
        return np.trace(np.linalg.inv(matrix) @ target)

    picks = []
    for _ in range(min(oversample * budget, len(order))):
        left = [i for i in order if i not in picks]
        gains = np.array([objective(m) - objective(m + every[i]) for i in left])
        picks.append(left[int(np.argmax(gains >= gains.max() * (1 - 1e-9)))])
        m = m + every[picks[-1]]
    while len(picks) > budget:
        losses = np.array([objective(m - every[i]) - objective(m) for i in picks])
        gone = picks.pop(int(np.argmax(losses <= losses.min() * (1 + 1e-9))))
        m = m - every[gone]
    return picks


@pytest.mark.parametrize("num_labeled", [0, 1, 5])
@pytest.mark.parametrize("regularization", [0.01, 1.0])
@pytest.mark.parametrize("oversample", [1, 2])
@pytest.mark.parametrize("classes", [2, 4])
def test_picks_equal_the_plain_loop(num_labeled, regularization, oversample, classes):
    features, probs = made(num_labeled, c=classes)
    labeled = make_rng(3).permutation(24)[:num_labeled]
    candidates = np.setdiff1d(np.arange(2, 24), labeled)
    keys = {"regularization": regularization, "oversample": oversample}
    picks = F.bait(features.astype(np.float32), probs, labeled, 6, make_rng(4), candidates=candidates, **keys)
    order = make_rng(4).permutation(candidates)
    assert picks.tolist() == slow_bait(features.astype(np.float32), probs, labeled, 6, order, regularization, oversample)


@pytest.mark.parametrize("oversample", [1, 2])
def test_picks_among_copies_equal_the_plain_loop(oversample):
    # Twelve samples twice; that of the labelled one is a candidate.
    features, probs = (np.repeat(array, 2, axis=0) for array in made(2, n=12))
    picks = F.bait(features, probs, [5], 8, make_rng(4), oversample=oversample)
    order = make_rng(4).permutation(np.delete(np.arange(24), 5))
    assert picks.tolist() == slow_bait(features, probs, [5], 8, order, 1.0, oversample)


@pytest.mark.parametrize("oversample", [1, 2])
def test_copies_are_drawn_evenly_and_none_has_another_beside_it(oversample):
    # Ten copies each of three directions: the second of a direction adds less than the first of another.
    features, probs, counts = np.repeat(np.eye(3), 10, axis=0), np.full((30, 2), 0.5), Counter()
    for seed in range(300):
        picks = F.bait(features, probs, [], 3, make_rng(seed), oversample=oversample)
        assert sorted(picks // 10) == [0, 1, 2]
        counts.update(picks.tolist())
    assert chisquare([counts[i] for i in range(30)]).pvalue > 1e-3


def test_the_information_is_that_of_the_gradients():
    # By autograd: the gradient of the loss of each class with respect to the weights of a linear layer.
    features, _ = made(2)
    weight = torch.tensor(make_rng(1).standard_normal((3, 3)), requires_grad=True)
    probs = (torch.tensor(features) @ weight.T).softmax(dim=1).detach().numpy()
    expected = 0
    for h, p in zip(features, probs, strict=True):
        for y in range(3):
            loss = torch.nn.functional.cross_entropy(torch.tensor(h) @ weight.T, torch.tensor(y))
            (gradient,) = torch.autograd.grad(loss, weight)
            expected = expected + p[y] * np.outer(gradient.numpy().ravel(), gradient.numpy().ravel()) / len(features)
    np.testing.assert_allclose(B._mean_fisher(features, probs), expected, rtol=1e-9, atol=1e-12)


def test_updates_are_those_of_new_inverses():
    features, probs = made(5)
    m, target = 0.3 * np.eye(9), B._mean_fisher(features, probs)
    found = B._Information(features, probs, m, target)
    for position, sign in ((3, 1), (7, 1), (3, 1), (7, -1), (11, 1), (3, -1)):
        values = found.values(sign)
        before = np.trace(np.linalg.inv(m) @ target)
        m = m + sign * information(features[position], probs[position])
        assert values[position] == pytest.approx(sign * (before - np.trace(np.linalg.inv(m) @ target)), rel=1e-9)
        found.change(position, sign)
        fresh = B._Information(features, probs, m, target)
        for name in ("inverse", "weighted", "b", "q"):
            np.testing.assert_allclose(getattr(found, name), getattr(fresh, name), rtol=1e-9, atol=1e-11)


def large_features():
    """Ten classes and lengths of about 28, as of a network without normalisation: M is ill-conditioned with little regularization."""
    rng = make_rng(5)
    return np.maximum(rng.standard_normal((120, 12)), 0) * 8, rng.dirichlet(np.full(6, 0.1), 120)


def objective(matrix, target):
    inverse = np.linalg.inv(np.linalg.cholesky(matrix))
    return np.vdot(inverse.T @ inverse, target)


@pytest.mark.parametrize("regularization", [1.0, 1e-3, 1e-5])
def test_removals_stay_right_with_little_regularization(regularization):
    features, probs = large_features()
    target, every = B._mean_fisher(features, probs), [information(h, p) for h, p in zip(features, probs, strict=True)]
    forward = F.bait(features, probs, range(10), 20, make_rng(1), regularization=regularization, oversample=1)
    kept = F.bait(features, probs, range(10), 10, make_rng(1), regularization=regularization).tolist()
    m = sum(every[:10]) / 10 + regularization * np.eye(72) + sum(every[i] for i in forward)
    left = forward.tolist()
    while len(left) > 10:
        losses = np.array([objective(m - every[i], target) - objective(m, target) for i in left])
        assert (losses > 0).all()
        m = m - every[left.pop(int(losses.argmin()))]
    assert kept == left


def drift(regularization):
    """Of the gains after 40 additions, from those that the information then gives anew, relative to the largest."""
    features, probs = large_features()
    found = B._Information(features, probs, regularization * np.eye(72), B._mean_fisher(features, probs))
    for _ in range(40):
        found.change(int(found.values(1).argmax()), 1)
    expected = B._Information(features, probs, found.matrix, B._mean_fisher(features, probs)).values(1)
    return np.abs(found.values(1) - expected).max() / expected.max()


@pytest.mark.parametrize("regularization", [1.0, 1e-2, 1e-4, 1e-6])
def test_lost_digits_are_noticed(regularization):
    assert drift(regularization) < 1e-10


@pytest.mark.parametrize("regularization", [1e-2, 1e-6])
def test_unnoticed_they_would_show(monkeypatch, regularization):
    monkeypatch.setattr(B, "_DRIFT", np.inf)
    assert drift(regularization) > 1e-8


def test_gains_without_end_are_no_gains():
    # As rounding may leave 1 + B without a Cholesky factor: found anew if there is anything to find, and else said.
    features, probs = made(1)
    found = B._Information(features, probs, np.eye(9), B._mean_fisher(features, probs))
    expected = found.values(1)
    found.b[5] = -2 * np.eye(3)
    with pytest.raises(np.linalg.LinAlgError):
        found.values(1)
    assert np.flatnonzero(np.isinf(found._traces(1))).tolist() == [5]
    found.changed = [5]
    np.testing.assert_array_equal(found.values(1), expected)


def test_what_all_classes_have_in_common_costs_no_digits():
    # Twice as much of it: the gains are the same to the last digits.
    features, probs = large_features()
    target, common = B._mean_fisher(features, probs), np.kron(np.full((6, 6), 1 / 6), np.eye(12))
    m = 1e-3 * np.eye(72) + target
    gains = [B._Information(features, probs, m + weight * common, target).values(1) for weight in (0.0, 1e-3)]
    np.testing.assert_allclose(*gains, rtol=1e-12)


@pytest.mark.parametrize("regularization", [1.0, 1e-2, 1e-4, 1e-6])
def test_only_the_regularization_relative_to_the_features_matters(regularization):
    features, probs = large_features()
    expected = F.bait(features, probs, range(10), 20, make_rng(3), regularization=regularization).tolist()
    assert F.bait(3 * features, probs, range(10), 20, make_rng(3), regularization=9 * regularization).tolist() == expected


@pytest.mark.parametrize("exponent", [-500, 66, 500])
def test_no_scale_of_features_overflows(exponent):
    features, probs = made(2)
    expected = F.bait(features, probs, [0], 6, make_rng(1), regularization=0.5).tolist()
    scaled = F.bait(np.ldexp(features, exponent), probs, [0], 6, make_rng(1), regularization=float(np.ldexp(0.5, 2 * exponent)))
    assert scaled.tolist() == expected
    # A regularization that is infinite beside the features: the picks of one that is very large.
    small = F.bait(np.ldexp(features, -500), probs, [0], 6, make_rng(1)).tolist()
    assert small == F.bait(features, probs, [0], 6, make_rng(1), regularization=1e20).tolist()


@pytest.mark.parametrize(
    ("scale", "advice"), [(1e20, r"expected at least \d\.\de\+29, or features on a smaller scale"), (1e160, "scale the")]
)
def test_a_regularization_that_is_lost_is_named(scale, advice):
    features, probs = made(2)
    message = f"^regularization: 1.0 is lost in double precision beside features this large; {advice}"
    with pytest.raises(ValueError, match=message):
        F.bait(scale * features, probs, [0], 6, make_rng())


def test_one_dimension_and_two_classes_in_closed_form():
    # I(x) = p (1 - p) h^2 [[1, -1], [-1, 1]]: with v = p (1 - p) h^2 and M = 1, adding it makes the eigenvalue 1 into 1 + 2 v along
    # (1, -1) / sqrt(2). The larger v, the better; the second pick the second largest; none is given back, being the best two.
    h, p = np.array([1.0, 2.0, 3.0, 0.5]), np.array([0.5, 0.9, 0.01, 0.5])
    v = p * (1 - p) * h**2
    assert v.round(3).tolist() == [0.25, 0.36, 0.089, 0.062]
    assert F.bait(h[:, None], np.stack([p, 1 - p], axis=1), [], 2, make_rng()).tolist() == [1, 0]


def test_certain_samples_are_last_and_drawn_evenly():
    features, counts = make_rng(0).standard_normal((12, 2)), Counter()
    probs = np.eye(3)[np.arange(12) % 3]
    probs[4] = [0.5, 0.25, 0.25]
    for seed in range(400):
        picks = F.bait(features, probs, [0], 2, make_rng(seed), oversample=1)
        assert picks[0] == 4
        counts[int(picks[1])] += 1
    assert chisquare([counts[i] for i in range(1, 12) if i != 4]).pvalue > 1e-3


def test_with_a_single_class_all_are_equal():
    # Eight are taken, and the first of equals given back until four are left.
    features, order = make_rng(0).standard_normal((30, 2)), make_rng(1).permutation(np.arange(1, 30))
    assert F.bait(features, np.ones((30, 1)), [0], 4, make_rng(1)).tolist() == order[4:8].tolist()


def test_picks_do_not_depend_on_blocks_or_the_order_of_the_pool(monkeypatch):
    features, probs = made(6, n=60)
    expected = F.bait(features, probs, [3], 8, make_rng(0)).tolist()
    for name, value in (("_ROWS", 7), ("BLOCK", 27)):
        monkeypatch.setattr(B, name, value)
        assert F.bait(features, probs, [3], 8, make_rng(0)).tolist() == expected
    order = make_rng(8).permutation(60)
    picks = F.bait(features[order], probs[order], [int(np.flatnonzero(order == 3)[0])], 8, make_rng(5))
    assert order[picks].tolist() == expected


def test_much_memory_is_said_before_it_is_taken(monkeypatch, caplog):
    # 2 · 23 · 3 · 3 numbers of 8 bytes are 3312.
    features, probs = made()
    monkeypatch.setattr(B, "_MUCH", 3312)
    F.bait(features, probs, [0], 2, make_rng())
    assert not caplog.messages
    monkeypatch.setattr(B, "_MUCH", 3311)
    F.bait(features, probs, [0], 2, make_rng())
    assert caplog.messages == ["bait: 0 GB of memory for 2 matrices of each of 23 candidates and 3 classes; fewer candidates take less"]


def test_a_projection_is_asked_for_and_never_silent():
    features, probs = made(1, n=30, d=400, c=4)
    message = "^features: 400 dimensions times 4 classes are more than 1280; set projection, such as 320 .400: as they are"
    with pytest.raises(ValueError, match=message):
        F.bait(features, probs, [], 3, make_rng())
    small = features[:, :5]
    rng = make_rng(2)
    order = rng.permutation(30)
    projected = small @ (rng.standard_normal((5, 2)) / np.sqrt(2))
    expected = slow_bait(projected, probs, [], 3, order, 1.0, 2)
    assert F.bait(small, probs, [], 3, make_rng(2), projection=2).tolist() == expected
    # As many dimensions as there are: exact.
    assert F.bait(small, probs, [], 3, make_rng(2), projection=5).tolist() == F.bait(small, probs, [], 3, make_rng(2)).tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 24}, "^budget: 24, expected an integer from 1 to the 23 candidates$"),
        ({"labeled": [24]}, "^labeled: index 24 outside the 24 rows of features$"),
        ({"candidates": [0, 1]}, "^candidates: labelled already: index 0$"),
        ({"regularization": 0}, "^regularization: 0, expected a number above 0$"),
        ({"oversample": 0}, "^oversample: 0, expected an integer, at least 1$"),
        ({"projection": 0}, "^projection: 0, expected an integer, at least 1$"),
        ({"probs": made(n=20)[1]}, "^probs: 20 rows, expected one for each of the 24 rows of features$"),
        ({"features": np.full((24, 2), np.nan)}, "^features: not finite in rows 0, 1, 2, 3, 4, ...$"),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = {"features": made()[0], "probs": made()[1], "labeled": [0], "budget": 3, "rng": make_rng()} | changes
    with pytest.raises(ValueError, match=message):
        F.bait(**arguments)


class TestBait(AcquisitionContract):
    name = "bait"

    def test_it_is_the_function(self, world):
        view = self.view(world, self.plugin())
        expected = F.bait(view.features, view.probs, view.labeled, 7, make_rng(), candidates=view.candidates)
        assert self.plugin().select(view, 7).tolist() == expected.tolist()

    def test_features_that_are_no_input_of_the_head_are_refused(self):
        with pytest.raises(UsageError, match="'bait' asks the model's classifier about features, .*'pixels'.*give `features: model`"):
            check_needs({"acquisition": self.plugin()}, {"acquisition": self.source("pixels")}, None, False)


class TestBaitByKeys(AcquisitionContract):
    name = "bait"
    config = {"regularization": 0.01, "oversample": 1, "projection": 4}
    # The projection is drawn.
    deterministic = False

    def test_the_keys_arrive(self, world):
        view = self.view(world, self.plugin())
        arrays = view.features, view.probs, view.labeled, 7

        def picks(keys):
            return F.bait(*arrays, self.view(world, self.plugin()).rng, candidates=view.candidates, **keys).tolist()

        expected = picks(self.config)
        assert self.plugin().select(view, 7).tolist() == expected
        for key in self.config:
            assert picks({k: v for k, v in self.config.items() if k != key}) != expected
