"""Baseline acquisitions against slow loops, closed forms and invariants."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chisquare
from usb_active.plugins.baselines import functional as F

SEEDS = st.integers(0, 2**32 - 1)


def make_rng(seed=0):
    return np.random.default_rng(seed)


def random_probs(seed, n=50, c=7):
    return make_rng(seed).dirichlet(np.full(c, 0.3), size=n)


# ----------------------------------------------------------------------------------------------- slow oracles


def slow_entropy(p):
    return -sum(float(x) * np.log(float(x)) for x in p if x > 0)


def slow_squared(a, b):
    diff = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return float(np.einsum("d,d->", diff, diff))


def slow_k_center(features, labeled, budget, order):
    """The loop of the paper; the first of equals in `order`."""
    centres = list(labeled)
    for _ in range(budget):
        left = [i for i in order if i not in centres]
        radius = [
            min((slow_squared(features[i], features[c]) for c in centres), default=np.inf) for i in left
        ]
        centres.append(left[int(np.argmax(radius))])
    return centres[len(labeled) :]


def fast_k_center(features, labeled, budget, order):
    """The same loop with one vectorised step, for larger inputs."""
    rows = features.astype(np.float64)
    radius = np.full(len(rows), -1.0)
    radius[order] = np.inf
    picks = []
    centres = iter(list(labeled))
    for _ in range(len(labeled) + budget):
        centre = next(centres, None)
        if centre is None:
            centre = order[np.argmax(radius[order])]
            picks.append(centre)
        diff = rows - rows[centre]
        radius = np.minimum(radius, np.einsum("nd,nd->n", diff, diff))
        radius[centre] = -1.0
    return picks


def sequence_probabilities(features, budget, candidates, labeled=()):
    """Exact probability of every ordered draw of k-means++."""
    result = {}
    for picks in itertools.permutations(candidates, budget):
        probability = 1.0
        for step, pick in enumerate(picks):
            centres = [*labeled, *picks[:step]]
            left = [i for i in candidates if i not in picks[:step]]
            if not centres:
                weights = [1.0] * len(left)
            else:
                weights = [min(slow_squared(features[i], features[c]) for c in centres) for i in left]
            if sum(weights) == 0:
                weights = [1.0] * len(left)
            probability *= weights[left.index(pick)] / sum(weights)
        if probability > 0:
            result[picks] = probability
    return result


# ----------------------------------------------------------------------------------------- uncertainty scores


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_equal_slow_loops(dtype):
    probs = random_probs(0).astype(dtype)
    ordered = np.sort(probs.astype(np.float64), axis=1)
    np.testing.assert_allclose(F.entropy(probs), [slow_entropy(p) for p in probs], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(F.margin(probs), [p[-1] - p[-2] for p in ordered])
    np.testing.assert_array_equal(F.least_confidence(probs), [max(0.0, 1.0 - p[-1]) for p in ordered])
    assert F.entropy(probs).dtype == np.float64


def test_scores_of_certain_and_uniform_rows():
    one_hot, uniform = np.eye(4), np.full((1, 4), 0.25)
    for score, certain, unsure in (
        (F.entropy, 0.0, np.log(4)),
        (F.margin, 1.0, 0.0),
        (F.least_confidence, 0.0, 0.75),
    ):
        np.testing.assert_array_equal(score(one_hot), np.full(4, certain))
        np.testing.assert_allclose(score(uniform), [unsure], rtol=1e-15)


@given(SEEDS, st.integers(2, 12))
@settings(max_examples=40, deadline=None)
def test_scores_ignore_the_order_of_classes_and_stay_in_range(seed, num_classes):
    probs = random_probs(seed, 20, num_classes)
    shuffled = probs[:, make_rng(seed).permutation(num_classes)]
    for score, top in (
        (F.entropy, np.log(num_classes)),
        (F.margin, 1),
        (F.least_confidence, 1 - 1 / num_classes),
    ):
        values = score(probs)
        np.testing.assert_allclose(score(shuffled), values, rtol=1e-10, atol=1e-12)
        assert values.min() >= 0 and values.max() <= top + 1e-12


def test_scores_do_not_depend_on_the_blocks(monkeypatch):
    probs = random_probs(3)
    whole = [score(probs) for score in (F.entropy, F.margin, F.least_confidence)]
    monkeypatch.setattr("usb_active.numerics.arrays.BLOCK", 20)
    for score, values in zip((F.entropy, F.margin, F.least_confidence), whole, strict=True):
        np.testing.assert_array_equal(score(probs), values)


@pytest.mark.parametrize("score", [F.entropy, F.margin, F.least_confidence])
@pytest.mark.parametrize(
    ("rows", "value", "message"),
    [
        ([3], [np.nan, 1.0, 0.0], r"finite, got nan first in row 3$"),
        ([1, 4], [np.inf, 0.0, 0.0], r"finite, got inf first in rows 1, 4$"),
        ([2], [1.5, -0.5, 0.0], r"negative, got -0.5 first in row 2$"),
        (list(range(8)), [2.0, 1.0, 0.0], r"logits\?\), got 3 first in rows 0, 1, 2, 3, 4, \.\.\.$"),
        ([5], [0.5, 0.498, 0.0], r"sum to 1 .* got 0.998 first in row 5$"),
    ],
)
def test_scores_refuse_rows_that_are_no_distribution(score, rows, value, message):
    probs = random_probs(0, 10, 3)
    probs[rows] = value
    with pytest.raises(ValueError, match=message):
        score(probs)


def test_scores_take_the_rounding_of_half_precision_sums():
    assert F.entropy([[0.5, 0.4995]]).shape == (1,)


def test_scores_refuse_other_shapes():
    with pytest.raises(ValueError, match=r"probs: expected shape \(N, C\), got \(3,\)"):
        F.entropy([0.2, 0.3, 0.5])
    with pytest.raises(ValueError, match="margin needs at least 2 classes"):
        F.margin([[1.0]])


# ------------------------------------------------------------------------------------------------------ top k


@given(SEEDS, st.integers(1, 60), st.data())
@settings(max_examples=60, deadline=None)
def test_top_k_is_the_head_of_a_full_sort(seed, size, data):
    budget = data.draw(st.integers(1, size))
    rng = make_rng(seed)
    scores = rng.integers(0, 8, size=size).astype(np.float64)  # many ties
    candidates = rng.permutation(1000)[:size]
    picks = F.top_k(scores, candidates, budget, rng)
    assert len(set(picks)) == budget and set(picks) <= set(candidates)
    by_idx = dict(zip(candidates, scores, strict=True))
    assert [by_idx[i] for i in picks] == sorted(scores, reverse=True)[:budget]


def test_top_k_breaks_ties_evenly():
    # Position 0 is always first; behind it each of 6 equal scores is second, and third, in 1/6 of the draws.
    rng = make_rng(7)
    scores = np.array([2.0, 1, 1, 1, 1, 1, 1])
    picks = np.array([F.top_k(scores, np.arange(7), 3, rng) for _ in range(1200)])
    assert (picks[:, 0] == 0).all()
    for column in (1, 2):
        assert chisquare(np.bincount(picks[:, column], minlength=7)[1:]).pvalue > 1e-3


def test_top_k_repeats_under_a_seed():
    scores = make_rng(0).integers(0, 3, 40)
    first, second = (F.top_k(scores, np.arange(40), 20, make_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_top_k_errors():
    candidates = np.array([10, 20, 30])
    with pytest.raises(ValueError, match=r"not finite for samples 10, 30$"):
        F.top_k([np.nan, 0.0, np.inf], candidates, 1, make_rng())
    with pytest.raises(ValueError, match=r"budget: 4, expected an integer from 1 to the 3 candidates"):
        F.top_k([1.0, 2.0, 3.0], candidates, 4, make_rng())
    with pytest.raises(ValueError, match=r"shape \(3,\), got \(5,\).*scores\[candidates\]"):
        F.top_k(np.zeros(5), candidates, 1, make_rng())
    with pytest.raises(ValueError, match="candidates: more than once: index 20"):
        F.top_k(np.zeros(3), [20, 20, 30], 1, make_rng())


# -------------------------------------------------------------------------------------------- k-center greedy


def test_k_center_on_a_line():
    # Centre at 0. Farthest: 10. Radii then: 1 -> 1, 4 -> 4, 6 -> 4 (to 10), 9 -> 1: a tie of 4 and 6.
    # After either (say 4) the radius of 6 is 2, of 9 and 1 is 1; so the other one follows.
    features = np.array([[0.0], [1], [4], [6], [9], [10]])
    seen = {tuple(F.k_center_greedy(features, [0], 3, rng=make_rng(seed))) for seed in range(30)}
    assert seen == {(5, 2, 3), (5, 3, 2)}


@pytest.mark.parametrize("num_labeled", [0, 1, 5])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_k_center_equals_the_slow_loop(num_labeled, dtype):
    rng = make_rng(num_labeled)
    features = (10 * rng.standard_normal((40, 3))).astype(dtype)  # as integers: with ties and copies
    labeled = rng.permutation(40)[:num_labeled]
    order = make_rng(9).permutation(np.delete(np.arange(40), labeled))
    picks = F.k_center_greedy(features, labeled, 20, rng=make_rng(9))
    np.testing.assert_array_equal(picks, slow_k_center(features, labeled, 20, order))


def clusters(seed, n, dim):
    rng = make_rng(seed)
    return 5 * rng.standard_normal((12, dim))[rng.integers(12, size=n)] + 0.3 * rng.standard_normal((n, dim))


def far_from_zero(seed, n, dim):
    # The distances are 1e-6 of the norms: single precision without centring would lose them altogether.
    return 1e6 + make_rng(seed).standard_normal((n, dim))


def near_ties(seed, n, dim):
    # All on a sphere round the origin, distances equal up to 1e-9: beyond single precision.
    x = make_rng(seed).standard_normal((n, dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True) * (1 + 1e-9 * make_rng(1).random((n, 1)))


def tiny_spread_about_two_points(seed, n, dim):
    rng = make_rng(seed)
    return np.where(rng.random((n, 1)) < 0.5, -1.0, 1.0) + 1e-9 * rng.standard_normal((n, dim))


def outlier(seed, n, dim):
    x = make_rng(seed).standard_normal((n, dim))
    x[n // 2] *= 1e12
    return x


def copies(seed, n, dim):
    return make_rng(seed).standard_normal((n // 10, dim))[make_rng(1).integers(n // 10, size=n)]


def grid(seed, n, dim):
    return make_rng(seed).integers(0, 2, size=(n, dim)).astype(np.float64)


SHAPES = [clusters, far_from_zero, near_ties, tiny_spread_about_two_points, outlier, copies, grid]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_k_center_equals_the_double_precision_loop(shape, dtype):
    features = shape(0, 600, 24).astype(dtype)
    labeled = make_rng(2).permutation(600)[:30]
    candidates = np.setdiff1d(np.arange(20, 600), labeled)
    order = make_rng(4).permutation(candidates)
    picks = F.k_center_greedy(features, labeled, 150, candidates=candidates, rng=make_rng(4))
    np.testing.assert_array_equal(picks, fast_k_center(features, labeled, 150, order))


@pytest.mark.parametrize(("block", "front"), [(64, 1), (500, 3), (1 << 20, 1000)])
def test_k_center_does_not_depend_on_blocks(monkeypatch, block, front):
    features = np.concatenate([clusters(1, 200, 6), copies(1, 100, 6)])
    labeled = np.arange(0, 300, 30)
    expected = F.k_center_greedy(features, labeled, 100, rng=make_rng(3))
    monkeypatch.setattr("usb_active.numerics.arrays.BLOCK", block)
    monkeypatch.setattr("usb_active.numerics.greedy._FRONT", front)
    np.testing.assert_array_equal(F.k_center_greedy(features, labeled, 100, rng=make_rng(3)), expected)


FEATURES = arrays(
    np.float64, st.tuples(st.integers(2, 25), st.integers(1, 4)), elements=st.floats(-1e3, 1e3, width=16)
)


@given(FEATURES, SEEDS, st.data())
@settings(max_examples=150, deadline=None)
def test_k_center_properties(features, seed, data):
    n = len(features)
    labeled = make_rng(seed).permutation(n)[: data.draw(st.integers(0, n - 1))]
    left = np.setdiff1d(np.arange(n), labeled)
    budget = data.draw(st.integers(1, len(left)))
    picks = F.k_center_greedy(features, labeled, budget, rng=make_rng(seed))
    assert len(set(picks)) == budget and set(picks) <= set(left)
    np.testing.assert_array_equal(
        picks, slow_k_center(features, labeled, budget, make_rng(seed).permutation(left))
    )


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 2.0**-40, 1e30, 1e300])
def test_k_center_ignores_scale_and_translation(scale):
    features = make_rng(0).standard_normal((300, 8))
    expected = F.k_center_greedy(features, [0, 1], 60, rng=make_rng(1))
    np.testing.assert_array_equal(F.k_center_greedy(features * scale, [0, 1], 60, rng=make_rng(1)), expected)
    np.testing.assert_array_equal(F.k_center_greedy(features + 1e3, [0, 1], 60, rng=make_rng(1)), expected)


def test_k_center_follows_a_permutation_of_the_pool():
    features = make_rng(0).standard_normal((200, 5))
    order = make_rng(1).permutation(200)
    place = np.argsort(order)  # features[order][place[i]] is features[i]
    picks = F.k_center_greedy(features, [3, 4], 50, rng=make_rng(2))
    moved = F.k_center_greedy(features[order], place[[3, 4]], 50, rng=make_rng(3))
    np.testing.assert_array_equal(order[moved], picks)


def test_k_center_halves_the_bound_of_the_optimum():
    # Greedy is within twice the optimal radius (Gonzalez 1985), found here by trying all sets of three.
    features = make_rng(5).random((12, 2))
    distance = np.linalg.norm(features[:, None] - features[None], axis=2)
    best = min(distance[:, list(c)].min(axis=1).max() for c in itertools.combinations(range(12), 3))
    for seed in range(10):
        picks = F.k_center_greedy(features, [], 3, rng=make_rng(seed))
        assert distance[:, picks].min(axis=1).max() <= 2 * best


def test_k_center_breaks_ties_evenly():
    # Six copies of one point, equally far from the labelled one; and, without labels, a uniform first pick.
    features = np.array([[0.0]] + [[1.0]] * 6)
    rng = make_rng(11)
    counts = Counter(int(F.k_center_greedy(features, [0], 1, rng=rng)[0]) for _ in range(900))
    assert chisquare([counts[i] for i in range(1, 7)]).pvalue > 1e-3
    line = np.arange(6.0)[:, None]
    counts = Counter(int(F.k_center_greedy(line, [], 1, rng=rng)[0]) for _ in range(900))
    assert chisquare([counts[i] for i in range(6)]).pvalue > 1e-3


def test_k_center_reads_a_memory_map(tmp_path):
    features = make_rng(0).standard_normal((200, 5)).astype(np.float32)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    np.testing.assert_array_equal(
        F.k_center_greedy(mapped, [0], 20, rng=make_rng(0)),
        F.k_center_greedy(features, [0], 20, rng=make_rng(0)),
    )


def test_k_center_without_rng_needs_a_labelled_sample():
    features = make_rng(0).standard_normal((20, 2))
    np.testing.assert_array_equal(
        F.k_center_greedy(features, [0], 5), F.k_center_greedy(features, [0], 5, rng=make_rng(3))
    )
    with pytest.raises(ValueError, match="rng: needed when nothing is labelled"):
        F.k_center_greedy(features, [], 5)


# -------------------------------------------------------------------------------------------------- k-means++


# Two pairs of neighbours, a copy and a far point: steep ratios, so that old distances are often refused.
TINY = np.array([[0.0, 0.0], [0.5, 0.0], [4.0, 0.0], [4.0, 1.0], [4.0, 1.0], [0.0, 6.0]])


@pytest.mark.parametrize("proposals", [1, 3, 64])
@pytest.mark.parametrize("labeled", [[], [0]])
def test_kmeans_plus_plus_has_the_exact_distribution(monkeypatch, proposals, labeled):
    monkeypatch.setattr("usb_active.numerics.greedy._PROPOSALS", proposals)
    rng, draws = make_rng(21 + proposals), 4000
    candidates = [i for i in range(6) if i not in labeled]
    expected = sequence_probabilities(TINY, 3, candidates, labeled)
    assert sum(expected.values()) == pytest.approx(1)
    counts = Counter(tuple(map(int, F.kmeans_plus_plus(TINY, 3, rng, labeled=labeled))) for _ in range(draws))
    assert set(counts) <= set(expected)
    # Sequences expected fewer than five times are pooled: chi-square holds for no fewer.
    common = [s for s in expected if expected[s] * draws >= 5]
    observed = [counts[s] for s in common]
    theory = [expected[s] * draws for s in common]
    if len(common) < len(expected):
        observed.append(draws - sum(observed))
        theory.append(draws - sum(theory))
    assert chisquare(observed, theory).pvalue > 1e-3


def test_kmeans_plus_plus_among_copies_is_uniform():
    # All at one point: every ordered pair of the 4 is equally likely, 1/12.
    rng = make_rng(2)
    counts = Counter(tuple(map(int, F.kmeans_plus_plus(np.full((4, 3), 0.1), 2, rng))) for _ in range(2400))
    assert len(counts) == 12
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_kmeans_plus_plus_visits_every_place_before_a_copy():
    features = copies(0, 300, 4)
    places = len(np.unique(features, axis=0))
    picks = F.kmeans_plus_plus(features, 200, make_rng(0))
    assert len(set(picks)) == 200
    assert len(np.unique(features[picks[:places]], axis=0)) == places


def test_kmeans_plus_plus_finds_far_clusters():
    # Ten clusters 1e6 apart of width 1: that one is seeded twice before all are has probability below 1e-9.
    rng = make_rng(3)
    cluster = rng.integers(10, size=500)
    features = 1e6 * np.eye(10)[cluster] + rng.random((500, 10))
    assert sorted(cluster[F.kmeans_plus_plus(features, 10, rng)]) == list(range(10))


@given(FEATURES, SEEDS, st.data())
@settings(max_examples=100, deadline=None)
def test_kmeans_plus_plus_properties(features, seed, data):
    n = len(features)
    labeled = make_rng(seed).permutation(n)[: data.draw(st.integers(0, n - 1))]
    left = np.setdiff1d(np.arange(n), labeled)
    candidates = left[: data.draw(st.integers(1, len(left)))]
    budget = data.draw(st.integers(1, len(candidates)))
    first, second = (
        F.kmeans_plus_plus(features, budget, make_rng(seed), candidates=candidates, labeled=labeled)
        for _ in range(2)
    )
    assert len(set(first)) == budget and set(first) <= set(candidates)
    np.testing.assert_array_equal(first, second)


# ----------------------------------------------------------------------------------------------------- errors


def k_center(features, budget, **kw):
    return F.k_center_greedy(features, kw.pop("labeled", [0]), budget, rng=make_rng(), **kw)


def k_means(features, budget, **kw):
    return F.kmeans_plus_plus(features, budget, make_rng(), labeled=kw.pop("labeled", [0]), **kw)


@pytest.mark.parametrize("method", [k_center, k_means])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 10}, r"^budget: 10, expected an integer from 1 to the 9 candidates$"),
        ({"budget": 0}, r"^budget: 0,"),
        ({"budget": 2.0}, r"^budget: 2.0, expected an integer"),
        ({"budget": 3, "candidates": [4, 5]}, r"from 1 to the 2 candidates$"),
        ({"labeled": [2, 10]}, r"^labeled: index 10 outside the 10 rows of features$"),
        ({"labeled": [-1]}, r"^labeled: index -1 outside"),
        ({"labeled": [1, 2, 1, 2]}, r"^labeled: more than once: indices 1, 2$"),
        ({"labeled": [True] * 10}, r"^labeled: expected a list of integer indices, got .* bool$"),
        ({"candidates": [3, 3]}, r"^candidates: more than once: index 3$"),
        ({"candidates": [3, 12]}, r"^candidates: index 12 outside"),
        ({"candidates": [0, 1]}, r"^candidates: labelled already: index 0$"),
        ({"features": np.zeros(10)}, r"^features: expected shape \(N, D\), got \(10,\)$"),
    ],
)
def test_bad_input_is_named(method, changes, message):
    arguments = {"features": np.arange(20.0).reshape(10, 2), "budget": 1} | changes
    with pytest.raises(ValueError, match=message):
        method(**arguments)


@pytest.mark.parametrize("method", [k_center, k_means])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_named(method, value):
    features = np.zeros((10, 2), np.float32)
    features[[4, 7], 1] = value
    with pytest.raises(ValueError, match=r"^features: not finite in rows 4, 7$"):
        method(features, 1)
