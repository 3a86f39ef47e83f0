"""Joint label propagation: every pick against a dense solve, on both paths; closed forms, ties, components, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from usb_active.plugins.jlp import fast_block, fast_coarse, fast_greedy, fast_large, kernels
from usb_active.plugins.jlp.fast_moderate import FLOOR
from usb_active.plugins.jlp.functional import joint_label_propagation

from usb_active.numerics.neighbors import MODES, affinity
from usb_active.numerics.propagation.graph import Graph, Part


def random_graph(n: int, density: float, seed: int) -> sp.csr_array:
    """Symmetric, weights in (0, 1), often with several components and isolated nodes."""
    rng = np.random.default_rng(seed)
    weights = np.triu((rng.random((n, n)) < density) * rng.random((n, n)), 1)
    return sp.csr_array(weights + weights.T)


def make_features(kind: str, n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind == "smooth":
        return rng.standard_normal((10, 8))[rng.integers(10, size=n)] + rng.standard_normal((n, 8))
    if kind == "clustered":
        return 8 * rng.standard_normal((8, 8))[rng.integers(8, size=n)] + 0.3 * rng.standard_normal((n, 8))
    angles = rng.uniform(0, 2 * np.pi, (n, 2))
    return np.hstack([np.cos(angles), np.sin(angles)])


def similarities(graph: sp.csr_array, alpha: float) -> np.ndarray:
    """(I - alpha W)^-1, with the rounding between components removed."""
    weights = graph.toarray()
    degree = weights.sum(axis=1)
    scale = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0)
    component = sp.csgraph.connected_components(graph)[1]
    inverse = np.linalg.inv(np.eye(len(weights)) - alpha * scale[:, None] * weights * scale)
    return np.where(component[:, None] == component, inverse, 0)


def worst_excess(graph: sp.csr_array, labeled, picks, candidates, alpha: float = 0.99) -> float:
    """By how much, relative, a pick was ever above the minimum of the dense solution for all sources before it; small ones are equal."""
    solution = similarities(graph, alpha)
    h, free, worst = solution[:, labeled].sum(axis=1), np.zeros(len(solution), bool), 0.0
    free[candidates] = True
    for node in picks:
        assert free[node]
        lowest = h[free].min()
        worst = max(worst, (h[node] - max(lowest, FLOOR)) / max(lowest, FLOOR))
        free[node] = False
        h = h + solution[:, node]
    return worst


@pytest.fixture
def speculative(monkeypatch):
    """Every component counts as large."""
    monkeypatch.setattr(fast_greedy, "_LARGE", -1)
    monkeypatch.setattr(fast_greedy, "_WORTH_A_BLOCK", 0)


def check_random_graph(seed: int, alpha: float) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 60))
    graph, order = random_graph(n, rng.uniform(0, 0.2), seed), rng.permutation(n)
    num_labeled = int(rng.integers(0, n // 2 + 1))
    labeled, candidates = order[:num_labeled], order[num_labeled : num_labeled + int(rng.integers(1, n - num_labeled + 1))]
    picks = joint_label_propagation(graph, labeled, len(candidates), candidates=candidates, alpha=alpha, rng=rng)
    assert sorted(picks.tolist()) == sorted(candidates.tolist())
    assert worst_excess(graph, labeled, picks, candidates, alpha) < 1e-7


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), alpha=st.sampled_from([0.1, 0.5, 0.9, 0.99, 0.999]))
def test_every_pick_is_the_minimum_of_a_dense_solution(seed, alpha):
    check_random_graph(seed, alpha)


@pytest.mark.parametrize("seed", range(12))
def test_every_guessed_pick_too(speculative, seed):
    check_random_graph(seed, (0.5, 0.9, 0.99)[seed % 3])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["smooth", "clustered", "manifold"])
def test_both_paths_are_the_dense_loop_on_neighbour_graphs(monkeypatch, kind, mode):
    graph = affinity(make_features(kind, 900), 8, mode=mode)
    labeled, candidates = np.arange(0, 90, 3), np.arange(100, 900)
    plain = joint_label_propagation(graph, labeled, 250, candidates=candidates)
    monkeypatch.setattr(fast_greedy, "_LARGE", 500)
    # Short lists: they run out, and are made again.
    monkeypatch.setattr(fast_large, "_SHORT_LIST", 100)
    guessed = joint_label_propagation(graph, labeled, 250, candidates=candidates)
    assert guessed.tolist() == plain.tolist()
    assert worst_excess(graph, labeled, plain, candidates) < 1e-7


def ring(n: int, reach: int) -> sp.csr_array:
    """Every node joined to the `reach` next ones on both sides: similarities fall by factors beyond what solving can tell."""
    offsets = [offset for step in range(1, reach + 1) for offset in (step, -step, n - step, step - n)]
    return sp.diags_array([1.0] * len(offsets), offsets=offsets, shape=(n, n)).tocsr()


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("graph", [ring(700, 1), ring(700, 4), sp.diags_array([1.0, 1.0], offsets=[1, -1], shape=(500, 500)).tocsr()])
def test_what_is_far_beyond_the_reach_of_solving_is_as_good_as_unreached(monkeypatch, graph, large):
    if large:
        monkeypatch.setattr(fast_greedy, "_LARGE", -1)
        monkeypatch.setattr(fast_greedy, "_WORTH_A_BLOCK", 0)
        monkeypatch.setattr(fast_large, "_SHORT_LIST", 100)
    picks = joint_label_propagation(graph, [0], 60)
    assert len(set(picks.tolist())) == 60
    # Of values just above the floor, solving knows three digits.
    assert worst_excess(graph, [0], picks, np.arange(1, graph.shape[0])) < 2e-3


@pytest.mark.parametrize("seed", range(3))
def test_clusters_that_nothing_but_rounding_joins(seed):
    """Nearly orthogonal ones, smaller than k: those of a trained network. Nine have a label; the picks begin in the tenth."""
    rng = np.random.default_rng(seed)
    classes = np.arange(300) % 10
    graph = affinity(np.eye(10)[classes] + 1e-6 * np.abs(rng.standard_normal((300, 10))), 50)
    picks = joint_label_propagation(graph, np.arange(9), 30)
    assert classes[picks[0]] == 9 and worst_excess(graph, np.arange(9), picks, np.arange(9, 300)) < 1e-7


def test_guessing_is_used_and_saves_solves(monkeypatch):
    graph, blocks = affinity(make_features("smooth", 3000), 25, mode="sum"), []
    columns = fast_block.BlockSolver.columns

    def counted(self, nodes):
        blocks.append(len(nodes))
        return columns(self, nodes)

    monkeypatch.setattr(fast_block.BlockSolver, "columns", counted)
    picks = joint_label_propagation(graph, np.arange(30), 300)
    assert 300 / 64 <= len(blocks) < 30
    assert worst_excess(graph, np.arange(30), picks, np.arange(30, 3000)) < 1e-7


def test_a_wrong_idea_of_the_spectrum_is_noticed(speculative, monkeypatch):
    """The mutual graph of few neighbours has eigenvalues near -1; the solver is told that they end at -0.1."""
    graph = affinity(make_features("smooth", 900), 3, mode="mutual")
    init = fast_block.BlockSolver.__init__
    monkeypatch.setattr(fast_block.BlockSolver, "__init__", lambda self, part, alpha, lowest, *rest: init(self, part, alpha, -0.1, *rest))
    picks = joint_label_propagation(graph, [0, 1], 100)
    assert worst_excess(graph, [0, 1], picks, np.arange(2, 900)) < 1e-7


# ------------------------------------------------------------------------------------- the coarse graph, and columns


def make_part(kind: str, n: int = 900, k: int = 12) -> Part:
    graph = Graph(affinity(make_features(kind, n), k, mode="sum"))
    assert graph.num_components == 1
    return Part(graph.matrix.indptr, graph.matrix.indices, graph.matrix.data, graph.top)


def dense(part: Part) -> np.ndarray:
    return sp.csr_array((part.data, part.indices, part.indptr)).toarray()


@pytest.mark.parametrize("kind", ["smooth", "manifold"])
def test_aggregates_share_out_the_nodes(kind):
    part = make_part(kind)
    member = kernels.aggregate(part.indptr, part.indices, part.data, 0.6)
    sizes = np.bincount(member)
    assert sizes.min() >= 2 and sizes.sum() == 900
    for number in range(len(sizes)):
        inside = sp.csr_array(dense(part)[np.ix_(member == number, member == number)])
        assert sp.csgraph.connected_components(inside)[0] == 1


@pytest.mark.parametrize("most", [2000, 10, 1])
@pytest.mark.parametrize("kind", ["smooth", "manifold"])
def test_the_coarse_space_has_the_top_eigenvector_and_is_solved(monkeypatch, kind, most):
    monkeypatch.setattr(fast_coarse, "_MOST", most)
    part = make_part(kind)
    coarse = fast_coarse.Coarse(part, 0.99)
    basis = coarse.basis.toarray().astype(np.float64)
    assert 1 <= basis.shape[1] <= most
    weights = np.linalg.lstsq(basis, part.top)[0]
    np.testing.assert_allclose(basis @ weights, part.top, atol=1e-6)
    # What is left of any residual is orthogonal to the coarse space.
    residual = np.random.default_rng(0).standard_normal((900, kernels.WIDTH)).astype(np.float32)
    x = np.zeros_like(residual)
    coarse.correct(x, residual)
    left = residual - (x - 0.99 * dense(part) @ x)
    assert np.abs(basis.T @ left).max() < 1e-3 * np.abs(basis.T @ residual).max()


@pytest.mark.parametrize("kind", ["smooth", "manifold"])
def test_the_model_of_a_column_is_near_it(kind):
    part = make_part(kind, 3000, 25)
    coarse, weights, solution = fast_coarse.Coarse(part, 0.99), dense(part), np.linalg.inv(np.eye(3000) - 0.99 * dense(part))
    for node in (0, 1234, 2999):
        near = 0.99 * weights[node]
        model = near + coarse.basis @ (coarse.inverse @ (coarse.basis.T @ (0.99 * weights @ near)))
        away = np.arange(3000) != node
        assert np.linalg.norm((model - solution[node])[away]) < 0.1 * np.linalg.norm(solution[node][away])


def test_the_greedy_ahead_uses_that_model():
    """All values start equal but for the first: the second pick is the lowest of the first one's modelled column."""
    part = make_part("manifold")
    coarse, basis = fast_coarse.Coarse(part, 0.99), fast_coarse.Coarse(part, 0.99).basis
    values, nodes, unknown = np.ones(900), np.arange(900), np.full(900, -1)
    values[7] = 0.5
    found = kernels.greedy_ahead(
        part.indptr, part.indices, part.data, 0.99, basis.indptr, basis.indices, basis.data, coarse.inverse,
        nodes, nodes.astype(np.int32), values, unknown, np.zeros((900, 1), np.float32), 2,
    )  # fmt: skip
    near = 0.99 * dense(part)[7]
    model = near + basis @ (coarse.inverse @ (basis.T @ (0.99 * dense(part) @ near)))
    model[7] = np.inf
    assert found[0] == 7
    assert model[found[1]] == pytest.approx(model.min(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("most", [2000, 1])
@pytest.mark.parametrize("kind", ["smooth", "manifold"])
def test_columns_are_those_of_the_inverse_however_coarse_the_graph(monkeypatch, kind, most):
    monkeypatch.setattr(fast_coarse, "_MOST", most)
    part, nodes = make_part(kind), np.array([5, 899, 300])
    solution = np.linalg.inv(np.eye(900) - 0.99 * dense(part))[:, nodes]
    solver = fast_block.BlockSolver(part, 0.99, -1.0, 0.999)
    columns, norms = solver.columns(nodes)
    np.testing.assert_allclose(columns[:, :3], solution, rtol=2e-4, atol=2e-6)
    assert not columns[:, 3:].any()
    assert norms.max() <= 2e-6 * np.linalg.norm(solution, axis=0).max()
    if most == 1:
        assert solver.cut > fast_block._CUT


# --------------------------------------------------------------------------------------------- by hand, and order


def star(leaves: int) -> sp.csr_array:
    weights = np.zeros((leaves + 1, leaves + 1))
    weights[0, 1:] = weights[1:, 0] = 1
    return sp.csr_array(weights)


def complete_graph(n: int) -> sp.csr_array:
    return sp.csr_array(np.ones((n, n)) - np.eye(n))


@pytest.mark.parametrize("large", [False, True])
def test_a_path_is_picked_at_its_far_end(monkeypatch, large):
    if large:
        monkeypatch.setattr(fast_greedy, "_LARGE", -1)
        monkeypatch.setattr(fast_greedy, "_WORTH_A_BLOCK", 0)
    path = sp.diags_array([np.ones(8), np.ones(8)], offsets=[-1, 1]).tocsr()
    assert joint_label_propagation(path, [0], 1).tolist() == [8]
    # Both ends labelled: the middle has the least of both.
    assert joint_label_propagation(path, [0, 8], 1, alpha=0.9).tolist() == [4]


def test_the_centre_of_a_star_is_picked_last():
    for seed in range(5):
        picks = joint_label_propagation(star(6), [1], 6, rng=np.random.default_rng(seed))
        assert picks[-1] == 0 and sorted(picks.tolist()) == [0, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("large", [False, True])
def test_ties_follow_the_order_that_is_drawn(monkeypatch, large):
    """In a complete graph, alone or twice, all are equal at all times, up to rounding."""
    if large:
        monkeypatch.setattr(fast_greedy, "_LARGE", -1)
        monkeypatch.setattr(fast_greedy, "_WORTH_A_BLOCK", 0)
    firsts = set()
    for seed in range(6):
        picks = joint_label_propagation(complete_graph(12), [5], 11, rng=np.random.default_rng(seed))
        assert picks.tolist() == np.random.default_rng(seed).permutation(np.delete(np.arange(12), 5)).tolist()
        twice = sp.block_diag([complete_graph(6)] * 2).tocsr()
        picks = joint_label_propagation(twice, [0, 6], 10, rng=np.random.default_rng(seed)).tolist()
        assert picks[0] == np.random.default_rng(seed).permutation(np.delete(np.arange(12), [0, 6]))[0]
        # A pick raises its own component: the next is in the other one.
        assert all((a < 6) != (b < 6) for a, b in zip(picks[::2], picks[1::2], strict=True))
        firsts.add(picks[0])
    assert len(firsts) > 2


def test_components_without_label_come_first_one_pick_each():
    graph = sp.block_diag([complete_graph(5), complete_graph(4), sp.csr_array((1, 1)), complete_graph(6)]).tocsr()
    part = np.repeat([0, 1, 2, 3], [5, 4, 1, 6])
    orders = set()
    for seed in range(10):
        picks = joint_label_propagation(graph, [2], 8, rng=np.random.default_rng(seed))
        orders.add(tuple(part[picks[:3]].tolist()))
        assert sorted(part[picks[:3]].tolist()) == [1, 2, 3]
    assert len(orders) > 2


def test_without_labels_the_first_pick_is_the_first_of_the_order():
    graph = affinity(make_features("manifold", 300), 10, mode="union")
    for seed in range(3):
        picks = joint_label_propagation(graph, [], 20, rng=np.random.default_rng(seed))
        assert picks[0] == np.random.default_rng(seed).permutation(300)[0]
        assert worst_excess(graph, [], picks, np.arange(300)) < 1e-7


def test_without_diffusion_all_are_equal():
    picks = joint_label_propagation(complete_graph(9), [1], 8, alpha=0, rng=np.random.default_rng(3))
    assert picks.tolist() == np.random.default_rng(3).permutation(np.delete(np.arange(9), 1)).tolist()


@settings(max_examples=15, deadline=None)
@given(scale=st.sampled_from([1e-6, 0.1, 1e6]), seed=st.integers(0, 99))
def test_scale_and_node_numbers_do_not_matter(scale, seed):
    graph, rng = random_graph(40, 0.2, seed), np.random.default_rng(seed)
    graph = sp.block_array([[None, np.ones((1, 40))], [np.ones((40, 1)), graph]]).tocsr()  # one component: no random picks
    picks = joint_label_propagation(graph, [0, 1], 15)
    assert joint_label_propagation(graph * scale, [0, 1], 15).tolist() == picks.tolist()
    order = rng.permutation(41)
    moved = joint_label_propagation(graph[order][:, order], np.argsort(order)[[0, 1]], 15)
    assert order[moved].tolist() == picks.tolist()


@pytest.mark.parametrize("tol", [1e-8, 1e-4, 1e-2])
def test_the_tolerance_moves_work_and_no_pick(monkeypatch, tol):
    graph, refine, limits = affinity(make_features("smooth", 900), 8, mode="sum"), fast_large.refine, []
    monkeypatch.setattr(fast_greedy, "_LARGE", 500)
    monkeypatch.setattr(fast_large, "refine", lambda *given: (limits.append(given[4]), refine(*given)))
    joint_label_propagation(graph, np.arange(30), 120)
    usual = len(limits)
    picks = joint_label_propagation(graph, np.arange(30), 120, tol=tol)
    assert worst_excess(graph, np.arange(30), picks, np.arange(30, 900)) < 1e-7
    # A tight one solves again after every few picks, a loose one has near-ties to solve.
    assert limits[usual] == pytest.approx(tol / 10) and len(limits) > 2 * usual


def test_a_stored_zero_is_no_edge():
    two = sp.block_diag([complete_graph(4), complete_graph(4)]).tolil()
    joined = two.tocoo()
    stored = sp.coo_array((np.append(joined.data, [0, 0]), (np.append(joined.row, [0, 7]), np.append(joined.col, [7, 0]))), (8, 8))
    assert joint_label_propagation(stored.tocsr(), [0], 7).tolist() == joint_label_propagation(two.tocsr(), [0], 7).tolist()


def test_default_rng_and_inputs_left_alone():
    graph = affinity(make_features("smooth", 200), 5)
    before = graph.copy()
    picks = joint_label_propagation(graph, [0], 50)
    assert picks.dtype == np.int64 and (graph != before).nnz == 0
    assert picks.tolist() == joint_label_propagation(graph, [0], 50, rng=np.random.default_rng(0)).tolist()
    assert picks.tolist() == joint_label_propagation(sp.coo_matrix(graph), [0], 50).tolist()
    assert picks[:20].tolist() == joint_label_propagation(graph, [0], 20).tolist()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda g: joint_label_propagation(g.toarray(), [0], 1), "affinity: expected a scipy sparse array"),
        (lambda g: joint_label_propagation(g[:, :4], [0], 1), r"affinity: expected shape \(N, N\)"),
        (lambda g: joint_label_propagation(-g, [0], 1), r"affinity: negative: \[0, 1\] is -1"),
        (lambda g: joint_label_propagation(sp.triu(g), [0], 1), r"affinity: not symmetric: \[0, 1\] is 1, \[1, 0\] is 0"),
        (lambda g: joint_label_propagation(g * np.inf, [0], 1), "affinity: not finite"),
        (lambda g: joint_label_propagation(g * 1e308, [0], 1), "affinity: the sum of row 0 is not finite"),
        (lambda g: joint_label_propagation(g + sp.eye_array(5), [0], 1), "affinity: the diagonal must be zero"),
        (lambda g: joint_label_propagation(g, [0], 5), "budget: 5, expected an integer from 1 to the 4 candidates"),
        (lambda g: joint_label_propagation(g, [0], 3, candidates=[1, 2]), "budget: 3, expected an integer from 1 to the 2"),
        (lambda g: joint_label_propagation(g, [0], 0), "budget: 0"),
        (lambda g: joint_label_propagation(g, [0], 1.5), "budget: 1.5"),
        (lambda g: joint_label_propagation(g, [5], 1), "labeled: index 5 outside the 5 rows of affinity"),
        (lambda g: joint_label_propagation(g, [0, 0], 1), "labeled: more than once: index 0"),
        (lambda g: joint_label_propagation(g, [0], 1, candidates=[0, 1]), "candidates: labelled already: index 0"),
        (lambda g: joint_label_propagation(g, [0], 1, candidates=[-1]), "candidates: index -1 outside"),
        (lambda g: joint_label_propagation(g, [0], 1, candidates=[1, 1]), "candidates: more than once: index 1"),
        (lambda g: joint_label_propagation(g, [0], 1, alpha=1), "alpha: 1, expected"),
        (lambda g: joint_label_propagation(g, [0], 1, alpha=-1), "alpha: -1, expected"),
        (lambda g: joint_label_propagation(g, [0], 1, tol=0.1), "tol: 0.1, expected a number from 1e-08 to 0.01"),
        (lambda g: joint_label_propagation(g, [0], 1, tol=float("nan")), "tol: nan, expected"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(call, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        call(complete_graph(5))
    assert "\n" not in str(error.value)
