"""DeepCluster's parts apart from training, each in three ways: slow loops, closed forms, invariants."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from math import log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.metrics import normalized_mutual_info_score
from usb_active.plugins.jlp.clustering import agreement, kmeans, project, uniform_sampling, without_empty


def made(size=60, dim=7, seed=0):
    """(size, dim) with a different variance in every direction, far from the origin."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(size, dim)) * np.arange(1, dim + 1) @ rng.normal(size=(dim, dim)) + 5).astype(np.float32)


def groups(counts, spread=0.01, seed=0):
    """Rows around as many far corners as there are counts; and the corner of each."""
    rng = np.random.default_rng(seed)
    which = np.repeat(np.arange(len(counts)), counts)
    return (10 * np.eye(len(counts))[which] + spread * rng.normal(size=(len(which), len(counts)))).astype(np.float32), which


# ------------------------------------------------------------------------------------------------------------- PCA


@pytest.mark.parametrize("dim", [1, 3, 7])
@pytest.mark.parametrize("whiten", [True, False])
def test_components_are_those_of_scikit_learn(dim, whiten):
    features = made()
    ours, theirs = project(features, dim, whiten), PCA(dim, whiten=whiten, svd_solver="full").fit_transform(features.astype(float))
    # scikit-learn's variance has divisor N − 1; the sign of a direction is open.
    theirs *= sqrt(60 / 59) if whiten else 1
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), rtol=1e-4, atol=1e-4)


def test_whitening_in_closed_form():
    # Two directions of variance (4 + 4) / 4 = 2 and (1 + 1) / 4 = 0.5: each point is 2 / √2 = 1 / √0.5 = √2 from the mean.
    features = np.array([[3.0, 1.0], [-1.0, 1.0], [1.0, 2.0], [1.0, 0.0]])
    expected = np.array([[sqrt(2), 0], [sqrt(2), 0], [0, sqrt(2)], [0, sqrt(2)]])
    np.testing.assert_allclose(np.abs(project(features, 2, True)), expected, atol=1e-6)
    np.testing.assert_allclose(np.abs(project(features, 1, False))[:, 0], [2, 2, 0, 0], atol=1e-6)


def test_whitened_features_have_the_unit_matrix_as_covariance_whatever_was_done_to_them_before():
    features = made(300)
    white = project(features, 7, True).astype(float)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(white.T @ white / 300, np.eye(7), atol=1e-4)
    mixed = project(features @ np.random.default_rng(1).normal(size=(7, 7)) - 3, 7, True).astype(float)
    # Equal but for a rotation: all inner products are the same.
    np.testing.assert_allclose(white @ white.T, mixed @ mixed.T, atol=2e-2)


def test_directions_without_variance_are_left_out():
    features = made(dim=3)
    wide = np.concatenate([features, features[:, :1] + features[:, 1:2], np.full((60, 1), 7.0, np.float32), np.zeros((60, 1))], axis=1)
    white = project(wide, 6, True)
    assert white.shape == (60, 3) and np.abs(white).max() < 10
    assert project(made(size=4), 7, True).shape == (4, 3)


def test_large_pools_are_read_in_blocks():
    features = np.random.default_rng(0).normal(size=(9000, 200)).astype(np.float32)
    white = project(features, 3, True)
    expected = PCA(3, whiten=True, svd_solver="full").fit_transform(features.astype(float))
    np.testing.assert_allclose(np.abs(white), np.abs(expected), atol=2e-3)


@pytest.mark.parametrize("rows", [np.full((5, 3), 0.1, np.float32), np.zeros((5, 3)), np.full((1000, 2), 1e6 + 0.1)])
def test_equal_rows_are_an_error(rows):
    with pytest.raises(ValueError, match="all rows are the same"):
        project(rows, 2, True)


@pytest.mark.parametrize(
    ("features", "dim", "message"),
    [
        (made(), 0, "dim: 0; must be 1 to the 7 dimensions"),
        (made(), 8, "dim: 8; must be 1 to the 7"),
        (np.zeros(3), 1, r"expected shape \(N, D\), got \(3,\)"),
        (np.zeros((0, 3)), 1, r"got \(0, 3\)"),
        (np.where(np.isin(np.arange(60), [4, 9])[:, None], np.nan, made()), 2, "not finite in rows 4, 9"),
        (np.where(np.arange(60)[:, None] == 7, np.inf, made()), 2, "not finite in row 7$"),
    ],
)
def test_project_refuses(features, dim, message):
    with pytest.raises(ValueError, match=message):
        project(features, dim, True)


# ----------------------------------------------------------------------------------------------------------- k-means


def test_far_groups_are_the_clusters():
    features, which = groups([20, 7, 3, 10])
    for seed in range(20):
        found = kmeans(features, 4, 20, seed)
        # Wherever the first centres were, no cluster is shared by two groups that got centres of their own.
        if len(np.unique(found)) == 4 and agreement(found, which)[1] == 1:
            break
    else:
        raise AssertionError("never the four groups")
    assert agreement(found, which) == (pytest.approx(1), 1)


def test_each_sample_has_the_nearest_centre_after_convergence():
    features = made(200, 3)
    found = kmeans(features, 5, 100, 1)
    centres = [features[found == cluster].mean(axis=0) for cluster in range(5)]
    for row, cluster in zip(features, found, strict=True):
        assert min(range(5), key=lambda k: float(((row - centres[k]) ** 2).sum())) == cluster


