"""REVIVAL's prior: whose features, whose labels, and who has none."""

from __future__ import annotations

import numpy as np
import pytest
from usb_active.plugins.revival import functional
from usb_active.plugins.revival.functional import GcnSettings

from usb_active.errors import UsageError
from usb_active.testing.contract import made
from usb_active.testing.pool import PER_CLASS, World

KEYS = {"k": 8, "hidden": 8, "epochs": 20}
SETTINGS = GcnSettings(hidden=8, epochs=20)


def prior(**keys):
    return made("prior", {"name": "revival", **KEYS, **keys})


def view_of(world, plugin, features=None, cycle=1):
    view = world.view((), None, cycle=cycle, role="prior")
    view._needs = plugin.needs
    view._source.previous_features = lambda of: features
    return view


def features_of(size=60):
    rng = np.random.default_rng(1)
    return (np.eye(3)[np.arange(60) // PER_CLASS] + 0.3 * rng.standard_normal((60, 3)))[:size].astype(np.float32)


def test_a_start_takes_the_last_models_features_and_the_labels_of_now(tmp_path):
    world, plugin = World(tmp_path), prior()
    view = view_of(world, plugin, features_of())
    table = plugin.fit(view, "start")
    again = view_of(world, plugin)
    expected = functional.virtual_labels(features_of(), again.labeled, again.labels, 3, k=8, settings=SETTINGS, rng=again.rng)
    assert np.array_equal(table.probs, expected)
    free = view.unlabeled
    right = (table.probs.argmax(axis=1) == np.arange(60) // PER_CLASS)[free].mean()
    assert view._source.metrics["revival_prior/virtual_label_accuracy"] == pytest.approx(right) and right > 0.5


def test_samples_that_joined_since_have_no_prior_and_their_labels_do_not_count(tmp_path):
    world, plugin = World(tmp_path), prior()
    view = view_of(world, plugin, features_of(50))
    assert (view.labeled >= 50).any()
    table = plugin.fit(view, "start")
    assert not table.probs[50:].any() and np.allclose(table.probs[:50].sum(axis=1), 1, atol=1e-4)
    # What they would be counted as, the class of a row of zeros, is 0; they are of class 2.
    covered = view.unlabeled[view.unlabeled < 50]
    right = (table.probs.argmax(axis=1) == np.arange(60) // PER_CLASS)[covered].mean()
    assert len(covered) < len(view.unlabeled)
    assert view._source.metrics["revival_prior/virtual_label_accuracy"] == pytest.approx(right)


def test_a_class_whose_labels_all_joined_since_is_named(tmp_path, caplog):
    world, plugin = World(tmp_path), prior()
    plugin.fit(view_of(world, plugin, features_of(2 * PER_CLASS)), "start")
    assert "prior 'revival': cycle 1: no label yet of class 2" in caplog.text


def test_prior_and_acquisition_log_numbers_of_their_own(tmp_path):
    world = World(tmp_path)
    first = view_of(world, prior(), features_of()[::-1])
    prior().fit(first, "start")
    acquisition = made("acquisition", {"name": "revival", **KEYS})
    second = world.view(acquisition.needs, made("features", "model"), cycle=1)
    # As the two of a cycle, into one log.
    second._source.metrics = first._source.metrics
    before = first._source.metrics["revival_prior/virtual_label_accuracy"]
    acquisition.select(second, 5)
    logged = second._source.metrics
    assert logged["revival_prior/virtual_label_accuracy"] == before != logged["revival/virtual_label_accuracy"]


def test_the_first_training_and_one_without_labels_have_none(tmp_path):
    world, plugin = World(tmp_path / "1"), prior()
    assert plugin.fit(view_of(world, plugin, None, cycle=0), "start") is None
    assert plugin.fit(view_of(world, plugin, features_of()), "end") is None
    fresh = World(tmp_path / "2", fresh=True)
    assert plugin.fit(view_of(fresh, plugin, features_of()), "start") is None


def test_an_update_takes_the_model_in_training(tmp_path):
    world, plugin = World(tmp_path), prior()
    table = plugin.fit(view_of(world, plugin, features_of()), "step")
    other = view_of(world, plugin)
    features = other.model_pass(["features"])["features"]
    expected = functional.virtual_labels(features, other.labeled, other.labels, 3, k=8, settings=SETTINGS, rng=other.rng)
    assert np.array_equal(table.probs, expected)


def test_classes_without_a_label_are_named(tmp_path, caplog):
    world, plugin = World(tmp_path), prior()
    world.pool.labels[world.pool.labeled[world.pool.labeled // PER_CLASS == 2]] = -1
    plugin.fit(view_of(world, plugin, features_of()), "start")
    assert "prior 'revival': cycle 1: no label yet of class 2" in caplog.text


@pytest.mark.parametrize("keys", [{"k": 0}, {"weights": "none"}, {"epochs": 0}, {"epsilon": 1.0}])
def test_bad_keys_are_named(keys):
    with pytest.raises(UsageError, match=f"active.prior.{next(iter(keys))}"):
        prior(**keys)
