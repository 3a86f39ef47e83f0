"""The product with a graph: scipy's, to the bit, for any number of columns in any order in memory. What is solved: as densely."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from usb_active.numerics.neighbors import affinity
from usb_active.numerics.propagation import cg, kernels, label_matrix
from usb_active.numerics.propagation import graph as graphs
from usb_active.numerics.propagation.cg import solve
from usb_active.numerics.propagation.graph import Graph


def graph(size: int = 40, density: float = 0.2) -> sp.csr_array:
    rng = np.random.default_rng(0)
    upper = np.triu(rng.random((size, size)) * (rng.random((size, size)) < density), 1)
    return sp.csr_array(upper + upper.T)


@pytest.mark.parametrize("columns", [0, 1, 2, 3, 7, 8, 9, 11, 16, 33])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_product_is_scipys(columns, order):
    made = Graph(graph())
    x = np.asarray(np.random.default_rng(1).standard_normal((40, columns)), order=order)
    np.testing.assert_array_equal(made.product(x), made.matrix @ x)


def test_some_columns_of_an_array_are_as_good():
    made, x = Graph(graph()), np.random.default_rng(1).standard_normal((40, 12))
    some = x[:, np.arange(12) % 3 > 0]
    np.testing.assert_array_equal(made.product(some), made.product(x)[:, np.arange(12) % 3 > 0])


def test_a_node_without_edges_gets_nothing():
    affinity = graph().tolil()
    affinity[7, :] = affinity[:, 7] = 0
    assert (Graph(affinity.tocsr()).product(np.ones((40, 5)))[7] == 0).all()


def two_parts() -> sp.csr_array:
    return sp.csr_array(sp.block_diag([graph(30), graph(25)]))


def exact(made: Graph, y: np.ndarray, alpha: float) -> np.ndarray:
    return np.linalg.solve(np.eye(made.size) - alpha * made.matrix.toarray(), y)


@pytest.mark.parametrize("columns", [1, 2, 10, 40])
@pytest.mark.parametrize("tol", [1e-4, 1e-12])
def test_columns_solved_together_are_those_of_a_dense_solution(columns, tol):
    made, y = Graph(graph(80, 0.1)), np.random.default_rng(3).random((80, columns))
    x = solve(made, y, 0.99, tol, None)
    residual = np.linalg.norm(y - made.system(x, 0.99), axis=0)
    assert (residual <= 1.001 * tol * np.linalg.norm(y, axis=0) + 1e-14).all()
    np.testing.assert_allclose(x, exact(made, y, 0.99), atol=200 * tol * np.linalg.norm(y))


def test_columns_that_depend_on_each_other_are_solved_all_the_same():
    made, y = Graph(graph(60)), np.zeros((60, 6))
    y[:, :2] = np.random.default_rng(3).random((60, 2))
    # A copy, a sum, nothing, and next to nothing.
    y[:, 2], y[:, 3], y[:, 5] = y[:, 0], y[:, 0] + y[:, 1], 1e-30 * y[:, 1]
    x = solve(made, y, 0.9, 1e-8, None)
    np.testing.assert_allclose(x[:, :4], exact(made, y, 0.9)[:, :4], rtol=1e-6)
    assert (x[:, 4] == 0).all()
    np.testing.assert_allclose(x[:, 5] * 1e30, x[:, 1], rtol=1e-6)


def ten_classes(size: int = 600) -> tuple[sp.csr_array, np.ndarray]:
    """A connected graph of neighbours among ten classes that overlap, and five labels of each."""
    rng = np.random.default_rng(0)
    inner = 3 * rng.standard_normal((10, 16))[np.arange(size) % 10] + 1.5 * rng.standard_normal((size, 16))
    made = affinity(np.maximum(inner @ rng.standard_normal((16, 64)), 0) + 1e-3, 20, mode="union")
    assert sp.csgraph.connected_components(made)[0] == 1
    return made, label_matrix(size, np.arange(50), np.arange(50) % 10, 10)


def products(monkeypatch, made: Graph, y: np.ndarray, start: np.ndarray | None = None) -> tuple[int, int]:
    """How many columns are multiplied by the graph to solve y together, and column by column. That it is solved is seen to."""
    counted = [0]

    def counting(name: str, columns) -> None:
        real = getattr(Graph, name)

        def call(self, x, *rest):
            counted[0] += columns(x)
            return real(self, x, *rest)

        monkeypatch.setattr(Graph, name, call)

    with monkeypatch.context() as monkeypatch:
        counting("product", lambda x: x.shape[1])
        counting("system_column", lambda x: 1)
        x = solve(made, y, 0.99, 1e-6, start)
        together, counted[0] = counted[0], 0
        for column in range(y.shape[1]):
            solve(made, y[:, [column]], 0.99, 1e-6, None if start is None else start[:, [column]])
        alone = counted[0]
    assert (np.linalg.norm(y - made.system(x, 0.99), axis=0) <= 1.001e-6 * np.linalg.norm(y, axis=0)).all()
    return together, alone


def test_columns_together_take_far_fewer_products_than_one_by_one(monkeypatch):
    made, y = ten_classes()
    together, alone = products(monkeypatch, Graph(made), y)
    # Measured: 0.46.
    assert together < 0.6 * alone


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_label_in_a_component_of_its_own_costs_the_others_nothing(size, monkeypatch):
    made, y = ten_classes()
    before = products(monkeypatch, Graph(made), y)[0]
    apart = sp.csr_array(np.ones((size, size)) - np.eye(size))
    wider = np.zeros((600 + size, 11))
    wider[:600, :10], wider[600, 10] = y, 1
    together, alone = products(monkeypatch, Graph(sp.csr_array(sp.block_diag([made, apart]))), wider)
    assert together <= before + 11 and together < 0.75 * alone


@pytest.mark.parametrize("change", [0, 1e-7])
def test_a_copied_column_costs_the_others_nothing(change, monkeypatch):
    made, y = ten_classes()
    before = products(monkeypatch, Graph(made), y)[0]
    together, alone = products(monkeypatch, Graph(made), np.column_stack([y, y[:, 0] + change * y[:, 1], y[:, 2] + y[:, 3]]))
    assert together <= before + 12 and together < 0.75 * alone


def test_columns_that_a_start_has_solved_cost_the_others_nothing(monkeypatch):
    made, y = ten_classes()
    start = solve(Graph(made), y, 0.99, 1e-9, None)
    y[np.arange(50, 57), np.arange(7)] = 1
    together, alone = products(monkeypatch, Graph(made), y, start)
    # Ten of each are to see what is left of the start.
    assert together < 0.75 * alone
    assert products(monkeypatch, Graph(made), y, solve(Graph(made), y, 0.99, 1e-9, None)) == (10, 10)


def test_columns_all_but_dependent_are_solved_to_the_last_digit():
    made, y = Graph(graph(60)), np.random.default_rng(3).random((60, 4))
    y[:, 1], y[:, 2] = y[:, 0] + 1e-6 * y[:, 1], y[:, 0] + 1e-9 * y[:, 2]
    x = solve(made, y, 0.99, 1e-12, None)
    assert (np.linalg.norm(y - made.system(x, 0.99), axis=0) <= 2e-12 * np.linalg.norm(y, axis=0)).all()


def test_what_no_source_reaches_is_exactly_zero():
    y = np.zeros((55, 3))
    y[3, 0] = y[7, 1] = y[40, 2] = 1
    x = solve(Graph(two_parts()), y, 0.99, 1e-8, np.ones((55, 3)))
    assert (x[30:, :2] == 0).all() and (x[:30, 2] == 0).all() and (x[:30, 0] != 0).all()


def test_another_order_of_the_nodes_changes_nothing_but_their_order(monkeypatch):
    made, y = Graph(two_parts()), np.random.default_rng(1).random((55, 4))
    order = made.near_order()
    assert sorted(order) == list(range(55))
    other = made.reordered(order)
    np.testing.assert_array_equal(other.matrix.toarray(), made.matrix.toarray()[np.ix_(order, order)])
    np.testing.assert_allclose(other.project_top(y[order]), made.project_top(y)[order], atol=1e-15)
    before = solve(made, y, 0.99, 1e-10, None)
    monkeypatch.setattr(cg, "_WORTH_AN_ORDER", 1)
    np.testing.assert_allclose(solve(made, y, 0.99, 1e-10, None), before, rtol=1e-6)
    # A start is put in the same order: the solution is recognised as one.
    monkeypatch.setattr(cg, "iterate_block", None)
    np.testing.assert_allclose(solve(made, y, 0.99, 1e-8, before), before, rtol=1e-6)


def test_a_node_with_very_many_neighbours_ends_the_search_for_an_order(monkeypatch):
    hub = np.zeros((55, 55))
    hub[0, 1:] = hub[1:, 0] = 1
    made, y = Graph(sp.csr_array(hub)), np.random.default_rng(1).random((55, 4))
    monkeypatch.setattr(cg, "_WORTH_AN_ORDER", 1)
    monkeypatch.setattr(graphs, "_MOST_NEIGHBORS", 54)
    assert made.near_order() is not None
    monkeypatch.setattr(graphs, "_MOST_NEIGHBORS", 53)
    assert made.near_order() is None
    np.testing.assert_allclose(solve(made, y, 0.99, 1e-10, None), exact(made, y, 0.99), rtol=1e-6)


def test_weights_in_single_precision_are_solved_to_the_tolerance():
    """Of the graph as it is written: normalised in double precision."""
    rng = np.random.default_rng(0)
    upper = np.triu(rng.random((400, 400), np.float32), 1)
    affinity, y = sp.csr_array(upper + upper.T), rng.random((400, 3))
    table = affinity.toarray().astype(np.float64)
    scale = 1 / np.sqrt(table.sum(axis=1))
    x = solve(Graph(affinity), y, 0.999, 1e-6, None)
    residual = y - x + 0.999 * (scale[:, None] * table * scale) @ x
    assert affinity.dtype == np.float32
    assert (np.linalg.norm(residual, axis=0) <= 1.001e-6 * np.linalg.norm(y, axis=0)).all()


def test_one_column_is_the_product_of_many():
    made, x, out = Graph(graph()), np.random.default_rng(1).standard_normal(40), np.empty(40)
    made.system_column(x, 0.9, out)
    np.testing.assert_allclose(out, made.system(x[:, None], 0.9)[:, 0], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("density", [0.01, 0.05, 0.3])
def test_components_are_scipys(density):
    made = graph(60, density)
    count, component = kernels.components(made.indptr, made.indices)
    wanted = sp.csgraph.connected_components(made, directed=False)
    assert count == wanted[0] and np.array_equal(component, wanted[1])


@pytest.mark.parametrize(
    ("place", "value"),
    [((3, 8), np.nan), ((3, 8), np.inf), ((3, 8), -1.0), ((3, 8), 0.5), ((8, 3), 0.5), ((4, 4), 1.0), ((0, 39), 0.5), ((39, 0), 0.5)],
)
def test_what_is_no_affinity_is_seen(place, value):
    table = np.zeros((40, 40))
    table[3, 8] = table[8, 3] = table[1, 2] = table[2, 1] = 0.7
    good = sp.csr_array(table)
    assert kernels.is_plain(good.indptr, good.indices, good.data, 1e-6)
    table[place] = value
    bad = sp.csr_array(table)
    assert not kernels.is_plain(bad.indptr, bad.indices, bad.data, 1e-6)
    with pytest.raises(ValueError, match="affinity"):
        Graph(bad)


def test_a_good_graph_is_looked_at_once(monkeypatch):
    monkeypatch.setattr(graphs, "_check_weights", None)
    monkeypatch.setattr(graphs, "find_asymmetry", None)
    for good in (graph(), graph().astype(np.float32), two_parts(), sp.csr_array((3, 3))):
        assert Graph(good).size == good.shape[0]


@pytest.mark.parametrize("place", [(29, 0), (0, 29), (29, 10), (39, 38), (0, 1)])
def test_of_an_asymmetry_the_pair_itself_is_named(place):
    """Not one that is looked at when its place is missed."""
    table = np.zeros((40, 40))
    table[10, 20:] = table[20:, 10] = 0.41
    table[place] = 0.7
    with pytest.raises(ValueError, match="affinity: not symmetric") as caught:
        Graph(sp.csr_array(table))
    values = {f"[{row}, {column}] is {table[row, column]:.6g}" for row, column in (place, place[::-1])}
    assert set(str(caught.value).removeprefix("affinity: not symmetric: ").replace(", [", "; [").split("; ")) == values
