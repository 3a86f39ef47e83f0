"""Propagation against dense solves, closed forms and invariants, and every bad input."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from usb_active.plugins.jlp.functional import certainty, diffuse, propagate, rows_to_probs

from usb_active.numerics.neighbors import MODES, affinity


def random_graph(n: int, density: float, seed: int) -> sp.csr_array:
    """Symmetric, weights in (0, 1), often with several components and isolated nodes."""
    rng = np.random.default_rng(seed)
    weights = np.triu((rng.random((n, n)) < density) * rng.random((n, n)), 1)
    return sp.csr_array(weights + weights.T)


def knn_graph(n: int, seed: int, mode: str = "mutual", k: int = 5, dim: int = 3) -> sp.csr_array:
    return affinity(np.random.default_rng(seed).standard_normal((n, dim)), k, mode=mode)


def dense_diffuse(graph: sp.csr_array, sources: np.ndarray, alpha: float) -> np.ndarray:
    weights = graph.toarray()
    degree = weights.sum(axis=1)
    scale = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0)
    return (1 - alpha) * np.linalg.solve(np.eye(len(weights)) - alpha * scale[:, None] * weights * scale, sources)


def complete_graph(n: int) -> sp.csr_array:
    return sp.csr_array(np.ones((n, n)) - np.eye(n))


def star(leaves: int) -> sp.csr_array:
    weights = np.zeros((leaves + 1, leaves + 1))
    weights[0, 1:] = weights[1:, 0] = 1
    return sp.csr_array(weights)


# ------------------------------------------------------------------------------------------------------- diffusion


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 40),
    density=st.floats(0, 0.5),
    classes=st.integers(1, 40),
    alpha=st.sampled_from([0, 0.5, 0.99, 0.999]),
    seed=st.integers(0, 999),
)
def test_diffusion_is_the_dense_solution(n, density, classes, alpha, seed):
    graph, sources = random_graph(n, density, seed), np.random.default_rng(seed).standard_normal((n, classes))
    expected = dense_diffuse(graph, sources, alpha)
    assert np.allclose(diffuse(graph, sources, alpha, 1e-10), expected, atol=1e-8)


@pytest.mark.parametrize("mode", MODES)
def test_diffusion_on_a_neighbour_graph(mode):
    graph = knn_graph(400, 0, mode)
    sources = np.eye(400)[:, :50]
    assert np.abs(diffuse(graph, sources) - dense_diffuse(graph, sources, 0.99)).max() < 1e-6


def test_a_start_saves_nothing_of_the_accuracy():
    graph, rng = knn_graph(300, 1), np.random.default_rng(0)
    sources = np.eye(300)[:, :4]
    expected = dense_diffuse(graph, sources, 0.99)
    for start in (expected, expected + rng.standard_normal(expected.shape), np.ones_like(expected)):
        assert np.allclose(diffuse(graph, sources, start=start), expected, atol=1e-6)


def test_a_start_does_not_leak_into_components_without_a_source():
    graph = sp.block_array([[complete_graph(3), None], [None, complete_graph(4)]]).tocsr()
    h = diffuse(graph, np.eye(7)[:, :1], start=np.ones((7, 1)))
    assert (h[:3] > 0).all() and not h[3:].any()


def test_two_nodes():
    # (I - a W) = [[1, -a], [-a, 1]], its inverse [[1, a], [a, 1]] / (1 - a^2); times 1 - a: [[1, a], [a, 1]] / (1 + a).
    graph = sp.csr_array(np.array([[0, 5.0], [5.0, 0]]))
    assert np.allclose(diffuse(graph, np.eye(2), 0.9), np.array([[1, 0.9], [0.9, 1]]) / 1.9)
    assert np.allclose(propagate(graph, [0, 1], [0, 1], 2, 0.9), np.array([[1, 0.9], [0.9, 1]]) / 1.9)


@pytest.mark.parametrize("n", [3, 10])
def test_complete_graph(n):
    # W = (J - I) / (n - 1) has the eigenvalue 1 on the constants and -1 / (n - 1) on the rest.
    alpha = 0.99
    rest = (1 - alpha) / (1 + alpha / (n - 1))
    expected = 1 / n + (np.eye(n) - 1 / n) * rest
    assert np.allclose(diffuse(complete_graph(n), np.eye(n), alpha, 1e-10), expected)


def test_star():
    # Centre labelled 0, one leaf labelled 1: the other leaves are all alike, and so are the rows of the probabilities.
    probs = propagate(star(5), [0, 1], [0, 1], 2)
    assert np.allclose(probs[2:], probs[2]) and probs[1, 1] > probs[2, 1]
    # From the centre, W takes h0 to the leaves as h0 / sqrt(5): h_leaf = a h0 / sqrt(5), h0 = (1 - a) + a sqrt(5) h_leaf.
    alpha = 0.99
    centre = (1 - alpha) / (1 - alpha**2)
    assert np.allclose(diffuse(star(5), np.eye(6)[:, :1])[:, 0], [centre] + [alpha * centre / math.sqrt(5)] * 5)


def test_without_diffusion_only_the_labels_remain():
    probs = propagate(knn_graph(30, 0), [3, 8], [1, 0], 3, alpha=0)
    expected = np.zeros((30, 3))
    expected[3, 1] = expected[8, 0] = 1
    assert np.array_equal(probs, expected)


# ----------------------------------------------------------------------------------------------------- propagation


@pytest.mark.parametrize("mode", MODES)
def test_propagation_is_the_dense_solution_with_rows_normalised(mode):
    graph, rng = knn_graph(300, 2, mode), np.random.default_rng(1)
    labeled, labels = rng.permutation(300)[:30], rng.integers(4, size=30)
    sources = np.zeros((300, 4))
    sources[labeled, labels] = 1
    h = dense_diffuse(graph, sources, 0.99)
    sums = h.sum(axis=1)
    probs = propagate(graph, labeled, labels, 4, tol=1e-10)
    assert np.allclose(probs[sums > 1e-6], (h / np.where(sums > 0, sums, 1)[:, None])[sums > 1e-6], atol=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 0.99])
def test_with_classes_alike_a_class_weighs_as_much_with_many_labels(alpha):
    """Each column of Y divided by its labels: three of class 0, one of class 1, none of class 2."""
    graph, labeled, labels = knn_graph(60, 3), [0, 1, 2, 3], [0, 0, 0, 1]
    sources = np.zeros((60, 3))
    sources[[0, 1, 2], 0], sources[3, 1] = 1 / 3, 1
    solution = dense_diffuse(graph, sources, alpha).clip(0)
    expected = np.divide(solution, solution.sum(axis=1, keepdims=True), where=solution.sum(axis=1, keepdims=True) > 1e-9, out=0 * solution)
    found = propagate(graph, labeled, labels, 3, alpha, 1e-9, weighting="class")
    assert np.allclose(found, expected, atol=1e-5)
    assert not np.allclose(found, propagate(graph, labeled, labels, 3, alpha, 1e-9), atol=1e-2)
    # With as many labels each there is no difference.
    assert np.allclose(propagate(graph, [0, 3], [0, 1], 3, alpha, weighting="class"), propagate(graph, [0, 3], [0, 1], 3, alpha))


def test_on_a_complete_graph_far_nodes_follow_the_number_of_labels():
    """The reason for classes alike. Every node without a label gets the same from every label."""
    graph, labeled, labels = complete_graph(12), [0, 1, 2, 3], [0, 0, 0, 1]
    assert np.allclose(propagate(graph, labeled, labels, 2)[4:], [0.75, 0.25])
    assert np.allclose(propagate(graph, labeled, labels, 2, weighting="class")[4:], [0.5, 0.5])


def test_less_than_the_tolerance_leaves_open_is_nothing():
    """Two groups joined by an edge so faint that what crosses it is lost in the residual."""
    graph = sp.block_diag([complete_graph(6), complete_graph(6)]).tolil()
    graph[0, 6] = graph[6, 0] = 1e-12
    probs = propagate(graph.tocsr(), [0, 1], [0, 1], 2)
    assert np.allclose(probs[:6].sum(axis=1), 1) and not probs[6:].any()
    graph[0, 6] = graph[6, 0] = 1e-2
    assert np.allclose(propagate(graph.tocsr(), [0, 1], [0, 1], 2).sum(axis=1), 1)


def test_a_stored_zero_is_no_edge():
    graph = sp.block_diag([complete_graph(4), complete_graph(4)]).tocoo()
    stored = sp.coo_array((np.append(graph.data, [0, 0]), (np.append(graph.row, [0, 7]), np.append(graph.col, [7, 0]))), (8, 8))
    assert not propagate(stored.tocsr(), [0], [0], 2)[4:].any()


def test_nodes_without_label_are_zero_and_so_is_a_class_without_labels():
    graph = sp.block_diag([complete_graph(3), sp.csr_array((1, 1)), complete_graph(4), sp.csr_array((1, 1))]).tocsr()
    probs = propagate(graph, [0, 3], [2, 0], 4)
    assert np.array_equal(probs[:4], np.eye(4)[[2, 2, 2, 0]])
    assert not probs[4:].any()


def test_without_labels_all_is_zero():
    assert not propagate(knn_graph(20, 0), [], [], 3).any()


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 40), num_labeled=st.integers(1, 10), scale=st.sampled_from([1e-6, 1.0, 1e6]), seed=st.integers(0, 99))
def test_rows_sum_to_one_or_zero_order_and_scale_do_not_matter(n, num_labeled, scale, seed):
    graph, rng = random_graph(n, 0.15, seed), np.random.default_rng(seed)
    labeled = rng.permutation(n)[:num_labeled]
    labels = rng.integers(3, size=len(labeled))
    probs = propagate(graph, labeled, labels, 3, tol=1e-12)
    reached = probs.any(axis=1)
    assert (probs >= 0).all() and np.allclose(probs.sum(axis=1), reached) and reached[labeled].all()
    order = rng.permutation(n)
    moved = propagate(graph[order][:, order] * scale, np.argsort(order)[labeled], labels, 3, tol=1e-12)
    assert np.allclose(moved, probs[order], atol=1e-5)


def test_negative_values_are_clipped():
    assert np.array_equal(rows_to_probs(np.array([[-1e-9, 2.0], [-1e-9, -1e-12], [1.0, 3.0]])), [[0, 1], [0, 0], [0.25, 0.75]])


# ------------------------------------------------------------------------------------------------------- certainty


def test_certainty_by_hand():
    probs = [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0, 0, 0], [0.5, 0.5, 0]]
    assert np.allclose(certainty(probs), [1, 0, 0, 1 - math.log(2) / math.log(3)])


def test_certainty_with_a_single_class():
    assert certainty([[1.0], [0.0]]).tolist() == [1, 0]


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 20), classes=st.integers(2, 10), concentration=st.floats(0.01, 1e6), seed=st.integers(0, 99))
def test_certainty_is_the_loop_and_stays_in_its_range(n, classes, concentration, seed):
    probs = np.random.default_rng(seed).dirichlet(np.full(classes, concentration), size=n)
    scores = certainty(probs)
    assert (scores >= 0).all() and (scores <= 1).all()
    for row, score in zip(probs.tolist(), scores, strict=True):
        entropy = -sum(p * math.log(p) for p in row if p > 0)
        assert math.isclose(score, 1 - entropy / math.log(classes), abs_tol=1e-9)


# ---------------------------------------------------------------------------------------------------------- errors


def changed(row: int, column: int, value: float, *, mirrored: bool = True) -> sp.csr_array:
    graph = complete_graph(5).tolil()
    graph[row, column] = value
    if mirrored:
        graph[column, row] = value
    return graph.tocsr()


BAD_GRAPHS = [
    (np.ones((3, 3)), "affinity: expected a scipy sparse array, got ndarray"),
    (sp.csr_array((3, 4)), r"affinity: expected shape \(N, N\), got \(3, 4\)"),
    (sp.csr_array((0, 0)), r"affinity: expected shape \(N, N\), got \(0, 0\)"),
    (changed(1, 3, 7.0, mirrored=False), r"affinity: not symmetric: \[1, 3\] is 7, \[3, 1\] is 1"),
    (changed(3, 1, 0.0, mirrored=False), r"affinity: not symmetric: \[1, 3\] is 1, \[3, 1\] is 0"),
    (changed(4, 2, -1.0), r"affinity: negative: \[2, 4\] is -1.0"),
    (changed(0, 4, np.nan), r"affinity: not finite: \[0, 4\] is nan"),
    (changed(0, 4, np.inf), r"affinity: not finite: \[0, 4\] is inf"),
    (changed(2, 2, 0.5), "affinity: the diagonal must be zero, is 0.5 for node 2"),
]


@pytest.mark.parametrize("graph, message", BAD_GRAPHS)
def test_bad_graphs(graph, message):
    for call in (lambda: propagate(graph, [0], [0], 2), lambda: diffuse(graph, np.ones((5, 1)))):
        with pytest.raises(ValueError, match=f"^{message}") as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda g: propagate(g, [0], [0], 2, alpha=1), r"alpha: 1, expected a number in \[0, 1\)"),
        (lambda g: propagate(g, [0], [0], 2, alpha=-0.1), "alpha: -0.1"),
        (lambda g: diffuse(g, np.ones((5, 1)), alpha=float("nan")), "alpha: nan"),
        (lambda g: diffuse(g, np.ones((5, 1)), tol=0), "tol: 0, expected"),
        (lambda g: propagate(g, [0, 5], [0, 1], 2), "labeled: index 5 outside the 5 rows of affinity"),
        (lambda g: propagate(g, [-1], [0], 2), "labeled: index -1 outside"),
        (lambda g: propagate(g, [2, 2], [0, 0], 2), "labeled: more than once: index 2"),
        (lambda g: propagate(g, [0.5], [0], 2), "labeled: expected a list of integer indices"),
        (lambda g: propagate(g, [0, 1], [0], 2), "labels: expected an integer for each of the 2 labelled"),
        (lambda g: propagate(g, [0], [0.0], 2), "labels: expected an integer"),
        (lambda g: propagate(g, [0, 1], [0, 2], 2), r"labels: 2 is outside 0\.\.1"),
        (lambda g: propagate(g, [0], [-1], 2), r"labels: -1 is outside 0\.\.1"),
        (lambda g: propagate(g, [0], [0], 0), "num_classes: 0, expected an integer of at least 1"),
        (lambda g: diffuse(g, np.ones(5)), r"sources: expected shape \(5, C\)"),
        (lambda g: diffuse(g, np.ones((4, 2))), r"sources: expected shape \(5, C\)"),
        (lambda g: diffuse(g, np.full((5, 2), np.nan)), "sources: not finite in rows 0, 1, 2, 3, 4"),
        (lambda g: diffuse(g, np.ones((5, 2)), start=np.ones((5, 1))), r"start: expected the shape of sources, \(5, 2\)"),
        (lambda g: propagate(g, [0], [0], 2, start=np.ones((4, 2))), r"start: expected shape \(5, C\)"),
        (lambda g: certainty([0.5, 0.5]), r"probs: expected shape \(N, C\), got \(2,\)"),
        (lambda g: certainty([[0.5, 0.5], [0.5, 0.6]]), "probs: neither a distribution nor zero: row 1"),
        (lambda g: certainty([[1.5, -0.5]]), "probs: neither a distribution nor zero: row 0"),
        (lambda g: certainty([[np.nan, 1]]), "probs: neither a distribution nor zero: row 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(call, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        call(complete_graph(5))
    assert "\n" not in str(error.value)


def test_the_inputs_are_left_alone_and_other_formats_do():
    graph = knn_graph(50, 0)
    before = graph.copy()
    probs = propagate(graph, [1, 2], [0, 1], 2)
    assert (graph != before).nnz == 0
    assert np.array_equal(probs, propagate(sp.coo_matrix(graph), [1, 2], [0, 1], 2))
    assert np.allclose(probs, propagate(graph.astype(np.float32), [1, 2], [0, 1], 2), atol=1e-4)


@pytest.mark.parametrize("first", [True, False])
def test_torch_keeps_its_number_of_threads(first):
    """In a fresh process, because numba's threads start once. Torch may be there already, or come later and take the OpenMP it finds."""
    code = (
        f"import numpy as np, sys; {first} and __import__('torch').set_num_threads(1)\n"
        "from usb_active.plugins.jlp.functional import joint_label_propagation, propagate\n"
        "from usb_active.plugins.jlp import fast_greedy\n"
        "from usb_active.numerics.neighbors import affinity\n"
        "fast_greedy._LARGE, fast_greedy._WORTH_A_BLOCK = -1, 0\n"
        "graph = affinity(np.random.default_rng(0).standard_normal((300, 8)), 10)\n"
        "propagate(graph, [0, 1], [0, 1], 2); joint_label_propagation(graph, [0, 1], 5)\n"
        f"assert ('torch' in sys.modules) is {first}\n"
        "import torch; print(torch.get_num_threads())"
    )
    environment = {**os.environ, **({} if first else {"OMP_NUM_THREADS": "1"}), "NUMBA_NUM_THREADS": "2"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=environment)
    assert (ended.returncode, ended.stdout.strip()) == (0, "1"), ended
