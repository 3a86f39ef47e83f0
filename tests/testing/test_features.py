"""Every check of the suite for sources of features fails for a source that breaks its rule, and for that rule alone."""

from __future__ import annotations

import numpy as np
import pytest
from broken_plugins import Broken, UnderAnotherName, assert_complete, assert_fails, failing, suite_for

from usb_active.contracts.features import Encoder, Features, Kept
from usb_active.testing import FeaturesContract


def pixels(view):
    return np.concatenate([batch["x"][0].flatten(1).numpy() for batch in view.loader(np.arange(len(view)))])


class Sound(Features):
    """The pixels."""

    def get(self, view):
        return self.changed(pixels(view), view)

    def changed(self, x, view):
        return x


class Misnamed(UnderAnotherName, Sound):
    pass


class Doubles(Sound):
    def changed(self, x, view):
        return x.astype(np.float64)


class Flat(Sound):
    def changed(self, x, view):
        return 0 * x


class Numbered(Sound):
    """Remembers where a sample stands."""

    def changed(self, x, view):
        return x + np.arange(len(x), dtype=np.float32)[:, None]


class Normalized(Sound):
    """Centred by the batch."""

    def get(self, view):
        batches = (batch["x"][0].flatten(1).numpy() for batch in view.loader(np.arange(len(view))))
        return np.concatenate([x - x.mean(axis=0) if np.isfinite(x).all() else x for x in batches])


class Mending(Sound):
    def changed(self, x, view):
        return np.nan_to_num(x)


class Random(Sound):
    """Projected at random, each time again."""

    def changed(self, x, view):
        return (x @ np.random.default_rng().normal(size=(64, 8))).astype(np.float32)


class Global(Sound):
    def changed(self, x, view):
        np.random.rand()
        return x


class Centring(Sound):
    def get(self, view):
        view.dataset.images *= 0.999
        return pixels(view)


class LeftTraining(Sound):
    def get(self, view):
        if view._source.model() is not None:
            view.model.train()
        return pixels(view)


class Learning(Sound):
    def get(self, view):
        if view._source.model() is not None:
            view.model.classifier.weight.data.add_(1e-3)
        return pixels(view)


class Elsewhere(Sound):
    def kept(self, run_path, num_samples):
        return Kept(run_path / "nothing.npy", "nothing")


class Encoded(Sound):
    """Can be trained on."""

    def width(self, images):
        return 64

    def encoder(self, images, device):
        return Encoder(images.views.eval, lambda batch: batch.flatten(1), 8)

    def test(self, view):
        test = view.dataset.test
        return np.stack([test.load(row).ravel() for row in range(len(test))])


class Narrow(Encoded):
    def width(self, images):
        return 63


class Another(Encoded):
    """Makes other features of other images."""

    def encoder(self, images, device):
        return Encoder(images.views.weak, lambda batch: batch.flatten(1), 8)


class Backwards(Encoded):
    def test(self, view):
        return super().test(view)[::-1]


class Secret(Sound):
    """Needs the model, and does not say so."""

    def get(self, view):
        view.model_pass(["features"])
        return pixels(view)


class Demanding(Sound):
    """Needs what a pretrainer left, and does not say so."""

    def get(self, view):
        return self.changed(pixels(view), view) + 0 * len(view.pretrained_features)


class Modest(Sound):
    """Says that it needs more than it does."""

    follows_model = from_pretraining = True


ALL = [name for name in dir(FeaturesContract) if name.startswith("test_")]
AGAIN = ["test_rows_follow_the_samples", "test_the_batch_size_does_not_matter"]
BROKEN = [
    Broken("test_it_is_registered", Misnamed),
    Broken("test_a_finite_row_of_floats_for_each_sample", Doubles),
    Broken("test_rows_differ", Flat),
    Broken("test_rows_follow_the_samples", Numbered),
    Broken("test_the_batch_size_does_not_matter", Normalized, also=["test_rows_follow_the_samples"]),
    Broken("test_samples_that_are_not_finite_are_named", Mending),
    Broken("test_the_same_again", Random, also=AGAIN),
    Broken("test_it_leaves_the_global_generators_alone", Global),
    Broken("test_inputs_and_model_are_unchanged", Centring),
    Broken("test_inputs_and_model_are_unchanged", LeftTraining),
    Broken("test_inputs_and_model_are_unchanged", Learning),
    Broken("test_what_it_keeps_is_where_it_says", Elsewhere),
    Broken("test_width_is_that_of_the_rows", Narrow),
    Broken("test_other_images_get_the_same_features", Another),
    Broken("test_test_samples_are_as_those_of_the_pool", Backwards),
    Broken("test_it_says_whether_it_needs_the_model", Secret, also=["test_samples_that_are_not_finite_are_named"]),
    Broken("test_it_says_whether_it_needs_pretraining", Demanding, also=ALL),
    Broken("test_it_says_whether_it_needs_pretraining", Modest, also=["test_it_says_whether_it_needs_the_model"]),
]


def test_every_check_has_a_source_that_fails_it():
    assert_complete(FeaturesContract, BROKEN)


@pytest.mark.parametrize("one", BROKEN, ids=lambda one: one.id)
def test_a_broken_source_fails_its_check(one, tmp_path):
    assert_fails(FeaturesContract, one, tmp_path)


def test_a_sound_source_passes(tmp_path):
    assert not failing(suite_for(FeaturesContract, Sound, {}), tmp_path)


def test_a_sound_source_that_can_be_trained_on_passes(tmp_path):
    assert not failing(suite_for(FeaturesContract, Encoded, {}), tmp_path)
