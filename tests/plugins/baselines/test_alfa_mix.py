"""ALFA-Mix against the paper's formula coordinate by coordinate, closed forms and invariants."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from sklearn.cluster import KMeans
from usb_active.plugins.baselines import alfa_mix as A

from usb_active.errors import UsageError
from usb_active.testing import AcquisitionContract
from usb_active.testing.pool import CLASSES, World, made_images


def make_rng(seed=0):
    return np.random.default_rng(seed)


def made(seed=0, n=80, d=6, c=4):
    """Features, labelled samples, their classes, and a linear head."""
    rng = make_rng(seed)
    features, labeled = rng.standard_normal((n, d)).astype(np.float32), rng.permutation(n)[:12]
    head = A.LinearHead(rng.standard_normal((c, d)), rng.standard_normal(c))
    return features, labeled, rng.integers(c, size=12), head


def torch_head(head):
    weight, bias = (torch.tensor(x, dtype=torch.float32) for x in (head.weight, head.bias))
    return A.TorchHead(lambda z: z @ weight.T + bias)


def slow_changes(head, z, anchors, eps):
    """The paper's formula, with the loss's gradient by autograd and alpha made for each coordinate; for one sample z (D,).

    What is divided by zero is as in the authors' code, which divides by a tiny number instead: nothing is mixed there.
    """
    weight, bias = (torch.tensor(np.asarray(x, np.float64)) for x in (head.weight, head.bias))
    z = torch.tensor(np.asarray(z, np.float64), requires_grad=True)
    logits = weight @ z + bias
    predicted = logits.argmax()
    loss = torch.nn.functional.cross_entropy(logits[None], predicted[None])
    (g,) = torch.autograd.grad(loss, z)
    z = z.detach()
    for anchor in torch.tensor(np.asarray(anchors, np.float64)):
        alpha = eps * (anchor - z).norm() / g.norm() * g / (anchor - z)
        alpha = torch.where(anchor == z, 0.0, alpha)
        mixed = (1 - alpha) * z + alpha * anchor
        if (weight @ mixed + bias).argmax() != predicted:
            return True
    return False


def slow_candidates(head, features, labeled, labels, budget, classes, epsilon):
    """The procedure of the authors' code: its mixing grows until more than the budget have another prediction with the anchor of any class.

    One weight for each coordinate, from the gradient of the loss of the prediction; 1e-8 keeps the division from zero. Returns idx, and the
    mixing.
    """
    z = torch.tensor(features, dtype=torch.float64)
    weight, bias = (torch.tensor(np.asarray(x, np.float64)) for x in (head.weight, head.bias))
    asked, inconsistent, mixing = [i for i in range(len(z)) if i not in labeled], set(), 0.0
    while mixing < 1 - 1e-9 and len(inconsistent) <= budget:
        mixing += epsilon
        for i in asked:
            sample = z[i].clone().requires_grad_()
            logits = weight @ sample + bias
            predicted = int(logits.argmax())
            (gradient,) = torch.autograd.grad(-logits.log_softmax(dim=0)[predicted], sample)
            for c in range(classes):
                mine = [z[j] for j, label in zip(labeled, labels, strict=True) if label == c] or [z[j] for j in labeled]
                apart = sum(mine) / len(mine) - z[i]
                alpha = mixing / math.sqrt(len(apart)) * apart.norm() / gradient.norm() * gradient / (apart + 1e-8)
                if int((weight @ ((1 - alpha) * z[i] + alpha * (z[i] + apart)) + bias).argmax()) != predicted:
                    inconsistent.add(i)
    return sorted(inconsistent), mixing


def changed(head, features, anchors, eps):
    everything = np.arange(len(features))
    return head.changes(features, everything, anchors)(eps, everything)


# ------------------------------------------------------------------------------------------ mixing
@pytest.mark.parametrize("eps", [0.02, 0.1, 0.4])
def test_both_heads_equal_the_papers_formula(eps):
    features, labeled, labels, head = made()
    anchors = A.class_anchors(features[labeled], labels, 4)
    expected = [slow_changes(head, z, anchors, eps) for z in features]
    assert 0 < sum(expected) < len(expected)
    np.testing.assert_array_equal(changed(head, features, anchors, eps), expected)
    np.testing.assert_array_equal(changed(torch_head(head), features, anchors, eps), expected)


@pytest.mark.parametrize("eps", [0.02, 0.1, 0.4])
def test_coordinates_that_are_those_of_the_anchor_stay(eps):
    """Behind a ReLU many are zero in both."""
    features, labeled, labels, head = made(n=200)
    features = np.maximum(features - 0.8, 0)
    anchors = A.class_anchors(features[labeled], labels, 4)
    equal = np.stack([A.is_equal(features, anchor) for anchor in anchors])
    assert equal.any() and not equal.all()
    expected = [slow_changes(head, z, anchors, eps) for z in features]
    assert 0 < sum(expected) < len(expected)
    np.testing.assert_array_equal(changed(head, features, anchors, eps), expected)
    np.testing.assert_array_equal(changed(torch_head(head), features, anchors, eps), expected)


@pytest.mark.parametrize("budget", [3, 25])
@pytest.mark.parametrize(("seed", "dim", "classes", "epsilon"), [(0, 6, 4, 0.2), (1, 12, 3, 0.2), (2, 24, 5, 0.1)])
def test_candidates_behind_a_relu_are_those_of_the_authors_procedure(seed, dim, classes, epsilon, budget):
    features, labeled, labels, head = made(seed, n=60, d=dim, c=classes)
    features, labels = np.maximum(features, 0), np.minimum(labels, classes - 2)
    # Coordinates that are zero in a whole class, and a class without a label.
    features[np.isin(np.arange(60), labeled[labels == 0]), : dim // 2] = 0
    expected, mixing = slow_candidates(head, features, labeled.tolist(), labels.tolist(), budget, classes, epsilon)
    assert budget < len(expected) < 48
    candidates, anchors = np.setdiff1d(np.arange(60), labeled), A.class_anchors(features[labeled], labels, classes)
    for each in (head, torch_head(head)):
        mixed = A.alfa_mix(features, labeled, labels, budget, make_rng(0), head=each, num_classes=classes, epsilon=epsilon)
        assert (mixed.num_inconsistent, mixed.epsilon) == (len(expected), pytest.approx(mixing)) and set(mixed.idx) <= set(expected)
        found = changed(each, features[candidates], anchors, mixing / math.sqrt(dim))
        assert candidates[found].tolist() == expected


def test_what_is_beyond_the_largest_mixing_need_not_be_known():
    """Neither is anything lost that is below it."""
    rng = make_rng(3)
    features, anchors = np.maximum(rng.standard_normal((300, 8)), 0), np.maximum(rng.standard_normal((5, 8)), 0)
    head = A.LinearHead(rng.standard_normal((5, 8)), rng.standard_normal(5))
    exact = head.first_change(features, anchors)
    one_by_one = np.min([head.first_change(features, anchor[None]) for anchor in anchors], axis=0)
    np.testing.assert_allclose(exact, one_by_one, rtol=1e-12)
    for most in (0.1, 0.35):
        known = head.first_change(features, anchors, most)
        assert 0 < (exact < most).sum() < 300
        np.testing.assert_allclose(known[exact < most], exact[exact < most], rtol=1e-12)
        assert (known[exact >= most] >= most).all()


def test_a_step_loses_what_the_staying_coordinates_had():
    # Logits (x + y, -x - y) at (3, 0); the gradient is along (-1, -1). The anchor (3, 4) is 4 away and has the same x: y alone moves, by
    # 4 eps / √2, and reaches the boundary x + y = 0 at -3. With both moving it would be half as far.
    head = A.LinearHead(np.array([[1.0, 1], [-1, -1]]), np.zeros(2))
    features = np.array([[3.0, 0.0]])
    np.testing.assert_allclose(head.first_change(features, np.array([[3.0, 4.0]])), [3 * np.sqrt(2) / 4], rtol=1e-12)
    np.testing.assert_allclose(head.first_change(features, np.array([[3.5, 4.0]])), [3 / np.sqrt(2) / np.hypot(0.5, 4)], rtol=1e-12)
    for each in (head, torch_head(head)):
        assert not changed(each, features, np.array([[3.0, 0.0]]), 1.0)


def test_an_anchor_is_compared_in_the_precision_of_the_features():
    """The mean in double precision of three equal numbers need not be that number."""
    features = np.full((3, 2), 0.1, np.float32)
    anchor = A.class_anchors(features, [0, 0, 0], 1)[0] + 1e-12
    assert A.is_equal(features.astype(np.float64), anchor).all() and not A.is_equal(features * 1.001, anchor).any()


def test_the_step_to_the_boundary_of_two_classes():
    # Logits (x, -x): the boundary is x = 0. A sample at (3, 0) is 3 from it and 5 from the anchor at (6, 4), so eps = 3/5.
    head = A.LinearHead(np.array([[1.0, 0], [-1, 0]]), np.zeros(2))
    features, anchors = np.array([[3.0, 0.0]]), np.array([[6.0, 4.0], [4.0, 1.0]])
    np.testing.assert_allclose(head.first_change(features, anchors), [0.6], rtol=1e-12)
    for each in (head, torch_head(head)):
        assert changed(each, features, anchors, 0.61) and not changed(each, features, anchors, 0.59)


def test_a_certain_sample_still_has_a_direction():
    # Logits 400 x and -400 x at x = 3: softmax is one-hot in any precision, the gradient of its logarithm is not.
    head = A.LinearHead(np.array([[400.0, 0], [-400, 0]]), np.zeros(2))
    features, anchors = np.array([[3.0, 0.0]], np.float32), np.array([[6.0, 4.0]])
    np.testing.assert_allclose(head.first_change(features, anchors), [0.6], rtol=1e-12)
    assert changed(torch_head(head), features, anchors, 0.61)


def test_without_gradient_or_distance_nothing_changes():
    features = make_rng(0).standard_normal((5, 3))
    flat = A.LinearHead(np.ones((4, 3)), np.array([3.0, 1, 1, 1]))
    assert np.isinf(flat.first_change(features, np.zeros((4, 3)))).all()
    assert not changed(torch_head(flat), features, np.zeros((4, 3)), 1.0).any()
    _, _, _, head = made(d=3)
    # The one anchor is the sample itself, in numbers whose squares are exact.
    assert np.isinf(head.first_change(np.ones((1, 3)), np.ones((4, 3)))).all()
    assert not changed(torch_head(head), np.ones((1, 3)), np.ones((4, 3)), 1.0).any()


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_invariants_of_the_first_change(seed, d, c):
    rng = make_rng(seed)
    features, anchors = rng.standard_normal((20, d)), rng.standard_normal((c, d))
    head = A.LinearHead(rng.standard_normal((c, d)), rng.standard_normal(c))
    needed = head.first_change(features, anchors)
    assert (needed > 0).all()
    # The order of the classes, that of the anchors, a logit added to all, a unit of the features.
    order = rng.permutation(c)
    np.testing.assert_allclose(A.LinearHead(head.weight[order], head.bias[order]).first_change(features, anchors), needed, rtol=1e-6)
    np.testing.assert_allclose(A.LinearHead(head.weight, head.bias + 3).first_change(features, anchors[::-1]), needed, rtol=1e-6)
    np.testing.assert_allclose(A.LinearHead(head.weight / 8, head.bias).first_change(features * 8, anchors * 8), needed, rtol=1e-6)
    # More anchors change more predictions.
    assert (A.LinearHead(head.weight, head.bias).first_change(features, anchors[:1]) >= needed * (1 - 1e-9)).all()


def test_anchors_are_means_of_classes():
    features, labels = np.array([[1.0, 0], [3, 2], [5, 5]]), np.array([0, 0, 2])
    # Class 1 has no labelled sample: the mean of all, (1 + 3 + 5, 0 + 2 + 5) / 3.
    np.testing.assert_allclose(A.class_anchors(features, labels, 3), [[2, 1], [3, 7 / 3], [5, 5]], rtol=1e-15)


# ------------------------------------------------------------------------------------------ representatives
def test_each_cluster_gives_its_middle():
    # Three directions far apart, with 9, 5 and 3 samples symmetrically about the middle one, which is the mean's nearest.
    angles = [np.radians(60 * k + np.linspace(-4, 4, n)) for k, n in enumerate((5, 9, 3))]
    lengths = make_rng(0).uniform(1, 50, size=17)
    features = lengths[:, None] * np.stack([np.cos(np.concatenate(angles)), np.sin(np.concatenate(angles))], axis=1)
    for seed in range(5):
        order = make_rng(seed).permutation(17)
        # Largest cluster first. 2 is the middle of 0 … 4, 9 of 5 … 13, 15 of 14 … 16.
        assert order[A.representatives(features, order, 3, make_rng(seed))].tolist() == [9, 2, 15]


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.data())
@settings(max_examples=30, deadline=None)
def test_representatives_are_distinct_and_repeat(seed, n, data):
    features, count = made(seed, n=n + 12)[0], data.draw(st.integers(1, n))
    first, second = (A.representatives(features, np.arange(n), count, make_rng(seed)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(set(first)) == len(first) <= count and set(first) <= set(range(n))


def test_clusters_are_the_tightest_of_several_starts():
    """Within a hundredth of scikit-learn's k-means with ten starts, in the mean over draws."""
    rng = make_rng(0)
    centres = rng.standard_normal((20, 64))
    features = (centres[rng.integers(20, size=1500)] + rng.standard_normal((1500, 64))).astype(np.float32)
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    best = KMeans(10, n_init=10, random_state=0).fit(rows).inertia_
    found = [A.tightest_clusters(rows, 10, make_rng(seed))[0].sum() for seed in range(4)]
    assert np.mean(found) < 1.01 * best


