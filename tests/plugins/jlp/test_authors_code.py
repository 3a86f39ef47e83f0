"""Graph, propagated labels, their weights and the picks of jLP are those of its authors' public code, on small arrays made here.

That code was run outside of this repository, which holds its results alone (tests/authors_arrays.py): `LP.update_lp`, `apply_LP` and
`JLPSelection` of github.com/osimeoni/RethinkingDeepActiveLearning at 8a0056f (2021-03-01), with faiss's index of the CPU in place of the
GPU's, and its `tol` as the relative tolerance of today's scipy. `DBSS.update_plabels` of github.com/ahmetius/LP-DeepSSL at dd3b4aa
(2020-06-11) gave the same labels and weights. Their 20 steps of conjugate gradient come near enough on 60 nodes.
"""

from __future__ import annotations

import numpy as np
import pytest
from authors_arrays import CLASSES, LABELED, LABELS, SIZE, K, features, outputs
from usb_active.plugins.jlp.functional import certainty, joint_label_propagation, propagate

from usb_active.numerics.neighbors import affinity

UNLABELED = np.setdiff1d(np.arange(SIZE), LABELED)


@pytest.fixture(scope="module")
def theirs():
    return outputs()


@pytest.fixture(scope="module")
def graph():
    """A + Aᵀ with weights cos³, as in their code."""
    return affinity(features(), K, 3, "sum")


def test_the_graph_has_their_edges_and_weights(theirs, graph):
    dense = graph.toarray()
    assert np.array_equal(dense, dense.T)
    rows, columns = np.nonzero(np.triu(dense))
    assert np.array_equal([rows, columns], theirs["jlp_edges"])
    # Theirs are in single precision.
    np.testing.assert_allclose(dense[rows, columns], theirs["jlp_edge_weights"], rtol=2e-6)
    # Reciprocal edges are counted twice, others once: both kinds are there.
    union = affinity(features(), K, 3, "union").toarray()[rows, columns]
    assert set(np.rint(dense[rows, columns] / union)) == {1, 2}


def test_labels_weighted_by_class_are_theirs(theirs, graph):
    """Their `y_pooling='mean'`: the labels of a class share a one."""
    rows = propagate(graph, LABELED, LABELS, CLASSES, weighting="class")
    assert np.array_equal(rows.argmax(axis=1), theirs["jlp_labels"])
    weights = certainty(rows)
    weights /= weights.max()
    np.testing.assert_allclose(weights[UNLABELED], theirs["jlp_weights"][UNLABELED], atol=1e-4)


def test_labels_weighted_alike_are_theirs(theirs, graph):
    """`apply_LP`, where every label is a one (Eq. 8); its sums are of (I − αW)⁻¹ Y, not divided."""
    rows = propagate(graph, LABELED, LABELS, CLASSES, weighting="label")
    sums = np.maximum(theirs["jlp_sums"], 0)
    np.testing.assert_allclose(rows, sums / sums.sum(axis=1, keepdims=True), atol=1e-4)
    by_class = propagate(graph, LABELED, LABELS, CLASSES, weighting="class")
    assert np.abs(rows - by_class).max() > 0.1, "the classes have different numbers of labels, so the two must differ"


def test_joint_label_propagation_picks_what_theirs_picks(theirs, graph):
    picks = joint_label_propagation(graph, LABELED, len(theirs["jlp_picks"]), rng=np.random.default_rng(0))
    assert picks.tolist() == theirs["jlp_picks"].tolist()
