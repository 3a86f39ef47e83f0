"""The neighbour graph of REVIVAL: Eq. 1 and the matrix of Eq. 2."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from revival_graphs import blobs, dense_convolution, dense_graph
from usb_active.plugins.revival.functional import agreeing_edges, convolution_matrix, neighbor_graph


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("weights", ["similarity", "binary", "distance"])
@pytest.mark.parametrize("k", [2, 5, 42])
def test_edges_are_those_of_equation_1_pair_by_pair(weights, k):
    features, _, _ = blobs()
    found = neighbor_graph(features, k, weights).toarray()
    assert np.allclose(found, dense_graph(features, k, weights), atol=1e-6)


@pytest.mark.parametrize("k", [3, 20])
def test_the_graph_is_symmetric_and_every_node_has_its_neighbours(k):
    graph = neighbor_graph(blobs()[0], k, "binary")
    assert (graph != graph.T).nnz == 0 and not graph.diagonal().any()
    # The sample itself is one of the k.
    assert np.diff(graph.indptr).min() >= k - 1
    assert graph.nnz <= 2 * (k - 1) * graph.shape[0]


def test_two_directions_in_closed_form():
    """Two samples at 60 degrees: cos = 1/2, so similarity and distance are both 1/2; A + I has row sums 3/2."""
    features = np.array([[1, 0], [0.5, np.sqrt(0.75)]])
    for weights, weight in (("similarity", 0.5), ("distance", 0.5), ("binary", 1.0)):
        graph = neighbor_graph(features, 2, weights)
        assert np.allclose(graph.toarray(), [[0, weight], [weight, 0]], atol=1e-7)
        # D = 1 + w on both: the diagonal is 1 / (1 + w), the other entries w / (1 + w).
        expected = np.array([[1, weight], [weight, 1]]) / (1 + weight)
        assert np.allclose(convolution_matrix(graph).toarray(), expected, atol=1e-7)


def test_opposite_directions_have_no_similarity():
    features = np.array([[1.0, 0.2], [-1.0, 0.2]])
    assert neighbor_graph(features, 2, "similarity").nnz == 0
    assert neighbor_graph(features, 2, "binary").nnz == 2
    # 1 - cos of vectors at an angle whose cosine is (0.04 - 1) / 1.04.
    assert neighbor_graph(features, 2, "distance")[0, 1] == pytest.approx(1 + 0.96 / 1.04, abs=1e-6)


def test_copies_are_no_neighbours_by_distance():
    features = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert neighbor_graph(features, 2, "distance").nnz == 0
    assert neighbor_graph(features, 2, "similarity").nnz == 4


@pytest.mark.parametrize("seed", range(3))
def test_copies_in_any_direction_are_no_neighbours_by_distance(seed):
    """In single precision 1 - cos of copies is some 1e-7, of either sign."""
    rows = np.repeat(generator(seed).standard_normal((40, 33)), 5, axis=0).astype(np.float32)
    rows[::2] *= 3
    assert neighbor_graph(rows, 5, "distance").nnz == 0
    assert neighbor_graph(rows, 5, "similarity").nnz == 200 * 4


@pytest.mark.parametrize("seed", range(3))
def test_directions_at_right_angles_have_no_similarity(seed):
    rows = np.linalg.qr(generator(seed).standard_normal((30, 30)))[0]
    assert neighbor_graph(rows, 5, "similarity").nnz == 0 and neighbor_graph(rows, 5, "binary").nnz > 0


@pytest.mark.parametrize("k", [1, 4])
def test_convolution_matrix_entry_by_entry(k):
    graph = neighbor_graph(blobs()[0], k)
    assert np.allclose(convolution_matrix(graph).toarray(), dense_convolution(graph.toarray()), atol=1e-12)


def test_the_largest_eigenvalue_of_the_convolution_matrix_is_one():
    """Its eigenvector is the square root of the degrees of A + I."""
    graph = neighbor_graph(blobs()[0], 6)
    matrix = convolution_matrix(graph).toarray()
    root = np.sqrt(graph.sum(axis=1) + 1)
    assert np.allclose(matrix @ root, root) and np.abs(np.linalg.eigvalsh(matrix)).max() == pytest.approx(1)


def test_without_neighbours_it_is_the_identity():
    graph = neighbor_graph(blobs()[0], 1)
    assert graph.nnz == 0 and np.array_equal(convolution_matrix(graph).toarray(), np.eye(42))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k: 0, expected an integer, 1 to the 42 rows of features"),
        ({"k": 43}, "k: 43, expected"),
        ({"k": 2.5}, "k: 2.5, expected an integer"),
        ({"weights": "cosine"}, "weights: unknown value 'cosine'"),
        ({"weights": "binari"}, "did you mean 'binary'"),
    ],
)
def test_bad_settings_say_what_is_valid(change, message):
    with pytest.raises(ValueError, match=message):
        neighbor_graph(blobs()[0], **change)


@pytest.mark.parametrize("k", [1, 5])
def test_features_that_are_not_finite_are_named(k):
    features = blobs()[0]
    features[[4, 9], 1] = np.inf
    with pytest.raises(ValueError, match="not finite.*4, 9"):
        neighbor_graph(features, k)


@pytest.mark.parametrize("k", [1, 5])
def test_rows_without_a_direction_are_named(k):
    features = blobs()[0]
    features[7] = 0
    with pytest.raises(ValueError, match="all zero, so without a direction, in row 7"):
        neighbor_graph(features, k)


# ------------------------------------------------------------------------------------------------- accuracy of a graph
def test_agreeing_edges_by_hand():
    """Edges 0-1, 1-2, 2-3, 0-3 of classes a, a, b, b: 0-1 and 2-3 agree."""
    graph = sp.csr_array(np.array([[0, 1, 0, 0.2], [1, 0, 1, 0], [0, 1, 0, 1], [0.2, 0, 1, 0]]))
    assert agreeing_edges(graph, [0, 0, 1, 1]) == (2, 4)
    assert agreeing_edges(graph, [0, 0, 1, -1]) == (1, 2)
    assert agreeing_edges(graph, [-1, -1, -1, -1]) == (0, 0)


def test_agreeing_edges_pair_by_pair_and_their_limits():
    features, truth, _ = blobs()
    graph = neighbor_graph(features, 6)
    dense = graph.toarray()
    pairs = [(i, j) for i in range(42) for j in range(i) if dense[i, j] > 0]
    assert agreeing_edges(graph, truth) == (sum(truth[i] == truth[j] for i, j in pairs), len(pairs))
    assert agreeing_edges(graph, np.zeros(42, int)) == (len(pairs), len(pairs))
    assert agreeing_edges(graph, np.arange(42)) == (0, len(pairs))
    with pytest.raises(ValueError, match="labels: expected shape"):
        agreeing_edges(graph, truth[:-1])
