"""REVIVAL as an acquisition: the contract, its ablations, what it logs, and what it says of bad input."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from usb_active.plugins.revival import functional
from usb_active.plugins.revival.functional import Adversary, GcnSettings

from usb_active.errors import UsageError
from usb_active.loop.setup import check_needs
from usb_active.numerics.arrays import entropy
from usb_active.testing import AcquisitionContract
from usb_active.testing.pool import PER_CLASS, World

SHORT = {"k": 8, "hidden": 8, "epochs": 20}
SETTINGS = GcnSettings(hidden=8, epochs=20)


class TestRevival(AcquisitionContract):
    name = "revival"
    config = {**SHORT, "preselect": {"budgets": 2}}
    # The directions of the pushes, and the network's weights.
    deterministic = False
    # It learns from labels.
    initial = False

    @pytest.mark.parametrize(
        "keys",
        [{}, {"preselect": "auto"}, {"preselect": "all"}, {"preselect": {"share": 0.5}, "diversity": True}, {"weights": "binary", "k": 4}],
    )
    def test_picks_are_those_of_the_function(self, world, monkeypatch, keys):
        monkeypatch.setattr(type(self), "config", {**SHORT, "preselect": {"budgets": 2}, **keys})
        view = self.view(world, self.plugin())
        found = self.plugin().select(view, 6)
        again = self.view(world, self.plugin())
        expected = functional.select(
            again.features, again.labeled, again.labels, 3, 6, candidates=again.candidates, preselect=keys.get("preselect", {"budgets": 2}),
            k=keys.get("k", 8), settings=GcnSettings(hidden=8, epochs=20, weights=keys.get("weights", "similarity")),
            adversary=Adversary(), diversity=keys.get("diversity", False), rng=again.rng,
        )  # fmt: skip
        assert found.tolist() == expected.tolist()

    def test_what_was_found_is_logged(self, world):
        plugin = self.plugin()
        view = self.view(world, plugin)
        picks = plugin.select(view, 6)
        logged = view._source.metrics
        again = self.view(world, plugin)
        probs = functional.virtual_labels(again.features, again.labeled, again.labels, 3, k=8, settings=SETTINGS, rng=again.rng)
        free = world.pool.unlabeled
        assert logged["revival/preselected"] == 12 and logged["revival/mean_divergence"] > 0
        assert logged["revival/entropy_of_picks"] == pytest.approx(entropy(probs[picks]).mean())
        assert logged["revival/virtual_label_accuracy"] == pytest.approx((probs.argmax(axis=1)[free] == free // PER_CLASS).mean())

    def test_where_nothing_is_pushed_no_divergence_is_logged(self, world, monkeypatch):
        for preselect in ("all", {"budgets": 50}, {"share": 1}):
            monkeypatch.setattr(type(self), "config", {**SHORT, "preselect": preselect})
            plugin = self.plugin()
            view = self.view(world, plugin)
            plugin.select(view, 6)
            assert "revival/mean_divergence" not in view._source.metrics
            assert view._source.metrics["revival/preselected"] == len(view.candidates)

    def test_classes_without_a_label_are_named(self, world, caplog):
        gone = world.pool.labeled[world.pool.labeled // PER_CLASS == 1]
        world.pool.labels[gone] = -1
        assert len(self.pick(world, 6)) == 6
        assert "acquisition 'revival': cycle 1: no label yet of class 1: virtual labels hardly ever say so" in caplog.text

    def test_a_graph_without_edges_runs_and_is_said(self, world, monkeypatch, caplog):
        monkeypatch.setattr(type(self), "config", {**SHORT, "k": 1})
        assert len(self.pick(world, 6)) == 6
        assert "the graph has no edges (k: 1)" in caplog.text

    def test_a_pool_smaller_than_the_neighbourhood_is_said(self, world, monkeypatch, caplog):
        monkeypatch.setattr(type(self), "config", {**SHORT, "k": 500})
        assert len(self.pick(world, 5)) == 5
        assert "acquisition 'revival': k: 500, but there are only 60 samples: the graph joins all of them" in caplog.text
        caplog.clear()
        monkeypatch.setattr(type(self), "config", {**SHORT, "k": 60})
        assert len(self.pick(world, 5)) == 5 and "the graph joins" not in caplog.text

    def test_a_share_of_the_pool_below_the_budget_is_one_line(self, world, monkeypatch):
        monkeypatch.setattr(type(self), "config", {**SHORT, "preselect": {"share": 0.1}})
        with pytest.raises(UsageError, match="acquisition 'revival': preselect: a share of 0.1 of the 60 samples is 6, below .* of 9"):
            self.pick(world, 9)
        assert len(self.pick(world, 6)) == 6

    def test_without_labels_it_cannot_begin(self):
        with pytest.raises(UsageError, match="active.initial: 'revival' needs labels, and before the first query no sample is labelled"):
            check_needs({"initial": self.plugin()}, {"initial": self.source("pixels")}, None, False)

    def test_samples_without_a_direction_are_named(self, tmp_path):
        world = World(tmp_path)
        world.dataset.images[[3, 8]] = 0
        plugin = self.plugin()
        with pytest.raises(UsageError, match="acquisition 'revival': .*3, 8"):
            plugin.select(world.view(plugin.needs, self.source("pixels")), 5)


class TestHead(AcquisitionContract):
    """VAG+BL of Table 1: the task model's own predictions, pushed through its own head."""

    name = "revival"
    config = {"labels": "head", "preselect": {"budgets": 2}}
    deterministic = False
    initial = False

    def test_picks_are_by_the_task_models_entropy_among_those_that_move_most(self, world):
        plugin = self.plugin()
        view = self.view(world, plugin)
        found = plugin.select(view, 5)
        weight, bias = world.net.classifier.weight, world.net.classifier.bias
        head = lambda x: torch.nn.functional.linear(x, weight, bias)  # noqa: E731
        again = self.view(world, plugin)
        moved = functional.head_divergence(again.features, again.candidates, head, rng=again.rng)
        top = again.candidates[np.argsort(-moved)[:10]]
        assert found.tolist() == top[np.argsort(-entropy(again.probs[top]))[:5]].tolist()
        assert "revival/virtual_label_accuracy" not in view._source.metrics

    @pytest.mark.parametrize(
        "idle", [{"k": 10}, {"weights": "binary"}, {"hidden": 8}, {"lr": 0.1}, {"epochs": 20}, {"weight_decay": 0.0}, {"backend": "dgl"}]
    )
    def test_keys_of_the_graph_are_refused(self, monkeypatch, idle):
        monkeypatch.setattr(type(self), "config", {**self.config, **idle})
        with pytest.raises(UsageError, match=f"active.acquisition: {next(iter(idle))}: no effect with `labels: head`"):
            self.plugin()

    def test_a_run_directory_gives_all_keys_back(self):
        config = self.plugin().config
        assert type(config)(**config.model_dump()) == config

    def test_whether_a_push_is_relative_is_no_key_of_the_graph(self, world, monkeypatch):
        moved = []
        for unit in (True, False):
            monkeypatch.setattr(type(self), "config", {**self.config, "unit_features": unit})
            plugin = self.plugin()
            view = self.view(world, plugin)
            plugin.select(view, 5)
            moved.append(view._source.metrics["revival/mean_divergence"])
        assert moved[0] != moved[1]

    def test_features_of_another_source_are_refused(self, world):
        plugin = self.plugin()
        with pytest.raises(UsageError, match="use features: model"):
            plugin.select(world.view(plugin.needs, self.source("pixels")), 5)


