"""The accuracy of the neighbour graph, as an analysis: what it keeps and what it says."""

from __future__ import annotations

import numpy as np
import pytest
from usb_active.plugins.revival.analyses import GraphAccuracy
from usb_active.plugins.revival.functional import agreeing_edges, neighbor_graph

from usb_active.errors import UsageError
from usb_active.testing.contract import made
from usb_active.testing.pool import PER_CLASS, World


def plugin(folder, **keys):
    analysis = made("analysis", {"name": "graph_accuracy", **keys})
    analysis.folder = folder
    return analysis


def observed(tmp_path, *, simulated=True, **keys):
    """The view and what the analysis kept of it."""
    world, analysis = World(tmp_path), plugin(tmp_path / "analysis", **keys)
    (tmp_path / "analysis").mkdir()
    view = world.view(analysis.needs, made("features", "model"), cycle=2, role="analysis")
    view._source.simulated = simulated
    analysis.on_interval(view)
    with np.load(tmp_path / "analysis" / "graph_002.npz") as found:
        return view, {name: found[name].item() for name in found.files}, analysis


def test_with_the_truth_all_edges_count(tmp_path):
    view, found, _ = observed(tmp_path, k=6)
    agreeing, edges = agreeing_edges(neighbor_graph(view.features, 6), np.arange(60) // PER_CLASS)
    assert found == {"agreeing": agreeing, "edges": edges, "all_known": True, "labels": 6, "k": 6}
    assert 0 < agreeing < edges


def test_without_it_those_between_labelled_samples(tmp_path):
    view, found, analysis = observed(tmp_path, simulated=False, k=500)
    # The graph is complete: of the 15 pairs of six labelled samples, two of each class, three agree.
    assert (found["agreeing"], found["edges"], found["all_known"]) == (3, 15, False)
    text = analysis.report(None, tmp_path / "out")
    assert "Edges between two samples of known class count." in text and "| 2 | 6 | 15 | 20.00 |" in text


def test_where_part_of_the_truth_is_not_known_not_all_edges_are_said_to_count(tmp_path, monkeypatch):
    hidden = np.arange(5)
    original = World.__init__

    def partly_known(world, folder, **keys):
        original(world, folder, **keys)
        world.dataset.targets[hidden] = -1

    monkeypatch.setattr(World, "__init__", partly_known)
    view, found, analysis = observed(tmp_path, k=6)
    truth = np.where(np.isin(np.arange(60), hidden), -1, np.arange(60) // PER_CLASS)
    graph = neighbor_graph(view.features, 6)
    assert (found["agreeing"], found["edges"]) == agreeing_edges(graph, truth) and found["edges"] < graph.nnz // 2
    assert not found["all_known"] and "All edges" not in analysis.report(None, tmp_path / "out")


def test_a_graph_of_fewer_samples_than_k_says_how_many_it_joins(tmp_path):
    _, found, analysis = observed(tmp_path, k=500)
    assert found["k"] == 60 and "each sample to its 59 nearest" in analysis.report(None, tmp_path / "out")


def test_a_report_has_a_row_for_each_cycle_in_their_order(tmp_path):
    folder = tmp_path / "analysis"
    folder.mkdir()
    for cycle, agreeing in ((10, 4), (2, 3), (0, 0)):
        values = {"agreeing": agreeing, "edges": 4 if cycle else 0, "all_known": True, "labels": 20 + cycle, "k": 20}
        np.savez(folder / f"graph_{cycle:03d}.npz", **values)
    text = plugin(folder).report(None, tmp_path / "out")
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert rows == ["| 0 | 20 | 0 | – |", "| 2 | 22 | 4 | 75.00 |", "| 10 | 30 | 4 | 100.00 |"]
    assert "its 19 nearest" in text and "All edges count." in text


def test_it_looks_once_after_the_last_step():
    from types import SimpleNamespace

    analysis = GraphAccuracy()
    assert analysis.interval is None
    analysis.setup(SimpleNamespace(num_train_iter=37))
    assert analysis.interval == 37


@pytest.mark.parametrize(
    ("samples", "classes", "message"), [(60, 0, "labels of this data set are no classes"), (1, 3, "1 sample has no edge")]
)
def test_what_has_no_graph_or_no_classes_is_refused(samples, classes, message):
    with pytest.raises(UsageError, match=message):
        GraphAccuracy().check(samples, classes)


def test_bad_keys_are_named(tmp_path):
    with pytest.raises(UsageError, match="active.analysis.k"):
        plugin(tmp_path, k=1)
