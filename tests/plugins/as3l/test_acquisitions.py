"""AS3L's selection, K-medoids and TypiClust as plugins: the contract, what each picks, and what is kept with the run."""

from __future__ import annotations

import numpy as np
import pytest
from usb_active.plugins.as3l import functional

from usb_active.testing import AcquisitionContract
from usb_active.testing.pool import CLASSES, PER_CLASS, World, made_images


def artifacts(world: World) -> dict[str, np.ndarray]:
    """What the run has kept, by name."""
    return {path.name: np.load(path) for path in sorted((world.folder / "artifacts").glob("as3l_*"))}


class ClusterContract(AcquisitionContract):
    deterministic = False

    def test_every_class_is_picked_from_where_classes_are_clusters(self, tmp_path):
        # Much farther apart than the images of the suite; nothing is labelled yet, and every class has its pick.
        means = made_images().reshape(CLASSES, PER_CLASS, 8, 8).mean(axis=1)
        images = np.float32(0.2) * made_images() + 4 * means.repeat(PER_CLASS, axis=0)
        world = World(tmp_path, images, fresh=True)
        for seed in range(5):
            view = world.view({"features"}, self.source("pixels"), cycle=0, seed=seed, role="initial")
            assert sorted(self.plugin().select(view, CLASSES) // PER_CLASS) == list(range(CLASSES))

    def test_the_truth_is_for_the_log_alone(self, world):
        view = self.view(world, self.plugin())
        picks = self.plugin().select(view, 7)
        # The six labelled samples are of all three classes.
        assert view._source.metrics["class_coverage"] == CLASSES
        world.dataset.targets = np.roll(world.dataset.targets, 20)
        assert self.pick(world, 7).tolist() == picks.tolist()


class TestAS3L(ClusterContract):
    name = "as3l"

    def test_it_is_the_selection_on_the_fine_tuned_features(self, world):
        picks = self.pick(world, 7)
        features = self.view(world, self.plugin()).features
        fresh = self.view(world, self.plugin())
        # Six labels and seven picks: thirteen clusters.
        tuned = functional.fine_tune(features, 13, rng=fresh.rng.spawn(1)[0])
        rest = {"labeled": fresh.labeled, "candidates": fresh.candidates, "rng": fresh.rng}
        assert picks.tolist() == functional.select(tuned, 7, **rest).tolist()

    def test_what_was_kept_before_a_kill_changes_nothing(self, world):
        # As after a kill between the layer and the picks: the second time the layer is there already.
        first = self.pick(world, 7)
        kept = artifacts(world)
        assert len(kept) == 2
        assert self.pick(world, 7).tolist() == first.tolist()
        assert artifacts(world).keys() == kept.keys()

    def test_a_layer_belongs_to_the_features_it_was_made_from(self, world):
        self.pick(world, 7)
        before = set(artifacts(world))
        world.net.classifier.weight.data.mul_(2)
        assert self.pick(world, 7).size and set(artifacts(world)) == before
        # Other features: a trained model's.
        for parameter in world.net.parameters():
            parameter.data.mul_(1.5)
        self.pick(world, 7)
        # Their number of clusters, and their layer.
        assert len(set(artifacts(world)) - before) == 2

    def test_one_pick_without_labels_needs_no_layer(self, tmp_path):
        world = World(tmp_path, fresh=True)
        view = world.view({"features"}, self.source("pixels"), cycle=0, role="initial")
        self.plugin().select(view, 1)
        assert [name.rpartition("_")[0] for name in artifacts(world)] == ["as3l_clusters_000"]


class TestAS3LOnFeaturesAsTheyAre(ClusterContract):
    name = "as3l"
    config = {"fine_tune": False, "clusterings": 2}

    def test_nothing_is_kept(self, world):
        self.pick(world, 7)
        assert not artifacts(world)


class TestKMedoids(ClusterContract):
    name = "kmedoids"

    def test_it_is_as3l_with_one_clustering_and_no_fine_tuning(self, world):
        class Single(TestAS3L):
            config = {"fine_tune": False, "clusterings": 1}

        assert self.pick(world, 9).tolist() == Single().pick(world, 9).tolist()


class TestTypiClust(ClusterContract):
    name = "typiclust"

    def test_few_clusters_take_turns(self, world):
        class Two(TestTypiClust):
            config = {"max_clusters": 2, "neighbors": 3}

        assert len(set(Two().pick(world, 9).tolist())) == 9


@pytest.mark.parametrize("name", ["as3l", "kmedoids", "typiclust"])
def test_errors_of_the_arithmetic_name_the_plugin(tmp_path, name):
    class Contract(ClusterContract):
        pass

    contract, world = Contract(), World(tmp_path)
    contract.name = name
    plugin = contract.plugin()
    with pytest.raises(ValueError, match=f"acquisition '{name}': budget: 46, expected an integer from 1 to the 45 candidates"):
        plugin.select(contract.view(world, plugin), 46)
