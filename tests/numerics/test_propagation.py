"""The product with a graph: scipy's, to the bit, for any number of columns in any order in memory."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

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