class TestLimitatorAlone(AcquisitionContract):
    """LP+BL of Table 1."""

    name = "revival"
    config = {**SHORT, "preselect": "all"}
    deterministic = False
    initial = False


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"epsilon": 0}, "epsilon"), ({"epsilon": -1.0}, "epsilon"), ({"preselect": 1}, "preselect"), ({"preselect": "most"}, "preselect"),
        ({"k": 0}, "k"), ({"weights": "cosine"}, "weights"), ({"power_iterations": 0}, "power_iterations"), ({"score": "kl"}, "score"),
        ({"labels": "model"}, "labels"), ({"backend": "jax"}, "backend"), ({"epochs": 0}, "epochs"), ({"lr": 0}, "lr"),
        ({"lr": 1e38}, "lr"),
    ],
)  # fmt: skip
def test_bad_keys_are_named(keys, message):
    class Bad(TestRevival):
        config = keys

    with pytest.raises(UsageError, match=rf"active.acquisition.{message}"):
        Bad().plugin()


@pytest.mark.parametrize("preselect", [1, 0.3, True, "1", "ALL", [1], {}, {"budgets": 0.5}, {"share": 1.5}, {"budgets": 2, "share": 0.5}])
def test_a_preselection_that_is_none_is_one_line_with_what_is_valid(preselect):
    class Bad(TestRevival):
        config = {"preselect": preselect}

    with pytest.raises(UsageError) as raised:
        Bad().plugin()
    (line,) = str(raised.value).splitlines()
    assert "active.acquisition.preselect" in line and line.count("preselect") == 1
    assert "expected auto, all, {budgets: a number from 1} or {share: a number above 0, at most 1}" in line


def test_a_library_that_is_missing_is_said_before_anything_runs(monkeypatch):
    from usb_active.plugins.revival import backends

    def refuse(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    class Other(TestRevival):
        config = {"backend": "dgl"}

    monkeypatch.setattr(backends.importlib, "import_module", refuse)
    with pytest.raises(UsageError, match="backend: dgl cannot be imported .*dgl 1.1.3 goes with Python below 3.12"):
        Other().plugin().check(60, 3)


@pytest.mark.skipif(importlib.util.find_spec("torch_geometric") is None, reason="torch_geometric is not installed")
def test_another_backend_by_its_key_picks_the_same(tmp_path):
    world, picks = World(tmp_path), []
    for backend in ("torch", "torch_geometric"):

        class Other(TestRevival):
            config = {**SHORT, "backend": backend}

        picks.append(set(Other().pick(world, 6).tolist()))
    # Sums in another order: near equals may change places.
    assert len(picks[0] & picks[1]) >= 5
