"""Neighbours against a full sort in double precision, graphs against their definition, and every bad input."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from usb_active.numerics.neighbors import METRICS, MODES, affinity, knn, normalize


def make_features(n: int = 60, dim: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim))


def all_similarities(features: np.ndarray, metric: str) -> np.ndarray:
    rows = features.astype(np.float64)
    if metric == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return rows @ rows.T
    return -((rows[:, None] - rows[None]) ** 2).sum(axis=2)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_the_nearest_of_a_full_sort(metric, dtype):
    features = make_features().astype(dtype)
    similarity, index = knn(features, 7, metric=metric)
    expected = all_similarities(features, metric)
    np.fill_diagonal(expected, -np.inf)
    assert index.shape == similarity.shape == (60, 7) and index.dtype == np.int64
    assert np.array_equal(index, np.argsort(-expected, axis=1)[:, :7])
    assert np.allclose(similarity, -np.sort(-expected, axis=1)[:, :7], atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("method", ["exact", "ivf"])
@pytest.mark.parametrize("k", [3, 59])
def test_a_row_is_not_its_own_neighbour_even_among_copies(metric, method, k):
    features = make_features()
    features[5:45] = features[5]
    similarity, index = knn(features, k, metric=metric, method=method)
    assert not (index == np.arange(60)[:, None]).any()
    assert all(len(set(row)) == k for row in index.tolist()) and index.min() >= 0 and index.max() < 60
    assert np.allclose(similarity[5:45, :3], 1 if metric == "cosine" else 0, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [4, 5])
def test_more_copies_than_neighbours_hang_together(metric, k):
    """By the order of their numbers, on both sides, going round; one more to the right when k is odd."""
    features = make_features()
    copies = np.array([3, 10, 11, 20, 30, 31, 40, 59])
    features[copies] = features[3]
    similarity, index = knn(features, k, metric=metric)
    for place, row in enumerate(copies):
        steps = [1, -1, 2, -2, 3][:k]
        assert index[row].tolist() == [copies[(place + step) % 8] for step in steps]
    assert np.array_equal(similarity[copies], np.full((8, k), 1.0 if metric == "cosine" else 0.0))
    others = np.setdiff1d(np.arange(60), copies)
    expected = all_similarities(features, metric)
    np.fill_diagonal(expected, -np.inf)
    assert np.allclose(similarity[others], -np.sort(-expected, axis=1)[others, :k], atol=1e-5)
    if metric == "cosine":
        assert sp.csgraph.connected_components(affinity(features[copies], k))[0] == 1


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [2, 3, 4])
def test_several_groups_of_copies_among_each_other_stay_apart(metric, k):
    for seed in range(60):
        rng = np.random.default_rng(seed)
        group = rng.integers(-1, 3, 30)
        features = rng.standard_normal((30, 3))
        for number in range(3):
            features[group == number] = np.eye(3)[number]
        similarity, index = knn(features, k, metric=metric)
        for row in np.flatnonzero(group >= 0):
            copies = np.flatnonzero(group == group[row])
            near = index[row][: len(copies) - 1]
            assert set(near.tolist()) <= set(copies.tolist()) - {row} and len(set(index[row].tolist())) == k
            assert similarity[row, : len(near)] == pytest.approx(1.0 if metric == "cosine" else 0.0, abs=1e-6)


@pytest.mark.parametrize("k", [4, 7])
def test_as_many_copies_as_neighbours_and_one_are_all_neighbours(k):
    features = make_features()
    copies = np.arange(0, 2 * (k + 1), 2)
    features[copies] = features[0]
    index = knn(features, k)[1]
    assert all(sorted([row, *index[row].tolist()]) == copies.tolist() for row in copies)


def test_cosines_that_may_be_rounding_are_no_edges():
    features = np.eye(4)[np.arange(40) % 4] + 1e-8 * np.abs(make_features(40, 4))
    graph = affinity(features, 20)
    assert sp.csgraph.connected_components(graph)[0] == 4 and graph.data.min() > 0.99


def test_euclidean_distances_that_overflow_name_their_rows():
    features = make_features()
    features[[7, 9]] *= 1e30
    with pytest.raises(ValueError, match="features: above 2e.18, so that squared distances overflow, in rows 7, 9"):
        knn(features, 3, metric="euclidean")
    assert knn(features, 3)[1].shape == (60, 3)


def test_euclidean_neighbours_far_from_the_origin():
    features = make_features()
    assert np.array_equal(knn(features + 1e5, 5, metric="euclidean")[1], knn(features, 5, metric="euclidean")[1])


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_length_does_not_matter_to_the_cosine(scale):
    features = make_features()
    assert np.array_equal(knn(features * scale, 5)[1], knn(features, 5)[1])


@pytest.mark.parametrize("metric", METRICS)
def test_the_approximate_index_finds_most_and_is_deterministic(metric):
    rng = np.random.default_rng(0)
    features = 4 * rng.standard_normal((20, 8))[rng.integers(20, size=3000)] + rng.standard_normal((3000, 8))
    exact, index = (knn(features, 10, metric=metric, method=method)[1] for method in ("exact", "ivf"))
    hits = sum(len(np.intersect1d(a, b)) for a, b in zip(exact, index, strict=True))
    assert hits > 0.9 * exact.size
    assert np.array_equal(index, knn(features, 10, metric=metric, method="ivf")[1])


def test_a_memory_map_gives_the_same(tmp_path):
    features = make_features(5000, 20).astype(np.float32)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    assert np.array_equal(knn(mapped, 5)[1], knn(features, 5)[1])


# ---------------------------------------------------------------------------------------------------------- graphs


def plain_affinity(features: np.ndarray, k: int, gamma: float, mode: str) -> np.ndarray:
    """The definition, pair by pair."""
    similarity = all_similarities(features, "cosine")
    np.fill_diagonal(similarity, -np.inf)
    near = [set(np.argsort(-row)[:k].tolist()) for row in similarity]
    weights = np.zeros_like(similarity)
    for i in range(len(near)):
        for j in range(len(near)):
            times = (j in near[i]) + (i in near[j])
            count = {"mutual": times == 2, "union": times >= 1, "sum": times}[mode]
            weights[i, j] = count * max(similarity[i, j], 0) ** gamma if i != j else 0
    return weights


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gamma", [1, 3.0, 0.5])
def test_the_graph_is_its_definition(mode, gamma):
    features = make_features(40, 3)
    graph = affinity(features, 6, gamma, mode)
    assert isinstance(graph, sp.csr_array) and graph.dtype == np.float64
    assert np.allclose(graph.toarray(), plain_affinity(features, 6, gamma, mode), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(3, 40), k=st.integers(1, 39), mode=st.sampled_from(MODES), seed=st.integers(0, 99))
def test_graphs_are_symmetric_without_loops_and_without_stored_zeros(n, k, mode, seed):
    graph = affinity(make_features(n, 3, seed), min(k, n - 1), mode=mode)
    assert (graph != graph.T).nnz == 0 and not graph.diagonal().any()
    assert (graph.data > 0).all() and graph.has_sorted_indices and np.isfinite(graph.data).all()


def test_three_points_by_hand():
    # Angles 0, 60 and 180 degrees: cosines 1/2, -1, -1/2. With one neighbour: 0 -> 1, 1 -> 0, 2 -> 1.
    features = np.array([[1, 0], [0.5, np.sqrt(0.75)], [-1, 0]])
    for mode, weight in (("mutual", 1 / 8), ("union", 1 / 8), ("sum", 1 / 4)):
        expected = np.zeros((3, 3))
        expected[0, 1] = expected[1, 0] = weight
        assert np.allclose(affinity(features, 1, mode=mode).toarray(), expected, atol=1e-6)


def test_modes_nest():
    features = make_features(80, 4)
    mutual, union, total = (affinity(features, 8, mode=mode).toarray() for mode in MODES)
    assert np.allclose(mutual + union, total, atol=1e-6) and (mutual <= union).all() and (mutual < union).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normalize(dtype):
    dense = np.random.default_rng(0).random((6, 6))
    dense = np.triu(dense, 1) + np.triu(dense, 1).T
    dense[4] = dense[:, 4] = 0
    before = dense.copy()
    graph = normalize(sp.csr_array(dense.astype(dtype)))
    degree = dense.sum(axis=1)
    others = np.arange(6) != 4
    expected = dense[np.ix_(others, others)] / np.sqrt(np.outer(degree[others], degree[others]))
    assert graph.dtype == np.float64 and np.array_equal(dense, before)
    assert np.allclose(graph.toarray()[np.ix_(others, others)], expected, atol=1e-6)
    assert not graph.toarray()[4].any() and not graph.toarray()[:, 4].any()
    # The square roots of the degrees are the eigenvector of eigenvalue 1.
    assert np.allclose(graph @ np.sqrt(degree), np.sqrt(degree), atol=1e-6)


# --------------------------------------------------------------------------------------------------------- errors


def with_rows(value: float) -> np.ndarray:
    features = make_features()
    features[[3, 8]] = value
    return features


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: knn(np.ones(4), 1), r"features: expected shape \(N, D\), got \(4,\)"),
        (lambda: knn(np.ones((0, 4)), 1), r"features: expected shape \(N, D\), got \(0, 4\)"),
        (lambda: knn(with_rows(np.nan), 3), "features: not finite in rows 3, 8"),
        (lambda: knn(with_rows(np.inf), 3, metric="euclidean"), "features: not finite in rows 3, 8"),
        (lambda: knn(with_rows(0), 3), "features: all zero.*rows 3, 8"),
        (lambda: knn(make_features(), 60), "k: 60, expected an integer from 1 to 59"),
        (lambda: knn(make_features(), 0), "k: 0, expected"),
        (lambda: knn(make_features(), 2.0), "k: 2.0, expected"),
        (lambda: knn(make_features(), 3, metric="cosin"), "metric: unknown value 'cosin'; did you mean 'cosine'"),
        (lambda: knn(make_features(), 3, method="hnsw"), "method: unknown value 'hnsw'; known: auto, exact, ivf"),
        (lambda: affinity(make_features(), 3, mode="mutal"), "mode: unknown value 'mutal'; did you mean 'mutual'"),
        (lambda: affinity(make_features(), 3, gamma=0), "gamma: 0, expected a number above 0"),
        (lambda: affinity(make_features(), 3, gamma=float("nan")), "gamma: nan"),
        (lambda: affinity(make_features(), 60), "k: 60, expected"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(call, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        call()
    assert "\n" not in str(error.value)


def test_zero_rows_have_euclidean_neighbours():
    assert knn(with_rows(0), 1, metric="euclidean")[1][[3, 8]].tolist() == [[8], [3]]
