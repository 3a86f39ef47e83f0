"""BADGE against explicit gradient embeddings, autograd, closed forms and invariants."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from usb_active.plugins.baselines import badge as B

from usb_active.testing import AcquisitionContract


def make_rng(seed=0):
    return np.random.default_rng(seed)


def made(seed=0, n=60, d=5, c=4, scale=1.0):
    rng = make_rng(seed)
    return scale * rng.standard_normal((n, d)), rng.dirichlet(np.full(c, 0.4), size=n)


def explicit(features, probs):
    """(N, C·D): gradient embeddings, one sample at a time."""
    rows = []
    for h, p in zip(features, probs, strict=True):
        r = [x - (c == int(np.argmax(p))) for c, x in enumerate(p)]
        rows.append([x * float(y) for x in r for y in h])
    return np.array(rows)


def sequence_probabilities(rows, budget, first):
    """Exact probability of every ordered draw; `first` (N,) are those of the first centre."""
    result = {}
    for picks in itertools.permutations(range(len(rows)), budget):
        probability = first[picks[0]]
        for step in range(1, budget):
            weights = [min(((rows[i] - rows[c]) ** 2).sum() for c in picks[:step]) for i in range(len(rows))]
            probability *= weights[picks[step]] / sum(weights)
        if probability > 0:
            result[picks] = probability
    return result


def assert_distributed(draw, expected, draws):
    counts = Counter(tuple(map(int, draw())) for _ in range(draws))
    assert set(counts) <= set(expected)
    # Sequences expected fewer than five times are pooled: chi-square holds for no fewer.
    common = [s for s in expected if expected[s] * draws >= 5]
    observed, theory = [counts[s] for s in common], [expected[s] * draws for s in common]
    if len(common) < len(expected):
        observed.append(draws - sum(observed))
        theory.append(draws - sum(theory))
    assert chisquare(observed, theory).pvalue > 1e-3


# ------------------------------------------------------------------------------------------ the embedding
def test_the_embedding_is_the_gradient_of_the_last_layer():
    # By autograd: loss of the predicted class, with respect to the weights of a linear layer.
    rng = make_rng(1)
    weight = torch.tensor(rng.standard_normal((3, 4)), requires_grad=True)
    features = rng.standard_normal((6, 4))
    logits = torch.tensor(features) @ weight.T
    probs = logits.softmax(dim=1).detach().numpy()
    space = B.GradientSpace(features, probs)
    norms = np.sqrt(space.norms) / float(space.inputs.scale)
    for i in range(6):
        loss = torch.nn.functional.cross_entropy(logits[i : i + 1], logits[i : i + 1].argmax(dim=1))
        (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
        np.testing.assert_allclose(explicit(features[[i]], probs[[i]])[0], gradient.numpy().ravel(), rtol=1e-10)
        np.testing.assert_allclose(norms[i], gradient.norm().item(), rtol=1e-10)


@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1.0, 1e200])
def test_distances_are_those_of_the_explicit_embeddings(scale):
    features, probs = made()
    rows = explicit(features, probs)
    space = B.GradientSpace(features * scale, probs)
    # The space scales the features by a power of two.
    unit = (scale * float(space.inputs.scale)) ** 2
    idx, others = (side.ravel() for side in np.meshgrid(np.arange(60), np.arange(60)))
    slow = ((rows[idx] - rows[others]) ** 2).sum(axis=1)
    np.testing.assert_allclose(space.squared(idx, others), slow * unit, rtol=1e-9, atol=1e-14 * unit)
    np.testing.assert_allclose(space.among(np.arange(60))(7), slow[others == 7] * unit, rtol=1e-9, atol=1e-14 * unit)
    np.testing.assert_allclose(space.norms, (rows**2).sum(axis=1) * unit, rtol=1e-9)


def test_near_embeddings_keep_their_digits():
    # g = r h^T with r the same and h, h' = h (1 + 1e-9): the distance is 1e-9 |r| |h|, squared 1e-18 |r|^2 |h|^2. The inner
    # products of the embeddings would lose it altogether, being known to 1e-16 of |r|^2 |h|^2.
    h, p = np.array([3.0, 4.0]), np.array([0.75, 0.25])
    features = np.stack([h, h * (1 + 1e-9)])
    space = B.GradientSpace(features, np.stack([p, p]))
    length = np.linalg.norm(features[1] - features[0]) * float(space.inputs.scale)
    # r = (-1/4, 1/4), |r|^2 = 1/8.
    np.testing.assert_allclose(space.squared(np.array([0]), np.array([1])), length**2 / 8, rtol=1e-12)
    assert space.squared(np.array([1]), np.array([1])) == 0


def test_long_residuals_and_short_features_lose_no_digits():
    # In one dimension, residuals (-x, x): the distance is sqrt(2) |x h - x' h'|, and both products are about 1e-10.
    features, probs = np.array([[1e-9], [0.2], [1.0]]), np.array([[0.9, 0.1], [1 - 2.0**-30, 2.0**-30], [0.5, 0.5]])
    space = B.GradientSpace(features, probs)
    slow = 2 * (0.1 * 1e-9 - 2.0**-30 * 0.2) ** 2 * float(space.inputs.scale) ** 2
    np.testing.assert_allclose(space.squared(np.array([0]), np.array([1])), slow, rtol=1e-9)


def test_two_factorizations_of_one_embedding_are_at_distance_zero():
    # Two classes: r = (p - 1)(1, -1) with p the larger probability, so (p - 1) h decides. 0.4 · 1 = 0.2 · 2.
    space = B.GradientSpace(np.array([[1.0, 3], [2, 6]]), np.array([[0.6, 0.4], [0.8, 0.2]]))
    assert space.squared(np.array([0]), np.array([1])) < 1e-15 * space.norms[0]


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_bounds_hold(seed, d, c):
    rng = make_rng(seed)
    features = rng.standard_normal((30, d)).astype(np.float32) * 10.0 ** rng.integers(-3, 4, size=(30, 1))
    probs = rng.dirichlet(np.full(c, 0.1), size=30)
    space, centres, idx = B.GradientSpace(features, probs), np.arange(4), np.arange(4, 30)
    exact = np.stack([space.squared(idx, np.full(26, centre)) for centre in centres], axis=1)
    upper = space.screen(centres).upper(idx)
    assert (upper >= exact.min(axis=1)).all()
    assert (upper <= exact.min(axis=1) + 1e-4 * (space.norms[idx] + space.norms[centres].max()) + 2e-30).all()
    for limit in (upper, exact.min(axis=1) * 1.5):
        pairs = set(zip(*space.screen(centres).contenders(idx, limit), strict=True))
        for row in np.flatnonzero(exact.min(axis=1) < limit):
            assert (row, exact[row].argmin()) in pairs


# ------------------------------------------------------------------------------------------ the picks
# Steep ratios, a copy (4 of 3) and a certain sample (5): old distances are often refused, and zeros never drawn twice.
TINY = np.array([[1.0, 0.0], [0.5, 1.0], [4.0, 0.0], [4.0, 1.0], [4.0, 1.0], [9.0, 6.0]])
TINY_PROBS = np.array([[0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.8, 0.1, 0.1], [0.4, 0.35, 0.25], [0.4, 0.35, 0.25], [1.0, 0.0, 0.0]])


@pytest.mark.parametrize(("first", "proposals"), [("norm", 1), ("norm", 64), ("uniform", 3)])
def test_badge_has_the_exact_distribution(monkeypatch, first, proposals):
    monkeypatch.setattr("usb_active.numerics.greedy._PROPOSALS", proposals)
    rows, rng = explicit(TINY, TINY_PROBS), make_rng(31 + proposals)
    # The longest gradients are the copies 3 and 4: |r|^2 = 0.36 + 0.1225 + 0.0625 = 0.545, |h|^2 = 17, 9.27 (2: 0.06 · 16).
    longest = np.isclose((rows**2).sum(axis=1), 9.265) / 2
    assert longest.tolist() == [0, 0, 0, 0.5, 0.5, 0]
    expected = sequence_probabilities(rows, 3, longest if first == "norm" else np.full(6, 1 / 6))
    assert sum(expected.values()) == pytest.approx(1)
    assert_distributed(lambda: B.badge(TINY, TINY_PROBS, 3, rng, first=first), expected, 3000)


def test_among_certain_samples_the_draw_is_uniform():
    # One-hot predictions: all gradients are zero. Each of the 12 ordered pairs of 4 is equally likely.
    features, rng = make_rng(0).standard_normal((4, 3)), make_rng(2)
    expected = dict.fromkeys(itertools.permutations(range(4), 2), 1 / 12)
    assert_distributed(lambda: B.badge(features, np.eye(4), 2, rng), expected, 2400)


def test_two_classes_are_k_means_plus_plus_of_scaled_features():
    # r = (p - 1)(1, -1) up to the sign of the class: g ~ s (1 - p) h, s = 1 or -1, at sqrt(2) the length.
    features, probs = made(3, n=5, c=2)
    rows = (np.where(probs.argmax(axis=1) == 0, 1, -1) * probs.min(axis=1))[:, None] * features
    first = np.zeros(5)
    first[(rows**2).sum(axis=1).argmax()] = 1
    rng = make_rng(5)
    assert_distributed(lambda: B.badge(features, probs, 3, rng), sequence_probabilities(rows, 3, first), 2000)


def test_certain_samples_come_last():
    # A certain sample's gradient is zero, so all of them are copies of one place.
    features, probs = made(2, n=40)
    probs[::2] = np.eye(4)[make_rng(0).integers(4, size=20)]
    picks = B.badge(features, probs, 40, make_rng(1))
    assert sorted(picks) == list(range(40))
    assert sum(pick % 2 == 0 for pick in picks[:21]) <= 1


@given(st.integers(0, 2**32 - 1), st.data())
@settings(max_examples=60, deadline=None)
def test_properties(seed, data):
    features, probs = made(seed, n=20)
    candidates = make_rng(seed).permutation(20)[: data.draw(st.integers(1, 20))]
    budget = data.draw(st.integers(1, len(candidates)))
    picks = B.badge(features, probs, budget, make_rng(seed), candidates=candidates)
    assert len(set(picks)) == budget and set(picks) <= set(candidates)
    norms = (explicit(features, probs) ** 2).sum(axis=1)
    assert picks[0] == max(candidates, key=norms.__getitem__)
    # Neither scale nor rotation of the features nor the order of the classes changes a distance's share.
    same = B.badge(features * 2.0**70, probs, budget, make_rng(seed), candidates=candidates)
    np.testing.assert_array_equal(same, picks)
    moved = B.badge(features[:, ::-1], probs[:, ::-1], budget, make_rng(seed), candidates=candidates)
    assert set(moved) <= set(candidates) and moved[0] == picks[0]


def test_it_reads_memory_maps_in_blocks(tmp_path, monkeypatch):
    features, probs = (x.astype(np.float32) for x in made(n=200))
    # A distribution for single precision as well.
    expected = B.badge(features, probs, 40, make_rng(0))
    np.save(tmp_path / "features.npy", features), np.save(tmp_path / "probs.npy", probs)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("features", "probs")]
    monkeypatch.setattr("usb_active.numerics.arrays.BLOCK", 100)
    np.testing.assert_array_equal(B.badge(*mapped, 40, make_rng(0)), expected)


# ------------------------------------------------------------------------------------------ errors
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 61}, "^budget: 61, expected an integer from 1 to the 60 candidates$"),
        ({"candidates": [3, 3]}, "^candidates: more than once: index 3$"),
        ({"candidates": [60]}, "^candidates: index 60 outside the 60 rows of features$"),
        ({"probs": made()[1][:50]}, "^probs: 50 rows, expected one for each of the 60 rows of features$"),
        ({"probs": np.zeros(60)}, r"^probs: expected shape \(N, C\), got \(60,\)$"),
        ({"probs": 2 * made()[1]}, "^probs: rows must sum to 1"),
        ({"first": "random"}, "^first: 'random', expected 'norm' or 'uniform'$"),
    ],
)
def test_bad_input_is_named(changes, message):
    features, probs = made()
    arguments = {"features": features, "probs": probs, "budget": 3, "rng": make_rng()} | changes
    with pytest.raises(ValueError, match=message):
        B.badge(**arguments)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_named(value):
    features, probs = made()
    features[[4, 7], 1] = value
    with pytest.raises(ValueError, match="^features: not finite in rows 4, 7$"):
        B.badge(features, probs, 3, make_rng())
    probs[[5, 6], 0] = value
    with pytest.raises(ValueError, match="^probs: must be finite, got .* first in rows 5, 6$"):
        B.badge(made()[0], probs, 3, make_rng())


class TestBadge(AcquisitionContract):
    name = "badge"
    deterministic = False

    def test_the_longest_gradient_comes_first(self, world):
        view = self.view(world, self.plugin())
        rows = explicit(view.features, view.probs)
        longest = max(world.pool.candidates, key=lambda i: (rows[i] ** 2).sum())
        assert {int(self.pick(world, 5, seed=seed)[0]) for seed in range(4)} == {longest}


class TestBadgeUniform(AcquisitionContract):
    name = "badge"
    config = {"first": "uniform"}
    deterministic = False

    def test_the_first_is_drawn(self, world):
        assert len({int(self.pick(world, 2, seed=seed)[0]) for seed in range(20)}) > 8
