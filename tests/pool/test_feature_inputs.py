"""Samples as vectors: what a network that is trained on features sees."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from usb_active.contracts.dataset import Samples
from usb_active.errors import UsageError
from usb_active.pool.feature_inputs import LENGTH, STRONG_DROPOUT, WEAK_DROPOUT, FeatureInputs, FeatureViews
from usb_active.testing.pool import World

FEATURES = np.random.default_rng(0).normal(size=(60, 500)).astype(np.float32) + 2


@pytest.fixture
def images(tmp_path):
    dataset = World(tmp_path).dataset
    dataset.test = Samples(dataset.load, np.arange(6) % 3)
    return dataset


@pytest.fixture
def inputs(images):
    return FeatureInputs(images, 500, lambda: (FEATURES, FEATURES[:6] + 1, FEATURES.mean(axis=0)))


def test_labels_and_names_are_those_of_the_images(inputs, images):
    for name in ("keys", "targets", "queryable", "class_names", "task", "name", "num_classes"):
        assert getattr(inputs, name) is getattr(images, name) or getattr(inputs, name) == getattr(images, name), name
    assert len(inputs) == 60 and (inputs.img_size, inputs.in_channels) == (1, 500)
    assert np.array_equal(inputs.test.targets, images.test.targets)


def test_samples_are_rows(inputs):
    assert torch.equal(inputs.load(7), torch.from_numpy(FEATURES[7]))
    assert torch.equal(inputs.test.load(3), torch.from_numpy(FEATURES[3] + 1))


def test_they_are_made_when_they_are_wanted_and_again_for_a_pool_that_has_grown(images):
    asked = []

    def make():
        asked.append(len(images))
        return np.zeros((len(images), 2), np.float32), None, np.zeros(2)

    images.test = None
    inputs = FeatureInputs(images, 2, make)
    views = inputs.views
    assert not asked and inputs.test is None
    inputs.load(0), inputs.load(59)
    images.keys = [*images.keys, "blobs/060"]
    inputs.load(60)
    assert asked == [60, 61] and inputs.views is views


def test_features_of_another_shape_are_refused(images):
    inputs = FeatureInputs(images, 3, lambda: (np.zeros((60, 4), np.float32), None, np.zeros(4)))
    with pytest.raises(UsageError, match=r"expected features of shape \(60, 3\), got \(60, 4\)"):
        inputs.need()
    with pytest.raises(UsageError, match="active.train_on: features: there are none yet"):
        FeatureInputs(images, 3).load(0)


def test_they_travel_to_processes_that_load(inputs, images, tmp_path):
    np.save(tmp_path / "pool.npy", FEATURES)
    mapped = np.load(tmp_path / "pool.npy", mmap_mode="r")
    for pool in (FEATURES, mapped):
        inputs = FeatureInputs(images, 500, lambda pool=pool: (pool, None, FEATURES.mean(axis=0)))
        inputs.need()
        data = pickle.dumps([inputs.views.eval, inputs])
        view, arrived = pickle.loads(data)
        assert torch.equal(view(arrived.load(5)), inputs.views.eval(inputs.load(5)))
    # The whole of it is in a file, and is mapped there.
    assert len(data) < FEATURES.nbytes / 2


# ------------------------------------------------------------------------------------------------- views
def test_the_evaluation_view_is_centred_and_of_one_length():
    views = FeatureViews()
    views.center(FEATURES.mean(axis=0))
    rows = torch.stack([views.eval(torch.from_numpy(row)) for row in FEATURES])
    expected = FEATURES - FEATURES.mean(axis=0)
    expected *= LENGTH / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)
    assert not views.eval(torch.from_numpy(FEATURES.mean(axis=0))).any()


@pytest.mark.parametrize(("name", "share"), [("weak", WEAK_DROPOUT), ("strong", STRONG_DROPOUT)])
def test_the_other_views_leave_features_out(name, share):
    views = FeatureViews()
    views.center(np.zeros(500))
    torch.manual_seed(0)
    row = torch.from_numpy(FEATURES[0])
    seen = torch.stack([getattr(views, name)(row) for _ in range(200)])
    whole = views.eval(row)
    assert (seen == 0).float().mean().item() == pytest.approx(share, abs=0.01)
    # What is left is scaled up by as much, so that the mean stays.
    np.testing.assert_allclose(seen[seen != 0], (whole / (1 - share)).expand(200, -1)[seen != 0], rtol=1e-5)