def test_copies_are_represented_once():
    features = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    picks = A.representatives(features, np.arange(30), 6, make_rng(0))
    assert {0, 1, 2} == set(picks // 10)


# ------------------------------------------------------------------------------------------ the picks
@pytest.mark.parametrize("budget", [3, 20, 68])
def test_inconsistent_samples_come_first(budget):
    features, labeled, labels, head = made()
    anchors = A.class_anchors(features[labeled], labels, 4)
    picks = A.alfa_mix(features, labeled, labels, budget, make_rng(0), head=head, num_classes=4)
    # The mixing grows until more than the budget are inconsistent: 0.2, 0.4, …, 1, over sqrt(6).
    candidates = np.setdiff1d(np.arange(80), labeled)
    for step in range(1, 6):
        inconsistent = [i for i in candidates if slow_changes(head, features[i], anchors, step / 5 / np.sqrt(6))]
        if len(inconsistent) > budget:
            break
    assert picks.epsilon == pytest.approx(step / 5) and picks.num_inconsistent == len(inconsistent)
    kept = min(budget, len(inconsistent))
    assert set(picks.idx[:kept]) <= set(inconsistent)
    assert len(set(picks.idx)) == budget and set(picks.idx) <= set(candidates)


def test_both_heads_give_the_same_picks():
    features, labeled, labels, head = made()
    for budget in (5, 30):
        first, second = (
            A.alfa_mix(features, labeled, labels, budget, make_rng(1), head=each, num_classes=4) for each in (head, torch_head(head))
        )
        np.testing.assert_array_equal(first.idx, second.idx)


def test_random_ones_fill_up_evenly():
    # A head that ignores the features has no inconsistent sample.
    flat = A.LinearHead(np.zeros((2, 1)), np.array([1.0, 0]))
    features, rng = np.arange(6.0)[:, None], make_rng(1)
    drawn = [tuple(A.alfa_mix(features, [0, 5], [0, 1], 2, rng, head=flat, num_classes=2).idx) for _ in range(1200)]
    counts = [drawn.count(pair) for pair in itertools.permutations(range(1, 5), 2)]
    assert sum(counts) == 1200 and chisquare(counts).pvalue > 1e-3


def test_it_does_not_depend_on_blocks(monkeypatch, tmp_path):
    features, labeled, labels, head = made(n=300)
    for each in (head, torch_head(head)):
        expected = A.alfa_mix(features, labeled, labels, 40, make_rng(0), head=each, num_classes=4)
        np.save(tmp_path / "features.npy", features)
        with monkeypatch.context() as patch:
            patch.setattr("usb_active.numerics.arrays.BLOCK", 50)
            mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
            picks = A.alfa_mix(mapped, labeled, labels, 40, make_rng(0), head=each, num_classes=4)
        np.testing.assert_array_equal(picks.idx, expected.idx)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 69}, "^budget: 69, expected an integer from 1 to the 68 candidates$"),
        ({"labeled": [80], "labels": [0]}, "^labeled: index 80 outside the 80 rows of features$"),
        ({"labeled": [], "labels": []}, "^labeled: empty; the anchors are means of labelled samples$"),
        ({"labels": [0]}, r"^labels: expected one for each labelled sample, shape \(12,\), got \(1,\)$"),
        ({"labels": np.full(12, 4)}, "^labels: labels 4, 4, 4, 4, 4, ... outside the 4 classes$"),
        ({"epsilon": 0}, "^epsilon: 0, expected above 0 and at most 1$"),
        ({"epsilon": 1.5}, "^epsilon: 1.5, expected"),
        ({"features": np.full((80, 6), np.nan)}, "^features: not finite in rows 0, 1, 2, 3, 4, ...$"),
    ],
)
def test_bad_input_is_named(changes, message):
    features, labeled, labels, head = made()
    arguments = {"features": features, "labeled": labeled, "labels": labels, "budget": 3, "rng": make_rng(), "head": head, "num_classes": 4}
    with pytest.raises(ValueError, match=message):
        A.alfa_mix(**arguments | changes)