def test_kmeans_follows_its_seed_alone():
    features = made(200)
    np.random.seed(1)
    first = kmeans(features, 20, 5, 3)
    np.random.rand(4)
    assert np.array_equal(first, kmeans(features, 20, 5, 3))
    assert not np.array_equal(first, kmeans(features, 20, 5, 4))
    assert not np.array_equal(first, kmeans(features, 20, 5, 2**40 + 4)) and len(np.unique(first)) == 20


def test_one_cluster_and_as_many_as_samples():
    features = made(30)
    assert kmeans(features, 1, 5, 0).tolist() == [0] * 30
    assert sorted(kmeans(features, 30, 5, 0).tolist()) == list(range(30))


def test_equal_rows_leave_clusters_empty_and_nothing_breaks():
    found, clusters = without_empty(kmeans(np.ones((12, 3), np.float32), 6, 5, 0))
    assert clusters == 1 and found.tolist() == [0] * 12
    twice = np.repeat(groups([1, 1])[0], 6, axis=0)
    found, clusters = without_empty(kmeans(twice, 5, 10, 0))
    assert clusters == 2 and sorted(np.bincount(found).tolist()) == [6, 6]


@pytest.mark.parametrize(
    ("features", "clusters", "message"),
    [
        (made(5), 6, "clusters: 6; must be 1 to the 5 samples"),
        (made(5), 0, "clusters: 0"),
        (np.where(np.arange(60)[:, None] == 3, np.nan, made()), 2, "not finite in row 3$"),
    ],
)
def test_kmeans_refuses(features, clusters, message):
    with pytest.raises(ValueError, match=message):
        kmeans(features, clusters, 5, 0)


def test_without_empty_keeps_order_and_partition():
    found, clusters = without_empty(np.array([7, 2, 2, 9, 7, 40]))
    assert (found.tolist(), clusters) == ([1, 0, 0, 2, 1, 3], 4)
    again, same = without_empty(found)
    assert np.array_equal(again, found) and same == 4


# ---------------------------------------------------------------------------------------------------- uniform sampling


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(0, 90), st.integers(0, 5))
def test_clusters_come_equally_often_and_so_do_their_samples(assignment, size, seed):
    assignment = np.array(assignment)
    idx = uniform_sampling(assignment, size, np.random.default_rng(seed))
    assert idx.shape == (size,)
    drawn = Counter(idx.tolist())
    per_cluster = [sum(drawn[i] for i in np.flatnonzero(assignment == c)) for c in np.unique(assignment)]
    assert max(per_cluster) - min(per_cluster) <= 1
    for cluster in np.unique(assignment):
        times = [drawn[i] for i in np.flatnonzero(assignment == cluster)]
        assert max(times) - min(times) <= 1


def test_equal_clusters_give_every_sample_once_in_random_order():
    assignment = np.repeat(np.arange(6), 10)
    idx = uniform_sampling(assignment, 60, np.random.default_rng(0))
    assert sorted(idx.tolist()) == list(range(60))
    # The first ten are no cluster of their own.
    assert len(set(assignment[idx[:10]].tolist())) > 2


def test_a_sample_is_drawn_with_the_probability_of_its_cluster():
    # Two clusters of 1 and 3: of 8 draws each gets 4, so that the single one comes 4 times, each of the others 4/3 times.
    assignment, total = np.array([1, 0, 0, 0]), np.zeros(4)
    for seed in range(900):
        total += np.bincount(uniform_sampling(assignment, 8, np.random.default_rng(seed)), minlength=4)
    assert total[0] == 4 * 900
    np.testing.assert_allclose(total[1:] / 900, 4 / 3, atol=0.1)


def test_what_is_left_over_goes_to_any_cluster():
    counts = np.zeros(3)
    for seed in range(300):
        counts += np.bincount(uniform_sampling(np.arange(3), 4, np.random.default_rng(seed)), minlength=3)
    # One each, and the fourth to each of three in a third of the 300: 400, standard deviation 8.
    np.testing.assert_allclose(counts, 400, atol=40)


def test_nothing_cannot_be_sampled():
    with pytest.raises(ValueError, match="there is no sample to draw"):
        uniform_sampling(np.array([], dtype=np.int64), 4, np.random.default_rng(0))


# ----------------------------------------------------------------------------------------------------------- agreement


def test_agreement_is_scikit_learns_and_that_of_all_matchings():
    rng = np.random.default_rng(0)
    for _ in range(20):
        one, other = rng.integers(0, 4, 30), rng.integers(0, 5, 30)
        nmi, kept = agreement(one, other)
        assert nmi == pytest.approx(normalized_mutual_info_score(one, other, average_method="geometric"))
        best = max(sum(match[a] == b for a, b in zip(one, other, strict=True)) for match in permutations(range(5), 4))
        assert kept == pytest.approx(best / 30)


def test_agreement_in_closed_form():
    # Four samples, two halves against quarters: I = log 2, H = log 2 and log 4; two of four samples can be matched.
    nmi, kept = agreement(np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3]))
    assert (nmi, kept) == (pytest.approx(log(2) / sqrt(log(2) * log(4))), 0.5)
    independent = agreement(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    assert independent == (pytest.approx(0, abs=1e-12), 0.5)
    assert agreement(np.zeros(5, int), np.ones(5, int)) == (1.0, 1.0)
    assert agreement(np.zeros(4, int), np.arange(4)) == (0.0, 0.25)


def test_names_of_clusters_do_not_matter():
    rng = np.random.default_rng(1)
    one, other = rng.integers(0, 6, 50), rng.integers(0, 6, 50)
    renamed = rng.permutation(6)[other] * 10
    assert agreement(one, renamed) == pytest.approx(agreement(one, other))
    assert agreement(renamed, other) == (pytest.approx(1), pytest.approx(1))
