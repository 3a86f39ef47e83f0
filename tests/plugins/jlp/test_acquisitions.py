"""jLP and CEAL as acquisitions: the contract, and what they pick."""

from __future__ import annotations

import numpy as np
import pytest

from usb_active.errors import UsageError
from usb_active.numerics.neighbors import affinity, normalize
from usb_active.testing import AcquisitionContract
from usb_active.testing.pool import CLASSES, PER_CLASS, World


class TestJointLabelPropagation(AcquisitionContract):
    name = "jlp"
    # Enough neighbours for a graph of one component: in others, what no label reaches is drawn.
    config = {"k": 40}

    @pytest.mark.parametrize("graph, gamma, alpha", [("mutual", 3.0, 0.99), ("sum", 1.0, 0.6)])
    def test_picks_are_those_of_solving_anew_for_every_pick(self, world, monkeypatch, graph, gamma, alpha):
        monkeypatch.setattr(type(self), "config", {"k": 40, "graph": graph, "gamma": gamma, "alpha": alpha})
        view = self.view(world, self.plugin())
        system = np.eye(60) - alpha * normalize(affinity(view.features, 40, gamma, graph)).toarray()
        labeled, expected = list(view.labeled), []
        for _ in range(6):
            reached = np.linalg.solve(system, np.isin(np.arange(60), labeled).astype(float))
            left = np.setdiff1d(view.candidates, expected)
            expected.append(int(left[np.argmin(reached[left])]))
            labeled.append(expected[-1])
        assert self.pick(world, 6).tolist() == expected

    def test_a_pool_smaller_than_the_neighbourhood(self, world):
        type(self).config, kept = {"k": 500}, self.config
        try:
            assert len(self.pick(world, 5)) == 5
        finally:
            type(self).config = kept


class TestCEAL(AcquisitionContract):
    name = "ceal"
    config = {"threshold": 0.8, "decay": 0.05}

    def test_picks_have_the_largest_entropy(self, world):
        probs = self.view(world, self.plugin()).probs[world.pool.candidates].astype(np.float64)
        entropy = [-sum(p * np.log(p) for p in row if p > 0) for row in probs]
        expected = world.pool.candidates[np.argsort(entropy)[::-1][:9]]
        assert self.pick(world, 9).tolist() == expected.tolist()

    @pytest.mark.parametrize("cycle", [1, 4])
    def test_the_surest_samples_get_the_models_own_label(self, world, cycle):
        plugin = self.plugin()
        view = self.view(world, plugin, cycle=cycle)
        idx, labels = plugin.pseudo_labels(view)
        expected = {}
        for i in world.pool.unlabeled.tolist():
            p = view.probs[i].astype(np.float64)
            # The threshold falls with every cycle, the first acquisition's has not fallen yet.
            if -(p * np.log(p)).sum() / np.log(CLASSES) < 0.8 - 0.05 * (cycle - 1):
                expected[i] = int(p.argmax())
        assert dict(zip(idx.tolist(), labels.tolist(), strict=True)) == expected
        assert 0 < len(expected) < len(world.pool.unlabeled)

    def test_how_many_and_how_right_is_logged(self, world):
        plugin = self.plugin()
        view = self.view(world, plugin)
        idx, labels = plugin.pseudo_labels(view)
        logged = view._source.metrics
        assert logged["pseudo_labels"] == len(idx)
        assert logged["pseudo_label_accuracy"] == pytest.approx((labels == idx // PER_CLASS).mean())

    def test_a_threshold_that_has_fallen_to_nothing(self, world):
        plugin = self.plugin()
        idx, labels = plugin.pseudo_labels(self.view(world, plugin, cycle=20))
        assert len(idx) == len(labels) == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [({"alpha": 1.0}, "alpha"), ({"graph": "both"}, "graph"), ({"k": 0}, "k"), ({"gamma": 0}, "gamma")],
)
def test_bad_keys_of_jlp(config, message):
    class Bad(TestJointLabelPropagation):
        pass

    Bad.config = config
    with pytest.raises(UsageError, match=rf"active.acquisition.{message}"):
        Bad().plugin()


@pytest.mark.parametrize("config", [{"threshold": 1.1}, {"threshold": -0.1}, {"decay": -1.0}])
def test_bad_keys_of_ceal(config):
    class Bad(TestCEAL):
        pass

    Bad.config = config
    with pytest.raises(UsageError, match="active.acquisition"):
        Bad().plugin()


def test_zero_features_are_named(tmp_path):
    """The cosine of a zero vector means nothing."""
    test = TestJointLabelPropagation()
    world = World(tmp_path, fresh=True)
    world.dataset.images[[3, 8]] = 0
    view = world.view({"features"}, test.source("pixels"), cycle=0, role="initial")
    with pytest.raises(UsageError, match="acquisition 'jlp': features: .* 3, 8"):
        test.plugin().select(view, 5)