class TestAlfaMix(AcquisitionContract):
    name = "alfa_mix"
    deterministic = False

    def test_seeds_matter_if_and_only_if_it_draws(self, world):
        """The tightest of ten starts is the same for all seeds where clusters are few; where they are many it is not."""
        assert len({tuple(sorted(self.pick(world, 20, seed=seed))) for seed in range(8)}) > 1

    def test_the_picks_are_inconsistent(self, world):
        plugin = self.plugin()
        view = self.view(world, plugin)
        picks = plugin.select(view, 5)
        layer = world.net.classifier
        head = A.LinearHead(layer.weight.detach().numpy(), layer.bias.detach().numpy())
        anchors = A.class_anchors(view.features[view.labeled], view.labels, CLASSES)
        eps = view._source.metrics["alfa_mix/epsilon"] / np.sqrt(view.features.shape[1])
        assert view._source.metrics["alfa_mix/inconsistent"] >= 5
        assert all(slow_changes(head, view.features[i], anchors, eps) for i in picks)

    def test_a_head_of_several_layers_goes_by_autograd(self, world):
        # Two linear layers one after the other are one linear layer: the picks must not change.
        one = self.pick(world, 5).tolist()
        layer, width = world.net.classifier, world.net.num_features
        first, second = torch.nn.Linear(width, width), torch.nn.Linear(width, CLASSES)
        with torch.no_grad():
            first.weight.copy_(torch.eye(width)[torch.arange(width).flip(0)]), first.bias.fill_(1.0)
            second.weight.copy_(layer.weight.flip(1)), second.bias.copy_(layer.bias - layer.weight.sum(dim=1))
        world.net.classifier = torch.nn.Sequential(first, second)
        assert self.pick(world, 5).tolist() == one

    def test_features_of_another_source_are_refused(self, world):
        plugin = self.plugin()
        view = world.view(plugin.needs, self.source("pixels"))
        with pytest.raises(UsageError, match="'alfa_mix': features of 64 dimensions are not what .* takes; use features: model$") as error:
            plugin.select(view, 5)
        assert "\n" not in str(error.value)

    def test_features_of_the_right_size_from_another_model_are_refused(self, world, tmp_path):
        np.save(tmp_path / "other.npy", np.ones((60, world.net.num_features), np.float32))
        plugin = self.plugin()
        view = world.view(plugin.needs, self.source({"name": "file", "path": str(tmp_path / "other.npy")}))
        with pytest.raises(UsageError, match="use features: model$"):
            plugin.select(view, 5)

    def test_without_faiss_the_error_names_the_extras(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "faiss", None)
        with pytest.raises(UsageError, match=r"usb-active\[cpu\]"):
            self.pick(World(tmp_path, made_images(1)), 5)
